//! The keys of known callers, and which of them have a table of their multiples.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use super::{BytesWrapping, KeyError, PublicKey, Scheme, public_key::Point};
use crate::ss58::Ss58;
use crate::verification::Tables;

/// Which network prefixes an address may carry (W13).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Networks {
    /// Any, as the reference does. Keys are compared, not texts, so this is harmless here.
    #[default]
    Any,
    /// Only this one.
    Only(u16),
}

/// Keys of known callers, decoded: the cost of address and point is paid once per caller.
///
/// Bounded: about `capacity` keys are kept, those not met for the longest are forgotten first. Only
/// keys for which a signature verified are kept, so strangers cannot push callers out by naming keys.
pub struct KeyCache {
    shards: Box<[RwLock<Generations>]>,
    hasher: RandomState,
    per_generation: usize,
    networks: Networks,
    tables: Tables,
}

type Known = HashMap<Box<str>, Arc<PublicKey>>;

/// A full young generation becomes the old one, and the old one is forgotten.
#[derive(Default)]
struct Generations {
    young: [Known; 2],
    old: [Known; 2],
}

impl KeyCache {
    /// How many keys are kept unless told otherwise: some 6 MB.
    pub const DEFAULT_CAPACITY: usize = 16_384;

    /// How many requests of a key are served before it is verified at half the cost.
    pub const OFTEN: u32 = crate::verification::OFTEN;

    const SHARDS: usize = 16;

    /// A cache for about this many keys.
    pub fn new(capacity: usize) -> KeyCache {
        KeyCache {
            shards: (0..Self::SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            per_generation: (capacity / (2 * Self::SHARDS)).max(1),
            networks: Networks::Any,
            tables: Tables::new(Tables::LIMIT),
        }
    }

    /// How many keys that are served often may have a table of 655 KB, with which to verify costs half: 64 unless told
    /// otherwise.
    #[must_use]
    pub fn tables(mut self, limit: usize) -> KeyCache {
        self.tables = Tables::new(limit);
        self
    }

    /// Refuses addresses of other networks.
    #[must_use]
    pub fn networks(mut self, networks: Networks) -> KeyCache {
        self.networks = networks;
        self
    }

    /// The key of an address: the kept one, or decoded now and not kept.
    ///
    /// # Errors
    ///
    /// As [`PublicKey::of`], and for text that is no address of an accepted network.
    pub fn resolve(&self, scheme: Scheme, address: &str) -> Result<Arc<PublicKey>, KeyError> {
        if let Some(known) = self.known(scheme, address) {
            return Ok(known);
        }
        let parsed = Ss58::parse(address)?;
        if let Networks::Only(wanted) = self.networks
            && wanted != parsed.prefix
        {
            return Err(KeyError::Network { found: parsed.prefix, wanted });
        }
        PublicKey::of(scheme, &parsed.hotkey()).map(Arc::new)
    }

    /// Verifies a signature by the key of an address, and keeps the key if it is good.
    ///
    /// # Errors
    ///
    /// Tells an address that is no key from a signature that is not of this key and message.
    pub fn verify(
        &self,
        scheme: Scheme,
        address: &str,
        message: &[u8],
        signature: &[u8; 64],
        wrapping: BytesWrapping,
    ) -> Result<Arc<PublicKey>, VerifyError> {
        let key = self.resolve(scheme, address)?;
        if !key.verify_wrapped(message, signature, wrapping) {
            return Err(VerifyError::Mismatch);
        }
        self.keep(address, &key);
        Ok(key)
    }

    /// Keeps the key of an address for which a signature verified.
    pub fn keep(&self, address: &str, key: &Arc<PublicKey>) {
        let scheme = generation_of(key.scheme());
        let shard = self.shard(address);
        {
            let kept = shard.read().unwrap_or_else(PoisonError::into_inner);
            if kept.young[scheme].contains_key(address) {
                return;
            }
        }
        let mut kept = shard.write().unwrap_or_else(PoisonError::into_inner);
        if kept.young.iter().map(HashMap::len).sum::<usize>() >= self.per_generation {
            kept.old = std::mem::take(&mut kept.young);
        }
        kept.young[scheme].insert(address.into(), Arc::clone(key));
    }

    /// Counts that a request of this key was served. One that is served [`OFTEN`](Self::OFTEN) is verified at half the
    /// cost from then on, if it is sr25519; the call that makes it so takes a millisecond.
    pub fn served(&self, key: &PublicKey) {
        if let Point::Sr25519(key) = &key.point {
            self.tables.served(key);
        }
    }

    /// How many keys are kept now.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| {
                let kept = shard.read().unwrap_or_else(PoisonError::into_inner);
                kept.young.iter().chain(&kept.old).map(HashMap::len).sum::<usize>()
            })
            .sum()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn known(&self, scheme: Scheme, address: &str) -> Option<Arc<PublicKey>> {
        let scheme = generation_of(scheme);
        let kept = self.shard(address).read().unwrap_or_else(PoisonError::into_inner);
        kept.young[scheme].get(address).or_else(|| kept.old[scheme].get(address)).map(Arc::clone)
    }

    fn shard(&self, address: &str) -> &RwLock<Generations> {
        &self.shards[self.hasher.hash_one(address) as usize % Self::SHARDS]
    }
}

