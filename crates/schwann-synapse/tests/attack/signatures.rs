//! Signatures that are almost right, and keys for which anybody can sign.

use schwann_synapse::{
    keys::{Keypair, Scheme, Signer, signature_hex},
    ss58::Hotkey,
};

use crate::world::{
    Case, HASH, HOTKEY, MALFORMED, Must, NONCE, Request, SIGNATURE, UNVERIFIED, UUID, V10, VICTIM,
    World, case, check, play, send,
};

/// The order of the group, little endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// A signature whose scalar is larger by the group's order: the same point, other bytes.
fn plus_order(mut signature: [u8; 64]) -> [u8; 64] {
    signature[63] &= 0x7f;
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    signature[63] |= 0x80;
    signature
}

fn bent(name: &str, tries: &str, must: Must, bend: fn([u8; 64]) -> [u8; 64]) -> Case {
    case(name, tries, must, move |world| {
        let v10 = V10::new(&world.axon, "Echo");
        v10.with(&signature_hex(&bend(v10.key.sign(v10.message().as_bytes()))))
    })
}

fn spelled(name: &str, tries: &str, must: Must, spell: fn(String) -> Vec<u8>) -> Case {
    case(name, tries, must, move |world| world.good().map(SIGNATURE, spell))
}

/// A part of the message that is changed after it was signed.
fn changed(name: &str, part: &'static str, to: fn(&World, String) -> String) -> Case {
    case(name, "a part of the message is not the signed one", UNVERIFIED, move |world| {
        let good = world.good();
        let value = to(world, good.value(part));
        good.set(part, value)
    })
}

/// Anything that claims to be signed by this key.
fn claimed(world: &World, hotkey: [u8; 32], signature: [u8; 64]) -> Request {
    let mut v10 = V10::new(&world.axon, "Echo");
    v10.hotkey = Hotkey::from(hotkey).to_string();
    v10.with(&signature_hex(&signature))
}

