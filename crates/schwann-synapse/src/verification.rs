//! Verifying sr25519 at a third of a multiplication: keys that are met often get a table of their multiples.
//!
//! A signature `(R, s)` of a key `A` is good if `sB - kA` is written as `R`, where `k` is hashed from message, key and
//! `R`. Almost all of its cost are the doublings on the way to these two products. A key's [`Table`] holds its multiples
//! at every place of `k`, so that nothing is left to double: the sum is of 55 points that lie ready. It is the same sum,
//! in a group of prime order, written down by the same function. So what is accepted does not depend on whether there is
//! a table, and a signature that is forged costs no more than a good one.
//!
//! Tables fit no core's cache, and a point that is fetched when its turn to be added comes costs as much waiting as
//! adding. So all are fetched first, which is waiting once, and added then.
//!
//! A table is some 655 KB, and as dear as twenty verifications. So a key gets one when it was *served* [`OFTEN`] times:
//! what proves nothing, is refused or replayed does not count. And there are at most [`Tables::LIMIT`], taken from who
//! was not served lately, so that a crowd of keys costs at most a fifth more than without tables.

use std::sync::{
    Arc, LazyLock, Mutex, PoisonError, RwLock, TryLockError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use curve25519_dalek::{
    constants::RISTRETTO_BASEPOINT_POINT,
    ristretto::{CompressedRistretto, RistrettoPoint},
    scalar::Scalar,
    traits::Identity,
};
use schnorrkel::context::{SigningContext, SigningTranscript};

/// The context is hashed once; signing and verifying clone the state after it.
pub(crate) static SUBSTRATE: LazyLock<SigningContext> =
    LazyLock::new(|| SigningContext::new(b"substrate"));

/// How often a key is served before a table is made for it: some six times what that costs.
pub(crate) const OFTEN: u32 = 128;

/// Bits of a place of a key's table, and of the base point's. Larger tables need fewer additions and more memory.
const KEY_WIDTH: usize = 8;
const BASE_WIDTH: usize = 11;

/// The multiples of the base point, which all keys share: 4 MB, made when the first key gets a table.
static BASE: LazyLock<Table<BASE_WIDTH>> = LazyLock::new(|| Table::of(RISTRETTO_BASEPOINT_POINT));

/// A point's multiples: for each place `p` of `WIDTH` bits, those by `1·2^p` to `2^(WIDTH-1)·2^p`.
struct Table<const WIDTH: usize> {
    multiples: Box<[RistrettoPoint]>,
}

impl<const WIDTH: usize> Table<WIDTH> {
    /// Scalars are below 2^252 + 2^125. So the highest digit is at most half of its range where it ends with bit 252, with
    /// the carry from the digits below, and carries nothing itself.
    const PLACES: usize = 253usize.div_ceil(WIDTH);
    const PER_PLACE: usize = 1 << (WIDTH - 1);

    fn of(point: RistrettoPoint) -> Self {
        let mut multiples = Vec::with_capacity(Self::PLACES * Self::PER_PLACE);
        let mut unit = point;
        for _ in 0..Self::PLACES {
            let mut multiple = unit;
            multiples.push(multiple);
            for _ in 1..Self::PER_PLACE {
                multiple += unit;
                multiples.push(multiple);
            }
            unit = multiple + multiple;
        }
        Self { multiples: multiples.into() }
    }

    /// What adds up to the point's product with a scalar, which must be reduced: every [`Scalar`] made here is.
    fn terms(&self, scalar: &Scalar) -> impl Iterator<Item = Term<'_>> {
        let places = self.multiples.chunks_exact(Self::PER_PLACE);
        digits::<WIDTH>(scalar).zip(places).filter_map(|(digit, multiples)| {
            let point = multiples.get((digit.unsigned_abs() as usize).wrapping_sub(1))?;
            Some(Term { point, negative: digit < 0 })
        })
    }
}

/// A point of a table, that is added or subtracted.
#[derive(Clone, Copy)]
struct Term<'a> {
    point: &'a RistrettoPoint,
    negative: bool,
}

