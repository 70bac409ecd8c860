//! The same against `btauth/1`, and against the seam between the two protocols.

use schwann::Server;
use schwann_synapse::{
    caller::Protocol,
    keys::{Keypair, Scheme, Signer, signature_hex},
    nonce::now_ns,
    ss58::Hotkey,
};

use crate::world::{
    ALICE, BtAuth, Case, MALFORMED, MALLORY, Must, Request, UNVERIFIED, V10, VICTIM, World, case,
    case_of_old, check, foreign, play,
};

const VERSION: &str = "x-bittensor-version";
const HOTKEY: &str = "x-bittensor-hotkey";
const NONCE: &str = "x-bittensor-nonce";
const SIGNATURE: &str = "x-bittensor-signature";
const RECEIVER: &str = "x-bittensor-receiver";
const CRYPTO: &str = "x-bittensor-crypto";

const SECOND: i128 = 1_000_000_000;

fn bent(
    name: impl Into<String>,
    tries: &str,
    must: Must,
    bend: impl Fn(Request) -> Request + 'static,
) -> Case {
    let name = format!("btauth: {}", name.into());
    case(name, tries, must, move |world| bend(BtAuth::new(&world.axon, "Echo").request()))
}

/// Signed as it is, but for these.
fn signed(name: &str, tries: &str, must: Must, change: impl Fn(&mut BtAuth) + 'static) -> Case {
    case(format!("btauth: {name}"), tries, must, move |world| {
        let mut request = BtAuth::new(&world.axon, "Echo");
        change(&mut request);
        request.request()
    })
}

/// The same on the axon that has always run.
fn old(name: &str, tries: &str, must: Must, change: impl Fn(&mut BtAuth) + 'static) -> Case {
    case_of_old(format!("btauth: {name}"), tries, must, move |world| {
        let mut request = BtAuth::new(&world.lasting, "Echo");
        change(&mut request);
        request.request()
    })
}