fn marked() -> [u8; 64] {
    let mut signature = [0; 64];
    signature[63] = 0x80;
    signature
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        play(
            "every bit of the signature flipped",
            "512 signatures with one bit changed",
            |world| {
                let good = world.good();
                let bytes = hex::decode(&good.value(SIGNATURE)[2..]).unwrap();
                let before = world.seen.runs();
                for bit in 0..512 {
                    let mut flipped: [u8; 64] = bytes.clone().try_into().unwrap();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    let request = good.clone().set(SIGNATURE, signature_hex(&flipped));
                    let answer = send(world.axon.at, &request.bytes());
                    check(answer.status == 401, format!("bit {bit}: {}", answer.text()))?;
                }
                check(world.seen.runs() == before, "FALSE ACCEPT")?;
                world.expect(Must::Serve, &good)
            },
        ),
        changed("nonce one higher", NONCE, |_, nonce| {
            (nonce.parse::<u64>().unwrap() + 1).to_string()
        }),
        changed("nonce one lower", NONCE, |_, nonce| {
            (nonce.parse::<u64>().unwrap() - 1).to_string()
        }),
        changed("uuid of another", UUID, |_, uuid| format!("{uuid}0")),
        changed("hotkey of the victim", HOTKEY, |_, _| VICTIM.hotkey().to_string()),
        changed("hotkey of the axon", HOTKEY, |world, _| world.axon.address.clone()),
        changed("hash of another body", HASH, |_, _| crate::world::hash_of(&["evil".into()])),
        changed("hash of nothing", HASH, |_, _| crate::world::hash_of(&[])),
        case("parts moved over the dot", "uuid and hash cut at another dot", MALFORMED, |world| {
            let mut v10 = V10::new(&world.axon, "Echo");
            v10.uuid = "a.b".to_owned();
            let signed = v10.request();
            let hash = format!("b.{}", signed.value(HASH));
            // The message is the same text, but no field has such a hash.
            signed.set(UUID, "a").set(HASH, hash)
        }),
        case("signed for another axon", "a request captured elsewhere", UNVERIFIED, |world| {
            let mut v10 = V10::new(&world.axon, "Echo");
            v10.receiver = VICTIM.hotkey().to_string();
            v10.request()
        }),
        case(
            "signed for another axon, sent as ours",
            "the receiver's header is not signed",
            UNVERIFIED,
            |w| {
                let mut v10 = V10::new(&w.axon, "Echo");
                v10.receiver = VICTIM.hotkey().to_string();
                v10.request().set("bt_header_axon_hotkey", &w.axon.address)
            },
        ),
        case(
            "an axon's own message",
            "what an axon signs in the reference (W7)",
            UNVERIFIED,
            |world| {
                let v10 = V10::new(&world.axon, "Echo");
                let message = format!("{}.{}.{}.{}", v10.nonce, v10.hotkey, v10.receiver, v10.uuid);
                v10.signed(&message)
            },
        ),
        case("an empty message", "a signature over nothing", UNVERIFIED, |world| {
            V10::new(&world.axon, "Echo").signed("")
        }),
        case(
            "message with a newline",
            "a signed text with something after it",
            UNVERIFIED,
            |world| {
                let v10 = V10::new(&world.axon, "Echo");
                v10.signed(&format!("{}\n", v10.message()))
            },
        ),
        case("message in hexadecimal", "the wallet reads 0x texts as bytes", UNVERIFIED, |world| {
            let v10 = V10::new(&world.axon, "Echo");
            v10.signed(&format!("0x{}", hex::encode(v10.message())))
        }),
        case(
            "wrapped in Bytes",
            "browser wallets sign so, and the SDK takes it",
            UNVERIFIED,
            |world| {
                let v10 = V10::new(&world.axon, "Echo");
                v10.signed(&format!("<Bytes>{}</Bytes>", v10.message()))
            },
        ),
        case("wrapped in Bytes twice", "wrapped, and wrapped again", UNVERIFIED, |world| {
            let v10 = V10::new(&world.axon, "Echo");
            v10.signed(&format!("<Bytes><Bytes>{}</Bytes></Bytes>", v10.message()))
        }),
        case("half wrapped in Bytes", "wrapped at its beginning only", UNVERIFIED, |world| {
            let v10 = V10::new(&world.axon, "Echo");
            v10.signed(&format!("<Bytes>{}", v10.message()))
        }),
        case(
            "another signing context",
            "a signature made for another purpose",
            UNVERIFIED,
            |world| {
                let v10 = V10::new(&world.axon, "Echo");
                let secret = v10.key.private_bytes();
                let secret = schnorrkel::SecretKey::from_ed25519_bytes(&secret).unwrap();
                let context = schnorrkel::signing_context(b"elsewhere");
                let signature = secret.to_keypair().sign(context.bytes(v10.message().as_bytes()));
                v10.with(&signature_hex(&signature.to_bytes()))
            },
        ),
        case(
            "by another key",
            "the attacker's own signature in the victim's name",
            UNVERIFIED,
            |world| {
                let mut v10 = V10::new(&world.axon, "Echo");
                v10.hotkey = VICTIM.hotkey().to_string();
                v10.request()
            },
        ),
        case("ed25519", "a scheme that v10 does not have", UNVERIFIED, |world| {
            let key = Keypair::from_uri_with(Scheme::Ed25519, "//Alice").unwrap();
            V10::new(&world.axon, "Echo").by(&key).request()
        }),
        bent(
            "no marker",
            "the bit that tells schnorrkel from ed25519",
            UNVERIFIED,
            |mut signature| {
                signature[63] &= 0x7f;
                signature
            },
        ),
        bent("scalar plus order", "a second signature made of the first", UNVERIFIED, plus_order),
        bent("scalar of zero", "s = 0", UNVERIFIED, |mut signature| {
            signature[32..].copy_from_slice(&marked()[32..]);
            signature
        }),
        bent("point of zero", "R = 0", UNVERIFIED, |mut signature| {
            signature[..32].fill(0);
            signature
        }),
        bent("halves swapped", "s where R should be", UNVERIFIED, |signature| {
            let mut swapped = [0; 64];
            swapped[..32].copy_from_slice(&signature[32..]);
            swapped[32..].copy_from_slice(&signature[..32]);
            swapped[63] |= 0x80;
            swapped
        }),
        bent("reversed", "the other byte order", UNVERIFIED, |mut signature| {
            signature.reverse();
            signature
        }),
        bent("all zero", "no signature at all", UNVERIFIED, |_| [0; 64]),
        bent("all zero but the marker", "R = 0 and s = 0", UNVERIFIED, |_| marked()),
        bent("all ones", "no point and no scalar", UNVERIFIED, |_| [0xff; 64]),
        spelled("a byte short", "126 digits", UNVERIFIED, |text| text[..text.len() - 2].into()),
        spelled("a digit short", "127 digits", UNVERIFIED, |text| text[..text.len() - 1].into()),
        spelled("a byte long", "130 digits", UNVERIFIED, |text| format!("{text}00").into()),
        spelled("twice", "256 digits", UNVERIFIED, |text| format!("{text}{}", &text[2..]).into()),
        spelled("without 0x", "digits alone", UNVERIFIED, |text| text[2..].into()),
        spelled("0X", "the prefix in upper case", UNVERIFIED, |text| {
            format!("0X{}", &text[2..]).into()
        }),
        spelled(
            "digits in upper case",
            "another spelling of the same bytes",
            Must::Serve,
            |text| format!("0x{}", text[2..].to_uppercase()).into(),
        ),
        // The wallet library strips the prefix as often as it is there.
        spelled("0x0x", "the prefix twice", Must::Serve, |text| format!("0x{text}").into()),
        spelled("0x alone", "a prefix and nothing", UNVERIFIED, |_| b"0x".to_vec()),
        spelled("a letter that is no digit", "g for the first digit", UNVERIFIED, |text| {
            format!("0xg{}", &text[3..]).into()
        }),
        spelled("full-width digits", "digits of another script", UNVERIFIED, |text| {
            format!("0x\u{ff10}{}", &text[3..]).into()
        }),
        spelled("a space in it", "white space between bytes", UNVERIFIED, |text| {
            format!("{} {}", &text[..10], &text[10..]).into()
        }),
        spelled("20,000 digits", "a long signature", UNVERIFIED, |_| {
            format!("0x{}", "ab".repeat(10_000)).into()
        }),
        spelled("the word None", "what Python writes for nothing", UNVERIFIED, |_| {
            b"None".to_vec()
        }),
        spelled("base64", "the right bytes in another spelling", UNVERIFIED, |text| {
            use base64::Engine as _;
            let bytes = hex::decode(&text[2..]).unwrap();
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        }),
        case(
            "the identity key",
            "a key for which R = 0, s = 0 verifies anything (W10)",
            UNVERIFIED,
            |world| claimed(world, [0; 32], marked()),
        ),
        case("the identity key, a true equation", "R = sB with any s (W10)", UNVERIFIED, |world| {
            // R is the base point's multiple by the scalar of some key: another public key.
            let key = Keypair::from_uri("//Mallory").unwrap();
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(key.hotkey().as_bytes());
            signature[32..].copy_from_slice(&key.private_bytes()[..32]);
            signature[63] |= 0x80;
            claimed(world, [0; 32], signature)
        }),
        case("a key that is no point", "bytes that decode to nothing", UNVERIFIED, |world| {
            claimed(world, [0xff; 32], marked())
        }),
        case("a key with its sign bit set", "a point in another encoding", UNVERIFIED, |world| {
            let mut key = *V10::new(&world.axon, "Echo").key.hotkey().as_bytes();
            key[31] |= 0x80;
            claimed(world, key, marked())
        }),
        case("a key of one", "a small number for a point", UNVERIFIED, |world| {
            let mut key = [0; 32];
            key[0] = 1;
            claimed(world, key, marked())
        }),
        case(
            "no signature header, all else right",
            "unsigned, as SDK 9.3 to 10.4 take it (W8)",
            UNVERIFIED,
            |w| w.good().without(SIGNATURE),
        ),
        case("nothing but a body", "no synapse header at all", UNVERIFIED, |world| {
            let mut bare = world.good();
            bare.headers.truncate(1);
            bare
        }),
    ]
}