/// The sum of two products, of both tables' points.
fn sum_of_products(
    base: &Table<BASE_WIDTH>,
    scalar: &Scalar,
    key: &Table<KEY_WIDTH>,
    challenge: &Scalar,
) -> RistrettoPoint {
    const TERMS: usize = Table::<BASE_WIDTH>::PLACES + Table::<KEY_WIDTH>::PLACES;
    let mut terms: [Option<Term<'_>>; TERMS] = [None; TERMS];
    let found = base.terms(scalar).chain(key.terms(challenge));
    for (term, found) in terms.iter_mut().zip(found) {
        // Reading it brings it close; nothing waits for what is read.
        std::hint::black_box(*found.point);
        *term = Some(found);
    }
    let mut terms = terms.iter().map_while(|term| *term);
    let Some(first) = terms.next() else { return RistrettoPoint::identity() };
    let first = if first.negative { -first.point } else { *first.point };
    terms.fold(first, |sum, term| if term.negative { sum - term.point } else { sum + term.point })
}

/// A reduced scalar's digits, lowest first, each from `1 - 2^(WIDTH-1)` to `2^(WIDTH-1)`.
fn digits<const WIDTH: usize>(scalar: &Scalar) -> impl Iterator<Item = i32> {
    let bytes = scalar.as_bytes();
    let mut carry = 0;
    (0..Table::<WIDTH>::PLACES).map(move |place| {
        let bit = place * WIDTH;
        let byte = |at: usize| u32::from(bytes.get(at).copied().unwrap_or(0));
        let window =
            (byte(bit / 8) | byte(bit / 8 + 1) << 8 | byte(bit / 8 + 2) << 16) >> (bit % 8);
        let digit = (window & ((1 << WIDTH) - 1)) as i32 + carry;
        carry = i32::from(digit > 1 << (WIDTH - 1));
        digit - (carry << WIDTH)
    })
}

/// A decoded sr25519 key, with a table if it is met often.
pub(crate) struct Sr25519 {
    key: schnorrkel::PublicKey,
    table: RwLock<Option<Arc<Table<KEY_WIDTH>>>>,
    /// Counted up to [`OFTEN`], where it stays until the table is taken away.
    served: AtomicU32,
    /// Whether it was served since the last look for a table to take away.
    lately: AtomicBool,
}

impl Sr25519 {
    pub(crate) fn new(key: schnorrkel::PublicKey) -> Self {
        Self {
            key,
            table: RwLock::default(),
            served: AtomicU32::new(0),
            lately: AtomicBool::new(false),
        }
    }

    /// Accepts what [`schnorrkel::PublicKey::verify`] accepts in the context `substrate`, and nothing else.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        // schnorrkel's mark is there, and the scalar is reduced.
        let Ok(parsed) = schnorrkel::Signature::from_bytes(signature) else { return false };
        let Some(table) = self.table() else {
            return self.key.verify(SUBSTRATE.bytes(message), &parsed).is_ok();
        };
        let (commitment, scalar) = signature.split_at(32);
        let Ok(commitment) = CompressedRistretto::from_slice(commitment) else { return false };
        let Ok(mut scalar) = <[u8; 32]>::try_from(scalar) else { return false };
        scalar[31] &= 0x7f;
        let Some(scalar) = Option::<Scalar>::from(Scalar::from_canonical_bytes(scalar)) else {
            return false;
        };
        let mut transcript = SUBSTRATE.bytes(message);
        transcript.proto_name(b"Schnorr-sig");
        transcript.commit_point(b"sign:pk", self.key.as_compressed());
        transcript.commit_point(b"sign:R", &commitment);
        let challenge: Scalar = transcript.challenge_scalar(b"sign:c");

        let sum = sum_of_products(&BASE, &scalar, &table, &challenge);
        // Written by the one function that writes points, so of the encodings of R only the canonical one is accepted.
        sum.compress() == commitment
    }

    fn table(&self) -> Option<Arc<Table<KEY_WIDTH>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the table, of the key's negative: its product is subtracted.
    fn prepare(&self) {
        LazyLock::force(&BASE);
        let table = Arc::new(Table::of(-self.key.as_point()));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Some(table);
    }

    fn forget(&self) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.served.store(0, Ordering::Relaxed);
    }

    /// Counts one request more. True once, when that makes a table worth its cost.
    fn serve(&self) -> bool {
        self.lately.store(true, Ordering::Relaxed);
        // Without the first look, all cores would write here for ever.
        self.served.load(Ordering::Relaxed) < OFTEN
            && self.served.fetch_add(1, Ordering::Relaxed) + 1 == OFTEN
    }
}