fn replayed(name: &str, tries: &str, again: impl Fn(Request) -> Request + 'static) -> Case {
    play(format!("btauth: {name}"), tries, move |world| {
        let good = BtAuth::new(&world.axon, "Echo").request();
        world.expect(Must::Serve, &good)?;
        world.expect(UNVERIFIED, &again(good))
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        bent("as it should be", "the honest request", Must::Serve, |good| good),
        bent("other path", "the path is signed", UNVERIFIED, |good| good.target("/Other")),
        bent("encoded path", "another spelling of the path", UNVERIFIED, |good| {
            good.target("/Ec%68o")
        }),
        bent("a query added", "the query is signed", UNVERIFIED, |good| good.target("/Echo?a=1")),
        bent("an empty query added", "a question mark is signed", UNVERIFIED, |good| {
            good.target("/Echo?")
        }),
        bent("other method", "the method is signed", UNVERIFIED, |good| good.method("GET")),
        bent("other body", "the body is signed", UNVERIFIED, |good| {
            good.body(r#"{"text": "evil"}"#)
        }),
        bent("white space in the body", "the body's bytes are signed", UNVERIFIED, |good| {
            good.body(r#"{"text":"hello"}"#)
        }),
        bent("no body", "the body is signed", UNVERIFIED, |good| good.body("")),
        bent("version 2", "a version that does not exist", UNVERIFIED, |good| {
            good.set(VERSION, "2")
        }),
        bent("version 01", "another spelling of the version", UNVERIFIED, |good| {
            good.set(VERSION, "01")
        }),
        bent("version 1.0", "another spelling of the version", UNVERIFIED, |good| {
            good.set(VERSION, "1.0")
        }),
        bent("receiver of another", "signed for another server", UNVERIFIED, |good| {
            good.set(RECEIVER, VICTIM.hotkey().to_string())
        }),
        bent("receiver taken out", "a signature for anybody", UNVERIFIED, |good| {
            good.without(RECEIVER)
        }),
        bent("receiver of a dash", "the text that stands for nobody", UNVERIFIED, |good| {
            good.set(RECEIVER, "-")
        }),
        signed("signed for another", "captured elsewhere", UNVERIFIED, |request| {
            request.receiver = Some(VICTIM.hotkey().to_string());
        }),
        signed("signed for nobody", "good for every server", UNVERIFIED, |request| {
            request.receiver = None;
        }),
        signed("signed for a dash", "good for every server", UNVERIFIED, |request| {
            request.receiver = Some("-".to_owned());
        }),
        signed(
            "signed for us on another network",
            "our key under another prefix",
            UNVERIFIED,
            |request| {
                let own: Hotkey = request.receiver.as_ref().unwrap().parse().unwrap();
                request.receiver = Some(foreign(own, 0));
            },
        ),
        case(
            "btauth: signed for another, sent as ours",
            "the receiver is signed",
            UNVERIFIED,
            |world| {
                let mut request = BtAuth::new(&world.axon, "Echo");
                request.receiver = Some(VICTIM.hotkey().to_string());
                request.request().set(RECEIVER, &world.axon.address)
            },
        ),
        old("9 s old", "as old as is allowed", Must::Serve, |request| request.nonce -= 9 * SECOND),
        old("11 s old", "a second too late", UNVERIFIED, |request| request.nonce -= 11 * SECOND),
        old("a day old", "far too late", UNVERIFIED, |request| request.nonce -= 86_400 * SECOND),
        play("btauth: from before the start", "a nonce of an earlier life (W4)", |world| {
            let before = i128::from(now_ns()) - 1;
            let axon = world.serve(World::routes(&world.seen), Server::default());
            let mut request = BtAuth::new(&axon, "Echo");
            request.nonce = before;
            world.expect_at(&axon, UNVERIFIED, &request.request()).map(drop)
        }),
        signed("4 s ahead", "signed in advance", UNVERIFIED, |request| request.nonce += 4 * SECOND),
        signed("a year ahead", "signed in advance, for good", UNVERIFIED, |request| {
            request.nonce += 31_536_000 * SECOND;
        }),
        signed("nonce -1", "before time", UNVERIFIED, |request| request.nonce = -1),
        signed("nonce now plus 2^64", "now again, if cut to 64 bits", UNVERIFIED, |request| {
            request.nonce += 1 << 64;
        }),
        bent("nonce one higher", "the nonce is signed", UNVERIFIED, |good| {
            good.map(NONCE, |nonce| (nonce.parse::<u64>().unwrap() + 1).to_string().into())
        }),
        bent("nonce as a float", "no integer", UNVERIFIED, |good| good.set(NONCE, "1.5e18")),
        bent("nonce of 5,000 digits", "a long number", UNVERIFIED, |good| {
            good.set(NONCE, "9".repeat(5000))
        }),
        bent("hotkey of the victim", "to be another", UNVERIFIED, |good| {
            good.set(HOTKEY, VICTIM.hotkey().to_string())
        }),
        bent("hotkey under another prefix", "the address is signed", UNVERIFIED, |good| {
            good.set(HOTKEY, foreign(ALICE.hotkey(), 0))
        }),
        signed(
            "signed under another prefix",
            "the same key by another address",
            Must::Serve,
            |request| {
                request.hotkey = foreign(request.key.hotkey(), 0);
            },
        ),
        bent(
            "hotkey with a line break's worth of text",
            "lines inside of a line",
            UNVERIFIED,
            |good| good.map(HOTKEY, |hotkey| format!("{hotkey} -").into()),
        ),
        bent("crypto ed25519", "the scheme is signed", UNVERIFIED, |good| {
            good.set(CRYPTO, "ed25519")
        }),
        bent("crypto 0", "the scheme by its number", UNVERIFIED, |good| good.set(CRYPTO, "0")),
        bent("crypto of garbage", "a scheme that does not exist", UNVERIFIED, |good| {
            good.set(CRYPTO, "rot13")
        }),
        bent(
            "crypto ecdsa",
            "a scheme of the library that the protocol lacks",
            UNVERIFIED,
            |good| good.set(CRYPTO, "ecdsa"),
        ),
        bent("crypto sr25519, said", "what goes without saying", Must::Serve, |good| {
            good.set(CRYPTO, "SR25519")
        }),
        bent("signature 0X", "a prefix in upper case", UNVERIFIED, |good| {
            good.map(SIGNATURE, |text| format!("0X{}", &text[2..]).into())
        }),
        bent("signature a byte short", "63 bytes", UNVERIFIED, |good| {
            good.map(SIGNATURE, |text| text[..text.len() - 2].into())
        }),
        bent("signature a byte long", "65 bytes", UNVERIFIED, |good| {
            good.map(SIGNATURE, |text| format!("{text}00").into())
        }),
        bent("signature of garbage", "no digits", UNVERIFIED, |good| good.set(SIGNATURE, "hello")),
        bent("signature without 0x", "as the SDK takes it", Must::Serve, |good| {
            good.map(SIGNATURE, |text| text[2..].into())
        }),
        bent("signature of 20,000 digits", "a long signature", UNVERIFIED, |good| {
            good.set(SIGNATURE, "ab".repeat(10_000))
        }),
        play("btauth: every bit of the signature flipped", "512 signatures", |world| {
            let good = BtAuth::new(&world.axon, "Echo").request();
            let bytes = hex::decode(&good.value(SIGNATURE)[2..]).unwrap();
            for bit in 0..512 {
                let mut flipped: [u8; 64] = bytes.clone().try_into().unwrap();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let request = good.clone().set(SIGNATURE, signature_hex(&flipped));
                world.expect(UNVERIFIED, &request).map_err(|why| format!("bit {bit}: {why}"))?;
            }
            world.expect(Must::Serve, &good)
        }),
        case(
            "btauth: wrapped in Bytes",
            "a browser wallet's signature over a text",
            UNVERIFIED,
            |world| {
                let request = BtAuth::new(&world.axon, "Echo");
                let wrapped = [b"<Bytes>", &request.message()[..], b"</Bytes>"].concat();
                request.with(&signature_hex(&request.key.sign(&wrapped)))
            },
        ),
        case(
            "btauth: a newline at the message's end",
            "another end of the text",
            UNVERIFIED,
            |world| {
                let request = BtAuth::new(&world.axon, "Echo");
                let message = [&request.message()[..], b"\n"].concat();
                request.with(&signature_hex(&request.key.sign(&message)))
            },
        ),
        case(
            "btauth: the identity key",
            "a key that verifies anything (W10)",
            UNVERIFIED,
            |world| {
                let mut request = BtAuth::new(&world.axon, "Echo");
                request.hotkey = Hotkey::from([0; 32]).to_string();
                let mut signature = [0; 64];
                signature[63] = 0x80;
                request.with(&signature_hex(&signature))
            },
        ),
        case(
            "btauth: an ed25519 key of small order",
            "a key that verifies anything",
            UNVERIFIED,
            |world| {
                let mut request = BtAuth::new(&world.axon, "Echo");
                let mut identity = [0; 32];
                identity[0] = 1;
                request.hotkey = Hotkey::from(identity).to_string();
                let mut signature = [0; 64];
                signature[0] = 1;
                request.with(&signature_hex(&signature)).set(CRYPTO, "ed25519")
            },
        ),
        play("btauth: ed25519", "the other scheme, honestly", |world| {
            let mut request = BtAuth::new(&world.axon, "Echo");
            request.key = Keypair::from_uri_with(Scheme::Ed25519, "//Alice").unwrap();
            request.hotkey = request.key.hotkey().to_string();
            let good = request.request().set(CRYPTO, "ed25519");
            let before = world.seen.runs();
            let answer = crate::world::send(world.axon.at, &good.bytes());
            check(answer.status == 200 && world.seen.runs() == before + 1, answer.text())?;
            world.expect(UNVERIFIED, &good)?;
            // Declared as the scheme that it is not: nothing is tried in its place.
            let undeclared = BtAuth { nonce: request.nonce + 1, ..request };
            world.expect(UNVERIFIED, &undeclared.request())
        }),
        replayed("replay: same bytes", "the very same request", |good| good),
        replayed("replay: another spelling of the nonce", "a number is a number", |good| {
            good.map(NONCE, |nonce| format!("+0{nonce}").into())
        }),
        replayed("replay: names in upper case", "another spelling of the headers", |good| {
            good.rename(HOTKEY, "X-BITTENSOR-HOTKEY").rename(NONCE, "X-BITTENSOR-NONCE")
        }),
        play("btauth: replay of the nonce over another body", "one nonce, two requests", |world| {
            let first = BtAuth::new(&world.axon, "Echo");
            let second = BtAuth { target: "/Other".to_owned(), ..first.clone() };
            world.expect(Must::Serve, &first.request())?;
            world.expect(UNVERIFIED, &second.request())
        }),
        play(
            "btauth: replay of the nonce under another prefix",
            "a nonce per address (W13)",
            |world| {
                let first = BtAuth::new(&world.axon, "Echo");
                let second = BtAuth { hotkey: foreign(ALICE.hotkey(), 2), ..first.clone() };
                world.expect(Must::Serve, &first.request())?;
                world.expect(UNVERIFIED, &second.request())
            },
        ),
        play("btauth: a failed signature uses up no nonce", "to block a nonce", |world| {
            let good = BtAuth::new(&world.axon, "Echo").request();
            world.expect(UNVERIFIED, &good.clone().body("{}"))?;
            world.expect(Must::Serve, &good)
        }),
        case("btauth: denied hotkey", "whom the route denies", Must::Refuse(&[403]), |world| {
            let mut request = BtAuth::new(&world.axon, "Denying");
            (request.key, request.hotkey) = (MALLORY.clone(), MALLORY.hotkey().to_string());
            request.request()
        }),
        case(
            "btauth: denied hotkey under another prefix",
            "the same key (W13)",
            Must::Refuse(&[403]),
            |world| {
                let mut request = BtAuth::new(&world.axon, "Denying");
                (request.key, request.hotkey) = (MALLORY.clone(), foreign(MALLORY.hotkey(), 0));
                request.request()
            },
        ),
        case(
            "btauth: unlisted hotkey",
            "whom the route does not allow",
            Must::Refuse(&[403]),
            |world| {
                let mut request = BtAuth::new(&world.axon, "Allowing");
                (request.key, request.hotkey) = (VICTIM.clone(), VICTIM.hotkey().to_string());
                request.request()
            },
        ),
        case("btauth: a body over the limit", "1,001 bytes", Must::Refuse(&[413]), |world| {
            let mut request = BtAuth::new(&world.axon, "Small");
            request.body = vec![b' '; 1001];
            request.request()
        }),
        bent("another content type", "text/plain", MALFORMED, |good| {
            good.set("content-type", "text/plain")
        }),
        play("both protocols, both good", "two callers in one request", |world| {
            let btauth = BtAuth::new(&world.axon, "Echo").request();
            let mut both = V10::new(&world.axon, "Echo").by(&VICTIM).request();
            both.headers.extend(
                btauth
                    .headers
                    .into_iter()
                    .skip(1)
                    .filter(|(name, _)| name.starts_with(b"X-Bittensor")),
            );
            // btauth decides, alone: its caller is Alice, whatever the v10 headers prove of the victim.
            world.expect(Must::Serve, &both)?;
            let (caller, _) = world.seen.last();
            check(caller.protocol == Protocol::BtAuth1, "another protocol decided")?;
            check(*caller.headers == Default::default(), "v10 headers came along")
        }),
        case("both protocols, btauth bad", "to fall back to v10", UNVERIFIED, |world| {
            world.good().set(VERSION, "1")
        }),
        case("both protocols, empty btauth version", "to fall back to v10", UNVERIFIED, |world| {
            world.good().set(VERSION, "")
        }),
        case(
            "v10 with btauth's other headers",
            "headers that select nothing",
            Must::Serve,
            |world| world.good().add(HOTKEY, VICTIM.hotkey().to_string()).add(SIGNATURE, "0x00"),
        ),
        case("btauth without its version", "v10 headers are looked for", UNVERIFIED, |world| {
            BtAuth::new(&world.axon, "Echo").request().without(VERSION)
        }),
        case("a v10 signature as btauth's", "one signature for both", UNVERIFIED, |world| {
            let v10 = V10::new(&world.axon, "Echo").request();
            let signature = v10.value(crate::world::SIGNATURE);
            BtAuth::new(&world.axon, "Echo").with(&signature)
        }),
        case("a btauth message in v10's parts", "lines for dots", UNVERIFIED, |world| {
            let btauth = BtAuth::new(&world.axon, "Echo");
            let signature = signature_hex(&btauth.key.sign(&btauth.message()));
            V10::new(&world.axon, "Echo").nonce(btauth.nonce).with(&signature)
        }),
    ];
    for header in [VERSION, HOTKEY, NONCE, SIGNATURE, RECEIVER] {
        let one = |trick: &str, must, bend: fn(Request, &'static str) -> Request| {
            bent(format!("{header} {trick}"), "a header bent", must, move |good| bend(good, header))
        };
        cases.push(one("missing", UNVERIFIED, |good, header| good.without(header)));
        cases.push(one("empty", UNVERIFIED, |good, header| good.set(header, "")));
        cases.push(one("huge", UNVERIFIED, |good, header| good.set(header, vec![b'A'; 20_000])));
        cases.push(one("twice the same", MALFORMED, |good, header| {
            let value = good.value(header);
            good.add(header, value)
        }));
        cases.push(one("twice, another first", MALFORMED, |mut good, header| {
            good.headers.insert(0, (header.to_uppercase().into(), b"1".to_vec()));
            good
        }));
        cases.push(one("not UTF-8", UNVERIFIED, |good, header| {
            good.map(header, |value| [value.as_bytes(), b"\xff"].concat())
        }));
        cases.push(one("control", MALFORMED, |good, header| {
            good.map(header, |value| format!("{value}\u{1}").into())
        }));
        cases.push(one("name in lower case", Must::Serve, |good, header| {
            good.rename(header, header)
        }));
        cases.push(one("with underscores", UNVERIFIED, |good, header| {
            good.rename(header, &header.replace('-', "_"))
        }));
    }
    cases
}