impl Default for KeyCache {
    fn default() -> KeyCache {
        KeyCache::new(Self::DEFAULT_CAPACITY)
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KeyCache").field("networks", &self.networks).finish_non_exhaustive()
    }
}

fn generation_of(scheme: Scheme) -> usize {
    match scheme {
        Scheme::Sr25519 => 0,
        Scheme::Ed25519 => 1,
    }
}

/// Why a signature was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VerifyError {
    /// The address is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signature is not of this key over this message.
    #[error("the signature does not match the message and the key")]
    Mismatch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Keypair, Signer};
    use crate::ss58::{BITTENSOR_PREFIX, Hotkey};

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn the_cache_keeps_proven_callers_only_and_stays_small() {
        let cache = KeyCache::new(64);
        let alice = Keypair::from_uri("//Alice").unwrap();
        let signature = alice.sign(b"message");
        let verify = |message: &[u8]| {
            cache.verify(Scheme::Sr25519, ALICE, message, &signature, BytesWrapping::Refuse)
        };
        assert_eq!(verify(b"other").unwrap_err(), VerifyError::Mismatch);
        assert!(cache.is_empty());
        assert_eq!(verify(b"message").unwrap().hotkey(), alice.hotkey());
        assert_eq!(cache.len(), 1);
        let kept = cache.resolve(Scheme::Sr25519, ALICE).unwrap();
        assert!(Arc::ptr_eq(&kept, &cache.resolve(Scheme::Sr25519, ALICE).unwrap()));
        for number in 0..500u16 {
            let mut seed = [0; 32];
            seed[..2].copy_from_slice(&number.to_le_bytes());
            let stranger = Keypair::from_seed(seed).unwrap();
            cache.keep(&stranger.hotkey().to_string(), &Arc::new(stranger.public()));
        }
        assert!(cache.len() <= 64 + 2 * KeyCache::SHARDS, "{} kept", cache.len());
    }

    #[test]
    fn one_network_only_where_asked() {
        let key = *ALICE.parse::<Hotkey>().unwrap().as_bytes();
        let polkadot = Ss58 { prefix: 0, key }.to_string();
        let open = KeyCache::default();
        assert_eq!(open.resolve(Scheme::Sr25519, &polkadot).unwrap().hotkey().to_string(), ALICE);
        let closed = KeyCache::default().networks(Networks::Only(BITTENSOR_PREFIX));
        let refused = closed.resolve(Scheme::Sr25519, &polkadot).unwrap_err();
        assert_eq!(refused, KeyError::Network { found: 0, wanted: 42 });
        assert!(closed.resolve(Scheme::Sr25519, ALICE).is_ok());
    }
}