/// Which keys have a table.
pub(crate) struct Tables {
    /// Locked while a table is made, and never waited for: one is made at a time, on one core.
    held: Mutex<Vec<Arc<Sr25519>>>,
    limit: usize,
}

impl Tables {
    /// How many there are at most unless told otherwise: as many as a subnet has validators, some 42 MB.
    pub(crate) const LIMIT: usize = 64;

    pub(crate) fn new(limit: usize) -> Self {
        Self { held: Mutex::default(), limit }
    }

    /// Counts that a key's request was served, and makes its table if that is worth it and there is room.
    ///
    /// Whoever was served since the last look for room keeps its table: a crowd does not drive out who is busy.
    pub(crate) fn served(&self, key: &Arc<Sr25519>) {
        if self.limit == 0 || !key.serve() {
            return;
        }
        let mut held = match self.held.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // With its next request, then.
                key.served.store(OFTEN - 1, Ordering::Relaxed);
                return;
            }
        };
        if held.len() >= self.limit {
            let idle = held.iter().position(|key| !key.lately.load(Ordering::Relaxed));
            let Some(idle) = idle else {
                held.iter().for_each(|key| key.lately.store(false, Ordering::Relaxed));
                key.served.store(0, Ordering::Relaxed);
                return;
            };
            held.swap_remove(idle).forget();
        }
        key.prepare();
        held.push(Arc::clone(key));
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::RISTRETTO_BASEPOINT_COMPRESSED;
    use proptest::prelude::*;
    use schnorrkel::{Keypair, MiniSecretKey, PublicKey};

    use super::*;

    const MESSAGE: &[u8] = b"message";

    /// The order of the group, less one.
    fn greatest() -> Scalar {
        -Scalar::ONE
    }

    fn pair(seed: u8) -> Keypair {
        let mini = MiniSecretKey::from_bytes(&[seed; 32]).unwrap();
        mini.expand_to_keypair(schnorrkel::ExpansionMode::Ed25519)
    }

    fn tabled(key: PublicKey) -> Arc<Sr25519> {
        let key = Arc::new(Sr25519::new(key));
        key.prepare();
        key
    }

    fn sign(pair: &Keypair, message: &[u8]) -> [u8; 64] {
        pair.sign(SUBSTRATE.bytes(message)).to_bytes()
    }

    /// What schnorrkel says, which ours must say with a table and without.
    #[track_caller]
    fn agrees(key: &Sr25519, message: &[u8], signature: &[u8; 64]) -> bool {
        assert!(key.table().is_some());
        let theirs = schnorrkel::Signature::from_bytes(signature)
            .is_ok_and(|parsed| key.key.verify(SUBSTRATE.bytes(message), &parsed).is_ok());
        let shown = hex::encode(signature);
        assert_eq!(key.verify(message, signature), theirs, "with a table: {shown}");
        assert_eq!(Sr25519::new(key.key).verify(message, signature), theirs, "without: {shown}");
        theirs
    }

    /// Adds a number below 2^256 to 32 bytes, if it fits.
    fn plus(bytes: &[u8], number: &[u8; 32]) -> Option<[u8; 32]> {
        let mut sum = [0; 32];
        let mut carry = 0;
        for ((sum, byte), other) in sum.iter_mut().zip(bytes).zip(number) {
            let digit = u16::from(*byte) + u16::from(*other) + carry;
            *sum = digit as u8;
            carry = digit >> 8;
        }
        (carry == 0).then_some(sum)
    }

    static DOUBLED: LazyLock<Table<KEY_WIDTH>> =
        LazyLock::new(|| Table::of(RISTRETTO_BASEPOINT_POINT + RISTRETTO_BASEPOINT_POINT));

    #[track_caller]
    fn multiplies(scalar: Scalar) {
        let value = |digits: &mut dyn Iterator<Item = i32>, width: usize| {
            let digits: Vec<_> = digits.collect();
            let base = Scalar::from(1u64 << width);
            digits.iter().rev().fold(Scalar::ZERO, |sum, digit| {
                assert!((1 - (1 << (width - 1))..=1 << (width - 1)).contains(digit), "{digit}");
                let size = Scalar::from(digit.unsigned_abs());
                sum * base + if *digit < 0 { -size } else { size }
            })
        };
        assert_eq!(value(&mut digits::<KEY_WIDTH>(&scalar), KEY_WIDTH), scalar);
        assert_eq!(value(&mut digits::<BASE_WIDTH>(&scalar), BASE_WIDTH), scalar);
        let product = RISTRETTO_BASEPOINT_POINT * scalar;
        let zero = Scalar::ZERO;
        assert_eq!(sum_of_products(&BASE, &scalar, &DOUBLED, &zero), product, "{scalar:?}");
        assert_eq!(
            sum_of_products(&BASE, &zero, &DOUBLED, &scalar),
            product + product,
            "{scalar:?}"
        );
    }

    #[test]
    fn a_table_multiplies_by_every_kind_of_scalar() {
        let mut power = Scalar::ONE;
        for _ in 0..253 {
            // Long carries on either side of a power of two.
            for scalar in [power, power - Scalar::ONE, -power, greatest() - power] {
                multiplies(scalar);
            }
            power += power;
        }
        multiplies(Scalar::ZERO);
        multiplies(greatest());
        for byte in 0..=255 {
            multiplies(Scalar::from_bytes_mod_order([byte; 32]));
        }
    }

    #[test]
    fn a_table_accepts_what_schnorrkel_accepts_and_refuses_the_rest() {
        let pair = pair(1);
        let key = tabled(pair.public);
        for length in [0, 1, 100, 165, 166, 167, 168, 1000] {
            let message = vec![b'm'; length];
            assert!(agrees(&key, &message, &sign(&pair, &message)), "{length} bytes");
        }
        let good = sign(&pair, MESSAGE);
        assert!(!agrees(&key, b"messagf", &good));
        for bit in 0..512 {
            let mut flipped = good;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!agrees(&key, MESSAGE, &flipped), "bit {bit}");
        }
        let mut swapped = good;
        swapped.rotate_left(32);
        swapped[63] |= 0x80;
        assert!(!agrees(&key, MESSAGE, &swapped));
        // The scalar once more around the group, with schnorrkel's mark.
        let mut order = greatest().to_bytes();
        order[0] += 1;
        let mut scalar = good;
        scalar[63] &= 0x7f;
        let mut around = plus(&scalar[32..], &order).unwrap();
        around[31] |= 0x80;
        scalar[32..].copy_from_slice(&around);
        assert!(!agrees(&key, MESSAGE, &scalar));
    }

    /// The signature whose `R` is the point of this discrete logarithm, written as told.
    fn signed_with(pair: &Keypair, nonce: Scalar, written: [u8; 32]) -> [u8; 64] {
        let secret = Scalar::from_canonical_bytes(pair.secret.to_bytes()[..32].try_into().unwrap());
        let mut transcript = SUBSTRATE.bytes(MESSAGE);
        transcript.proto_name(b"Schnorr-sig");
        transcript.commit_point(b"sign:pk", pair.public.as_compressed());
        transcript.commit_point(b"sign:R", &CompressedRistretto(written));
        let challenge: Scalar = transcript.challenge_scalar(b"sign:c");
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&written);
        signature[32..].copy_from_slice((nonce + challenge * secret.unwrap()).as_bytes());
        signature[63] |= 0x80;
        signature
    }

    #[test]
    fn every_other_spelling_of_a_good_signature_is_refused() {
        let pair = pair(2);
        let key = tabled(pair.public);
        let mut prime = [0xff; 32];
        (prime[0], prime[31]) = (0xed, 0x7f);
        let bases = [Scalar::ZERO, Scalar::ONE, Scalar::from(2u8), greatest(), -Scalar::from(9u8)];
        for nonce in bases {
            let point = RISTRETTO_BASEPOINT_POINT * nonce;
            let written = point.compress().to_bytes();
            // The identity as R is odd, and good: the sum passes through it.
            assert!(agrees(&key, MESSAGE, &signed_with(&pair, nonce, written)), "{nonce:?}");
            let mut others = vec![(-point).compress().to_bytes()];
            // The same number, unreduced; its negative, which no encoding is; with the ignored bit set.
            others.extend(plus(&written, &prime));
            let negative: [u8; 32] = std::array::from_fn(|at| !written[at]);
            let mut negative = plus(&negative, &prime).unwrap_or(negative);
            negative[0] = negative[0].wrapping_add(1);
            others.push(negative);
            let mut high = written;
            high[31] |= 0x80;
            others.push(high);
            // Of small order on the curve beneath: y = -1 and y = 0, as Edwards and as Ristretto would write them.
            let mut minus_one = prime;
            minus_one[0] -= 1;
            others.extend([minus_one, prime, [0xff; 32]]);
            for other in others.into_iter().filter(|other| *other != written) {
                assert!(!agrees(&key, MESSAGE, &signed_with(&pair, nonce, other)), "{other:?}");
            }
        }
        assert_eq!(
            RISTRETTO_BASEPOINT_COMPRESSED,
            (RISTRETTO_BASEPOINT_POINT * Scalar::ONE).compress()
        );
    }

    #[test]
    fn a_key_of_small_discrete_logarithm_is_verified_like_any_other() {
        for secret in [Scalar::ONE, greatest(), Scalar::from(1u64 << 6), Scalar::from(31u8)] {
            let mut bytes = [7; 64];
            bytes[..32].copy_from_slice(secret.as_bytes());
            let pair = schnorrkel::SecretKey::from_bytes(&bytes).unwrap().to_keypair();
            let key = tabled(pair.public);
            let good = sign(&pair, MESSAGE);
            assert!(agrees(&key, MESSAGE, &good));
            assert!(!agrees(&key, b"other", &good));
        }
        // The identity is no key to us, but here as well there must be one opinion only.
        let identity = PublicKey::from_bytes(&[0; 32]).unwrap();
        let key = tabled(identity);
        let mut anybody = [0; 64];
        anybody[63] = 0x80;
        assert!(agrees(&key, MESSAGE, &anybody));
    }

    fn serve(tables: &Tables, key: &Arc<Sr25519>, times: u32) {
        (0..times).for_each(|_| tables.served(key));
    }

    #[test]
    fn a_key_gets_its_table_when_it_was_served_often() {
        let tables = Tables::new(2);
        let key = Arc::new(Sr25519::new(pair(3).public));
        serve(&tables, &key, OFTEN - 1);
        assert!(key.table().is_none());
        serve(&tables, &key, 1);
        let made = key.table().unwrap();
        serve(&tables, &key, 10 * OFTEN);
        assert!(Arc::ptr_eq(&made, &key.table().unwrap()), "made once");
        let none = Tables::new(0);
        let key = Arc::new(Sr25519::new(pair(3).public));
        serve(&none, &key, 10 * OFTEN);
        assert!(key.table().is_none());
    }

    #[test]
    fn a_crowd_drives_out_who_is_idle_but_not_who_is_busy_and_takes_no_more_room() {
        let tables = Tables::new(4);
        let keys: Vec<_> = (0..24).map(|n| Arc::new(Sr25519::new(pair(n).public))).collect();
        let (busy, idle) = (&keys[0], &keys[1]);
        serve(&tables, busy, OFTEN);
        serve(&tables, idle, OFTEN);
        assert!(busy.table().is_some() && idle.table().is_some());
        for _ in 0..4 {
            for key in &keys[2..] {
                serve(&tables, key, OFTEN);
                serve(&tables, busy, 1);
                assert!(keys.iter().filter(|key| key.table().is_some()).count() <= 4);
            }
        }
        assert!(busy.table().is_some(), "served between any two of the crowd");
        assert!(idle.table().is_none(), "served no more");
        // Whoever lost its table can earn it again.
        serve(&tables, idle, 3 * OFTEN);
        assert!(idle.table().is_some());
    }

    #[test]
    fn threads_that_serve_one_key_make_one_table_and_verify_meanwhile() {
        let tables = Tables::new(1);
        let pair = pair(5);
        let key = Arc::new(Sr25519::new(pair.public));
        let good = sign(&pair, MESSAGE);
        let mut forged = good;
        forged[0] ^= 1;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..OFTEN {
                        assert!(key.verify(MESSAGE, &good));
                        assert!(!key.verify(MESSAGE, &forged));
                        tables.served(&key);
                    }
                });
            }
        });
        assert!(key.table().is_some());
        assert_eq!(tables.held.lock().unwrap().len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn signatures_bent_at_random_find_one_opinion(
            seed in 0u8..4,
            message in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0usize..64,
            bytes in proptest::collection::vec(any::<u8>(), 0..33),
        ) {
            let pair = pair(seed);
            let key = tabled(pair.public);
            let mut signature = sign(&pair, &message);
            prop_assert!(agrees(&key, &message, &signature));
            for (place, byte) in signature.iter_mut().skip(at).zip(&bytes) {
                *place = *byte;
            }
            agrees(&key, &message, &signature);
            signature[63] |= 0x80;
            agrees(&key, &message, &signature);
        }
    }
}
