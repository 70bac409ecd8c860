//! A v10 request: what proves its caller, and its body.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode, request::Parts};
use schwann::RequestBody;
use sha2::{Digest, Sha256};
use tracing::{debug, error};

use super::{
    pipeline::{EMPTY_HASH, Exchange, json_type, listed, parse_object},
    refusal::Refusal,
};
use crate::{
    caller::{BOUND_SIGNATURE_HEADER, Bound, Caller, Protocol, Verify, bound_message},
    headers::{parse_like_reference, parse_strict},
    keys::{BytesWrapping, Scheme, parse_signature_hex},
    nonce::{Fresh, NonceError},
    python::{Dict, Int},
    route::Route,
    synapse::Envelope,
};

/// What is known of a v10 request once it is verified.
pub(super) struct Signed {
    caller: Caller,
    /// The hash that was signed, if the body is to be compared with it.
    hash: Option<String>,
    /// A bound signature that waits for the body.
    bound: Option<BoundClaim>,
}

struct BoundClaim {
    message: String,
    signature: [u8; 64],
    timeout: String,
}

impl BoundClaim {
    /// The bound signature of these headers, if there is one. Its v10 message is not known yet.
    fn of(head: &Parts, verify: Verify) -> Result<Option<Self>, Refusal> {
        let mut claims = head.headers.get_all(BOUND_SIGNATURE_HEADER).iter();
        let Some(claim) = claims.next() else { return Ok(None) };
        // What is signed is one timeout, and the reference takes the first or the last of several.
        let mut timeouts = head.headers.get_all("timeout").iter();
        let timeout = timeouts.next().map_or(&b""[..], HeaderValue::as_bytes);
        if claims.next().is_some() || timeouts.next().is_some() {
            let text = format!("`{BOUND_SIGNATURE_HEADER}` and `timeout` may come once only");
            return Err(Refusal::malformed(verify, format!("Malformed request: {text}")));
        }
        let signature = claim.to_str().ok().and_then(|text| parse_signature_hex(text).ok());
        let signature = signature.ok_or_else(|| Refusal::unverified("Signature mismatch"))?;
        let timeout = String::from_utf8_lossy(timeout).into_owned();
        Ok(Some(Self { message: String::new(), signature, timeout }))
    }
}

/// What a v10 caller signs (specification §6.1).
fn v10_message(
    nonce: &str,
    caller: &str,
    axon: &str,
    uuid: Option<&str>,
    hash: Option<&str>,
) -> String {
    [nonce, caller, axon, uuid.unwrap_or("None"), hash.unwrap_or("None")].join(".")
}

