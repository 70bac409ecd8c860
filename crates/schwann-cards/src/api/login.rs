//! Logging in and out.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{FromRequest as _, Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{Message, users::UserPublic},
    app::App,
    input::{Fields, Form, Read, text},
    moment::Moment,
    password::{random_secret, token_hash},
    problem::Problem,
    signed_in::{COOKIE, SignedIn, client_address, is_secure, same_site, too_often},
    store::{Scopes, Token as StoredToken, TokenKind},
};

/// The form of a log-in, as OAuth2 has it.
#[derive(Debug, ToSchema)]
#[schema(as = Body_login_access_token)]
pub(crate) struct LogIn {
    /// The email.
    username: String,
    #[schema(format = Password)]
    password: String,
}

impl Read for LogIn {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let username = fields.required("username", text(1, 255));
        let password = fields.required("password", text(1, 128));
        Some(Self { username: username?, password: password? })
    }
}

/// What to send in `Authorization: Bearer …` from now on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Token {
    access_token: String,
    /// `bearer`
    token_type: &'static str,
}

/// Logs in. The answer also sets a cookie, which is what the page uses.
#[utoipa::path(
    post,
    path = "/login/access-token",
    tag = "login",
    operation_id = "login-login_access_token",
    security(()),
    request_body(content = LogIn, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, body = Token),
        (status = 400, body = crate::problem::ProblemBody, description = "Wrong email or password, or the user is not active."),
        (status = 403, body = crate::problem::ProblemBody, description = "The request comes from another site."),
    )
)]
pub(crate) async fn login_access_token(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    // Another site must not log a browser in as somebody else.
    if parts.headers.contains_key("sec-fetch-site") || parts.headers.contains_key(header::ORIGIN) {
        same_site(&parts.headers)?;
    }
    let (address, secure) = (client_address(&parts, &app), is_secure(&parts, &app));
    let Form(wanted) = Form::<LogIn>::from_request(Request::from_parts(parts, body), &app).await?;
    let email = wanted.username.trim().to_lowercase();
    let now = Instant::now();
    app.logins.take(&format!("address {address}"), now).map_err(too_often)?;
    app.logins.take(&format!("email {email}"), now).map_err(too_often)?;

    let (user, hash) = app.store.user_by_email(&email).await?.unzip();
    // Compared in any case, so that the time says nothing about whether there is such a user.
    let matches = app.passwords.matches(wanted.password, hash).await?;
    let Some(user) = user.filter(|_| matches) else {
        return Err(Problem::bad_request("wrong_credentials", "Incorrect email or password"));
    };
    if !user.is_active {
        return Err(Problem::bad_request("inactive_user", "Inactive user"));
    }
    let secret = random_secret("cs_").map_err(Problem::internal)?;
    let now = Moment::now();
    let session = app.settings.session.duration();
    let token = StoredToken {
        id: Uuid::new_v4(),
        user_id: user.id,
        kind: TokenKind::Session,
        name: String::new(),
        scopes: Scopes::ALL,
        created_at: now,
        expires_at: Some(now.after(session)),
        last_used_at: None,
    };
    app.store.add_token(&token, &token_hash(&secret)).await?;
    let cookie = cookie(&secret, session.as_secs(), secure);
    let token = Token { access_token: secret, token_type: "bearer" };
    Ok(([(header::SET_COOKIE, cookie), (header::CACHE_CONTROL, no_store())], Json(token))
        .into_response())
}

/// Who the token is of.
#[utoipa::path(
    post,
    path = "/login/test-token",
    tag = "login",
    operation_id = "login-test_token",
    responses((status = 200, body = UserPublic))
)]
pub(crate) async fn test_token(signed_in: SignedIn) -> Json<UserPublic> {
    Json(signed_in.user.into())
}

/// Ends the session, or the API token, with which this is asked, and removes the cookie.
#[utoipa::path(
    post,
    path = "/login/logout",
    tag = "login",
    operation_id = "login-logout",
    responses((status = 200, body = Message))
)]
pub(crate) async fn logout(
    State(app): State<Arc<App>>,
    signed_in: SignedIn,
) -> Result<Response, Problem> {
    app.store.delete_token(signed_in.user.id, signed_in.token.id).await?;
    let cookie = cookie("", 0, false);
    Ok(([(header::SET_COOKIE, cookie)], Message::new("Logged out")).into_response())
}

fn cookie(secret: &str, seconds: u64, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!(
        "{COOKIE}={secret}; Path=/api; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
    );
    HeaderValue::try_from(text).expect("plain ASCII")
}

fn no_store() -> HeaderValue {
    HeaderValue::from_static("no-store")
}
