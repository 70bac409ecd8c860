//! A `btauth/1` request: what proves its caller and its body in one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, StatusCode, request::Parts};
use schwann::RequestBody;
use tracing::error;

use super::{
    pipeline::{Exchange, json_type, listed, parse_object},
    refusal::Refusal,
};
use crate::{
    btauth,
    caller::{Caller, Protocol, Verify},
    nonce::NonceError,
    python::Dict,
    route::Route,
    synapse::Envelope,
};

impl Exchange<'_> {
    /// `btauth/1`, whole: its signature covers the body, so the body comes first (specification §17).
    #[allow(clippy::too_many_arguments, reason = "they are the request, taken apart once")]
    pub(super) async fn open_btauth(
        &mut self,
        route: &Route,
        verify: Verify,
        head: &Parts,
        body: RequestBody,
        ip: IpAddr,
        port: u16,
        limit: Duration,
    ) -> Result<(Caller, Dict, Option<String>, Option<Envelope>), Refusal> {
        let axon = self.axon;
        let now = (axon.clock)();
        if let Some(twice) =
            BTAUTH_HEADERS.iter().find(|name| head.headers.get_all(*name).iter().count() > 1)
        {
            return Err(Refusal::twice(twice.as_str()));
        }
        let pairs = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let refused = |error: btauth::AuthError| match error {
            btauth::AuthError::Refused(NonceError::Unavailable(_)) => {
                error!(target: "schwann::axon", %error, "nonces cannot be kept: nothing is served");
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            error => Refusal::new(StatusCode::UNAUTHORIZED, format!("{}: {error}", error.name())),
        };
        let claim = axon.btauth.open(pairs, &axon.address, now).map_err(refused)?;
        if let Some(hotkey) = claim.hotkey() {
            self.caller = Some(hotkey);
            self.read = true;
            listed(route, &hotkey)?;
        }
        json_type(&head.headers, verify)?;
        let timeout = head.headers.get("timeout").and_then(|text| text.to_str().ok());
        let timeout = timeout.and_then(crate::python::parse_python_float);
        let timeout = timeout.filter(|timeout| timeout.is_finite() && *timeout > 0.0);
        let timeout = timeout.map_or(limit, |timeout| {
            Duration::try_from_secs_f64(timeout).map_or(limit, |timeout| timeout.min(limit))
        });
        let bytes = self.read(body, &axon.unproven, self.started + timeout, timeout).await?;
        let sha256 = btauth::body_sha256(&bytes);
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        // The body took its time: freshness was judged when the head came, the nonce is used up now.
        let now = (axon.clock)();
        let verified = axon
            .btauth
            .admit(&claim, head.method.as_str(), target, &sha256, &axon.address, now)
            .map_err(refused)?;
        let caller = Caller {
            hotkey: verified.hotkey,
            verified: true,
            ip,
            port,
            protocol: Protocol::BtAuth1,
            timeout,
            version: None,
            uuid: None,
            nonce: verified.nonce,
            body_covered: true,
            headers: Arc::default(),
            exchange: Arc::clone(&self.tally),
        };
        // A signature is no way around what the route itself asks of its callers.
        self.verify_with(route, &caller).await?;
        self.blacklist(route, &caller).await?;
        if let Some(key) = claim.key() {
            axon.keys.served(key);
        }
        let mut body = parse_object(&bytes, verify)?;
        // W1, as with v10: a handler that looks for its caller here must not find what anybody wrote.
        let terminal =
            |field: &str| matches!(field, "dendrite" | "axon") && !route.endpoint.redefines(field);
        if body.keys().any(terminal) {
            self.axon.metrics.spoofed();
            body.retain(|field, _| !terminal(field));
        }
        Ok((caller, body, None, None))
    }
}

pub(super) const BTAUTH_VERSION: HeaderName = HeaderName::from_static("x-bittensor-version");

const BTAUTH_HEADERS: [HeaderName; 6] = [
    BTAUTH_VERSION,
    HeaderName::from_static("x-bittensor-hotkey"),
    HeaderName::from_static("x-bittensor-nonce"),
    HeaderName::from_static("x-bittensor-signature"),
    HeaderName::from_static("x-bittensor-receiver"),
    HeaderName::from_static("x-bittensor-crypto"),
];