impl Exchange<'_> {
    /// v10, up to the point where the caller is proven and admitted (specification §7, §8).
    pub(super) async fn verify_v10(
        &mut self,
        route: &Route,
        verify: Verify,
        head: &Parts,
        ip: IpAddr,
        port: u16,
        limit: Duration,
    ) -> Result<Signed, Refusal> {
        let axon = self.axon;
        let pairs = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let reference = verify == Verify::LikeReference;
        let parsed = if reference { parse_like_reference(pairs) } else { parse_strict(pairs) };
        let parsed = parsed
            .map_err(|error| Refusal::malformed(verify, format!("Malformed request: {error}")))?;
        self.timeout = parsed.timeout;
        self.read = true;
        let now = (axon.clock)();
        let headers = Arc::new(parsed);
        let dendrite = &headers.dendrite;

        let claimed = dendrite.hotkey.as_deref();
        // Cheap and before any cryptography: naming a refused hotkey is enough to be refused.
        let hotkey = match claimed {
            Some(text) => axon.keys.resolve(Scheme::Sr25519, text),
            None => {
                return Err(Refusal::unverified(
                    "No SS58 formatted address or public key provided.",
                ));
            }
        };
        let key = match hotkey {
            Ok(key) => key,
            Err(error) => return Err(Refusal::unverified(&error.to_string())),
        };
        let text = claimed.unwrap_or_default();
        self.caller = Some(key.hotkey());
        listed(route, &key.hotkey())?;

        let timeout = headers.timeout.filter(|timeout| timeout.is_finite() && *timeout > 0.0);
        let timeout = timeout.map_or(limit, |timeout| {
            Duration::try_from_secs_f64(timeout).map_or(limit, |timeout| timeout.min(limit))
        });
        let mut caller = Caller {
            hotkey: key.hotkey(),
            verified: false,
            ip,
            port,
            protocol: Protocol::V10,
            timeout,
            version: dendrite.version,
            uuid: dendrite.uuid.clone(),
            nonce: dendrite.nonce.as_ref().and_then(Int::to_u64).unwrap_or_default(),
            body_covered: false,
            headers: Arc::clone(&headers),
            exchange: Arc::clone(&self.tally),
        };
        if reference {
            self.blacklist(route, &caller).await?;
        }
        if verify == Verify::BtAuth1 && route.verify_with.is_none() {
            return Err(Refusal::unverified("this axon takes btauth/1 only"));
        }
        // Whatever else verifies, or a hook instead.
        let mut bound = match (&route.verify_with, verify) {
            (None, Verify::Nothing) => None,
            _ => BoundClaim::of(head, verify)?,
        };
        if bound.is_none() && route.bound.unwrap_or(axon.bound) == Bound::Required {
            return Err(Refusal::unverified("a bound signature is required here"));
        }
        let uuid = dendrite.uuid.as_deref();
        let hash = headers.computed_body_hash.as_deref();
        if let Some(claim) = &mut bound {
            let nonce = dendrite.nonce.as_ref().map_or_else(|| "None".to_owned(), Int::to_string);
            claim.message = v10_message(&nonce, text, &axon.address, uuid, hash);
        }
        match (&route.verify_with, verify) {
            (Some(_), _) => {
                self.verify_with(route, &caller).await?;
                caller.verified = true;
            }
            (None, Verify::Nothing) => {}
            (None, _) => {
                let nonce = dendrite.nonce.as_ref();
                let nonce = nonce.ok_or_else(|| Refusal::unverified("Missing Nonce"))?;
                let count = nonce.to_i128();
                let far = || Refusal::unverified("Nonce is out of range");
                let count = count.ok_or_else(far)?;
                let fresh = if reference {
                    let version = dendrite.version.map(i128::from);
                    axon.reference_nonces
                        .check(text, uuid, count, headers.timeout, version, now)
                        .map_err(|error| Refusal::unverified(&error.to_string()))?;
                    None
                } else {
                    let fresh = axon.freshness.check(count, headers.timeout, now);
                    Some(fresh.map_err(|error| Refusal::unverified(&error.to_string()))?)
                };
                let signature = dendrite.signature.as_deref().filter(|text| !text.is_empty());
                let signature =
                    signature.ok_or_else(|| Refusal::unverified("Missing Signature"))?;
                let signature = parse_signature_hex(signature)
                    .map_err(|error| Refusal::unverified(&error.to_string()))?;
                let message = v10_message(&nonce.to_string(), text, &axon.address, uuid, hash);
                // What a wallet in a browser signs for people, no neuron sends. To look for it would make a forged
                // signature twice as dear as a good one.
                let wrapping =
                    if reference { BytesWrapping::Accept } else { BytesWrapping::Refuse };
                let mismatch = || Refusal::unverified("Signature mismatch");
                if !key.verify_wrapped(message.as_bytes(), &signature, wrapping) {
                    return Err(mismatch());
                }
                axon.keys.keep(text, &key);
                let admit = |fresh: Fresh| {
                    let lane = uuid.unwrap_or("None");
                    axon.nonces.admit(&key.hotkey(), lane, fresh.nonce, now, fresh.expires_ns)
                };
                let admitted = match fresh {
                    Some(fresh) if axon.mixed => {
                        admit(fresh).and_then(|()| axon.reference_nonces.raise(text, uuid, count))
                    }
                    Some(fresh) => admit(fresh),
                    // What one kind of route admitted must be used up for the other kind too (W6): the hardened ones
                    // take no nonce that is old, and here, beside them, none is taken that is fresh to them later.
                    None if axon.mixed => match axon.freshness.check(count, headers.timeout, now) {
                        Ok(fresh) => admit(fresh),
                        Err(error @ NonceError::FromFuture { .. }) => Err(error),
                        Err(_) => Ok(()),
                    }
                    .and_then(|()| axon.reference_nonces.store(text, uuid, count)),
                    None => axon.reference_nonces.store(text, uuid, count),
                };
                admitted.map_err(|error| match error {
                    NonceError::Unavailable(_) => {
                        error!(target: "schwann::axon", %error, "nonces cannot be kept: nothing is served");
                        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
                    }
                    error => Refusal::unverified(&error.to_string()),
                })?;
                caller.verified = true;
            }
        }
        if !reference {
            self.blacklist(route, &caller).await?;
        }
        if caller.verified && route.verify_with.is_none() {
            axon.keys.served(&key);
        }
        // A hash that was not signed, or that no one sent, is compared all the same: an honest caller's agrees.
        let hash = match (&headers.computed_body_hash, verify) {
            (Some(hash), _) => Some(hash.clone()),
            (None, Verify::Nothing) => None,
            (None, _) => Some(String::new()),
        };
        // A hook of the route's own may have proven anything; that the hash was signed is only known of a signature.
        caller.body_covered = caller.verified
            && route.verify_with.is_none()
            && hash.as_deref().is_some_and(|hash| hash != *EMPTY_HASH);
        Ok(Signed { caller, hash, bound })
    }

    /// The body of a request whose caller is proven, as the envelope and the fields of its own.
    pub(super) async fn read_v10(
        &mut self,
        route: &Route,
        verify: Verify,
        head: &Parts,
        body: RequestBody,
        signed: Signed,
    ) -> Result<(Caller, Dict, Option<String>, Option<Envelope>), Refusal> {
        let Signed { mut caller, mut hash, bound } = signed;
        json_type(&head.headers, verify)?;
        let deadline = self.started + caller.timeout;
        let bytes = self.read(body, &self.axon.arriving, deadline, caller.timeout).await?;
        if let Some(claim) = bound {
            let sha256: [u8; 32] = Sha256::digest(&bytes).into();
            let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
            let message = bound_message(
                &claim.message,
                head.method.as_str(),
                target,
                &claim.timeout,
                &sha256,
            );
            let text = caller.headers.dendrite.hotkey.as_deref().unwrap_or_default();
            let key = self.axon.keys.resolve(Scheme::Sr25519, text);
            let good = key.is_ok_and(|key| key.verify(message.as_bytes(), &claim.signature));
            if !good {
                return Err(Refusal::unverified("Signature mismatch"));
            }
            caller.body_covered = true;
        }
        let body = parse_object(&bytes, verify)?;
        let redefines = |base: &str| route.endpoint.redefines(base);
        let (envelope, own) = Envelope::split(body, redefines).map_err(|error| {
            Refusal::malformed(verify, format!("The body does not fit a synapse: {error}"))
        })?;
        if verify == Verify::Nothing && caller.headers.computed_body_hash.is_none() {
            hash = None;
        }
        // W1: the body's terminals are anybody's writing. What the headers proved takes their place in the answer.
        let said = envelope.dendrite.hotkey.as_deref();
        if said.is_some() && said != caller.headers.dendrite.hotkey.as_deref() {
            self.axon.metrics.spoofed();
            debug!(target: "schwann::axon", synapse = &*self.name, caller = %caller.hotkey, "the body names another hotkey");
        }
        Ok((caller, own, hash, Some(envelope)))
    }
}
