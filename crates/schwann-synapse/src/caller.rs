//! Who calls, and what is decided about it.

use std::{net::IpAddr, sync::Arc, time::Duration};

pub use crate::dendrite::Protocol;
use crate::{axon::Tally, headers::SynapseHeaders, ss58::Hotkey};

/// Who calls, the same whichever protocol the request spoke.
///
/// All of it comes from the verified headers and the connection, never from the body: in the reference, handlers see the
/// body's hotkey, which anybody may write (specification §16, W1).
#[derive(Clone, Debug)]
pub struct Caller {
    /// The caller's hotkey. Proven, unless [`verified`](Self::verified) says otherwise.
    pub hotkey: Hotkey,
    /// Whether a signature over this request by `hotkey` was checked, and its nonce was fresh and unused.
    pub verified: bool,
    /// The address of the connection, or the one a trusted proxy named.
    pub ip: IpAddr,
    /// The port of the connection; 0 behind a trusted proxy.
    pub port: u16,
    /// Which protocol the request spoke.
    pub protocol: Protocol,
    /// How long the answer is waited for: the smaller of the caller's wish and the axon's limit.
    pub timeout: Duration,
    /// The caller's SDK version, as it says.
    pub version: Option<i64>,
    /// The caller's uuid, which names its dendrite or lane; signed.
    pub uuid: Option<String>,
    /// The nonce: nanoseconds since 1970 by the caller's clock; signed.
    pub nonce: u64,
    /// Whether the signature covers the body: always with `btauth/1`; with v10 only the hashed fields, if there are any, or
    /// all of it if the request carries a bound signature. After [`verify_with`](crate::route::Route::verify_with) only
    /// with a bound signature, since nobody knows what the hook has checked.
    pub body_covered: bool,
    /// The synapse headers as the caller sent them; empty with `btauth/1`. Unproven, apart from what is above.
    pub headers: Arc<SynapseHeaders>,
    pub(crate) exchange: Arc<Tally>,
}

impl Caller {
    /// Whether nobody waits for the answer any more: the caller left, or the deadline passed.
    ///
    /// A synchronous handler cannot be stopped from outside, so it should ask this between its steps. Others are dropped
    /// at that moment and need not.
    pub fn gave_up(&self) -> bool {
        self.exchange.over()
    }
}

/// What a blacklist says of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call goes on.
    Admit,
    /// The call ends with 403. The reason is told to the caller.
    Refuse(String),
}

impl Verdict {
    /// [`Refuse`](Self::Refuse) with this reason if `refused`.
    pub fn refuse_if(refused: bool, reason: impl Into<String>) -> Self {
        if refused { Self::Refuse(reason.into()) } else { Self::Admit }
    }
}

/// How an axon finds out whether a request is what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verify {
    /// Accepts v10 and `btauth/1`, without the reference's weaknesses: see docs/protocol/synapse.md. Blacklists see
    /// verified callers only, malformed requests are 400, a nonce is accepted once, within a window, and never again
    /// after a restart.
    #[default]
    Hardened,
    /// v10 as SDK 10.5 verifies it: nonces must rise per hotkey and uuid, the window follows unsigned headers, blacklists
    /// run first and on unproven hotkeys, malformed requests are 500. `btauth/1` is accepted as under
    /// [`Hardened`](Self::Hardened). Keys for which anybody can sign, and unsigned requests, are refused all the same.
    LikeReference,
    /// `btauth/1` only; v10 requests are refused.
    BtAuth1,
    /// Nothing is checked, and [`Caller::verified`] is false. For closed networks and tests.
    Nothing,
}

/// Whether a v10 caller must sign its whole request.
///
/// v10 signatures cover neither the route nor the body, unless the class hashes fields (W2, W6). A caller of ours may add
/// one that does: the header [`BOUND_SIGNATURE_HEADER`], made by
/// [`DendriteBuilder::bound`](crate::dendrite::DendriteBuilder::bound). `btauth/1` signs all of that anyway, but for the
/// timeout, and passes under each of these.
///
/// A proxy that changes the path, the query or the timeout breaks a bound signature, as it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Bound {
    /// A bound signature is checked if there is one. This protects nobody from whoever sits in between and takes it out.
    #[default]
    Optional,
    /// Requests whose body is covered by neither hashed fields nor a bound signature are refused with 401.
    BodyCovered,
    /// Requests without a bound signature are refused with 401. SDK clients cannot make one.
    Required,
}

/// The header that carries a signature over the whole request.
pub const BOUND_SIGNATURE_HEADER: &str = "schwann_bound_signature";

/// What a bound signature covers: everything the v10 signature does, and the method, the target (path and query as
/// sent), the timeout's text and the body.
pub fn bound_message(
    v10_message: &str,
    method: &str,
    target: &str,
    timeout: &str,
    body_sha256: &[u8; 32],
) -> String {
    // No v10 message begins like this: theirs begin with a digit or `None`.
    format!("bound/1\n{v10_message}\n{method}\n{target}\n{timeout}\n{}", hex::encode(body_sha256))
}
