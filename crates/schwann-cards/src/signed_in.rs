//! Who a request is from.
//!
//! A token comes in `Authorization: Bearer …`, or, for the page, in a cookie that scripts cannot read and other sites cannot send.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::extract::FromRequestParts;
use http::{HeaderMap, Uri, header, request::Parts};

use crate::{
    app::App,
    moment::Moment,
    password::token_hash,
    problem::Problem,
    store::{Scope, Token, TokenKind, User},
};

/// The cookie of the page.
pub(crate) const COOKIE: &str = "schwann_session";

/// A user with a good token whose scopes suffice: `read` for GET and HEAD, `write` for all else.
#[derive(Clone, Debug)]
pub(crate) struct SignedIn {
    pub(crate) user: User,
    pub(crate) token: Token,
}

/// As [`SignedIn`], but what is needed is the scope `run`.
#[derive(Clone, Debug)]
pub(crate) struct MayRun(pub(crate) SignedIn);

/// As [`SignedIn`], by logging in and not by an API token: for what changes an account.
#[derive(Clone, Debug)]
pub(crate) struct LoggedIn(pub(crate) SignedIn);

/// As [`LoggedIn`], and a superuser.
#[derive(Clone, Debug)]
pub(crate) struct Superuser(pub(crate) SignedIn);

/// The other end of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) Option<SocketAddr>);

impl FromRequestParts<Arc<App>> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let scope = if parts.method.is_safe() { Scope::Read } else { Scope::Write };
        who(parts, app, scope).await
    }
}

impl FromRequestParts<Arc<App>> for MayRun {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        who(parts, app, Scope::Run).await.map(Self)
    }
}

impl FromRequestParts<Arc<App>> for LoggedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let signed_in = SignedIn::from_request_parts(parts, app).await?;
        match signed_in.token.kind {
            TokenKind::Session => Ok(Self(signed_in)),
            TokenKind::Api => {
                Err(Problem::forbidden("session_required", "An API token cannot do this; log in"))
            }
        }
    }
}

impl FromRequestParts<Arc<App>> for Superuser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let LoggedIn(signed_in) = LoggedIn::from_request_parts(parts, app).await?;
        if !signed_in.user.is_superuser {
            return Err(Problem::forbidden(
                "not_superuser",
                "The user doesn't have enough privileges",
            ));
        }
        Ok(Self(signed_in))
    }
}

async fn who(parts: &mut Parts, app: &Arc<App>, scope: Scope) -> Result<SignedIn, Problem> {
    // Extractors may ask twice.
    let known = parts.extensions.get::<SignedIn>().cloned();
    let signed_in = match known {
        Some(signed_in) => signed_in,
        None => {
            let signed_in = by_token(parts, app).await?;
            parts.extensions.insert(signed_in.clone());
            signed_in
        }
    };
    if !signed_in.token.scopes.has(scope) {
        let word = match scope {
            Scope::Read => "read",
            Scope::Run => "run",
            Scope::Write => "write",
        };
        return Err(Problem::forbidden("scope", format!("This token lacks the scope `{word}`")));
    }
    Ok(signed_in)
}

async fn by_token(parts: &Parts, app: &Arc<App>) -> Result<SignedIn, Problem> {
    let address = client_address(parts, app);
    let by_header = bearer(&parts.headers);
    let secret = match (by_header, cookie(&parts.headers)) {
        (Some(secret), _) => secret,
        (None, Some(secret)) => {
            if !parts.method.is_safe() {
                same_site(&parts.headers)?;
            }
            secret
        }
        (None, None) => {
            app.requests.take(&format!("address {address}"), Instant::now()).map_err(too_often)?;
            return Err(Problem::not_authenticated());
        }
    };
    let now = Moment::now();
    let Some((token, user)) = app.store.token(&token_hash(secret), now).await? else {
        app.requests.take(&format!("address {address}"), Instant::now()).map_err(too_often)?;
        return Err(Problem::forbidden("invalid_token", "Could not validate credentials"));
    };
    app.requests.take(&format!("user {}", user.id), Instant::now()).map_err(too_often)?;
    if !user.is_active {
        return Err(Problem::bad_request("inactive_user", "Inactive user"));
    }
    let last = token.last_used_at.map_or(0, Moment::millis);
    if now.millis() - last > 60_000 {
        app.store.touch_token(token.id, now).await?;
    }
    Ok(SignedIn { user, token })
}

pub(crate) fn too_often(seconds: u64) -> Problem {
    Problem::too_many("rate_limit", "Too many requests; try again later", seconds)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs =
        lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
        .filter(|value| !value.is_empty())
}

/// Refuses what another site made a browser send.
///
/// The cookie is `SameSite=Strict` already; this also holds for sites on other ports of the same host, which count as the same site.
pub(crate) fn same_site(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let own = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin" || site == "none",
        (None, Some(origin)) => {
            let origin = origin.parse::<Uri>().ok();
            let authority = origin.as_ref().and_then(Uri::authority).map(|a| a.as_str());
            authority.is_some() && authority == text("host")
        }
        // Every browser sends one of them with a request that changes something.
        (None, None) => false,
    };
    if own {
        return Ok(());
    }
    Err(Problem::forbidden(
        "cross_site",
        "This request comes from another site; send the token in Authorization instead of the cookie",
    ))
}

/// The address of who asks: of the connection, or what the nearest proxy that is not ours says.
pub(crate) fn client_address(parts: &Parts, app: &App) -> IpAddr {
    let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.0);
    let mut address = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip().to_canonical());
    let lines =
        parts.headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok());
    let mut hops: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    while app.settings.trusted_proxies.contains(&address)
        && let Some(hop) = hops.pop()
        && let Ok(hop) = hop.parse::<IpAddr>()
    {
        address = hop.to_canonical();
    }
    address
}

/// Whether the client reaches us by TLS, as far as a trusted proxy says.
pub(crate) fn is_secure(parts: &Parts, app: &App) -> bool {
    let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.0);
    let trusted =
        peer.is_some_and(|p| app.settings.trusted_proxies.contains(&p.ip().to_canonical()));
    let scheme = parts.headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    trusted && scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}
