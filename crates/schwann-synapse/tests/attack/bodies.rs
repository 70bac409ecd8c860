//! Bodies that are not the signed ones, and bodies that are not what they seem.

use schwann_synapse::{
    keys::{Keypair, Signer},
    python::Value,
};

use crate::world::{
    BODY, BtAuth, Case, HASH, MALFORMED, MALLORY, Must, TIMEOUT, UNVERIFIED, V10, VICTIM, World,
    case, check, foreign, hash_of, play,
};

const NOT_JSON: Must = Must::Refuse(&[422]);

/// A body sent under the signed hash of the text `hello`.
fn sent(name: &str, tries: &str, must: Must, body: impl Into<Vec<u8>>) -> Case {
    let body = body.into();
    case(name, tries, must, move |world| world.good().body(&body))
}

/// A body of `Typed` under the hash of `hello`, 1, 1.0 and True.
fn typed(name: &str, tries: &str, must: Must, body: &'static str) -> Case {
    case(name, tries, must, move |world| {
        let fields = ["hello".into(), Value::from(1), Value::from(1.0), Value::Bool(true)];
        V10::new(&world.axon, "Typed").hash(&fields).body(body).request()
    })
}

/// An untyped body whose field is hashed as another value than it is.
fn confused(name: &str, signed: Value, body: &'static str) -> Case {
    case(name, "another value under the signed hash", MALFORMED, move |world| {
        V10::new(&world.axon, "Echo").hash(std::slice::from_ref(&signed)).body(body).request()
    })
}

/// A body that names the victim; the handler must see Alice.
fn spoofed(name: &str, body: &'static str) -> Case {
    play(name, "to be the victim in the handler's eyes (W1)", move |world| {
        let body = body.replace("VICTIM", &VICTIM.hotkey().to_string());
        let v10 = V10::new(&world.axon, "Free").body(body.clone()).request();
        let mut btauth = BtAuth::new(&world.axon, "Free");
        btauth.body = body.into_bytes();
        for request in [v10, btauth.request()] {
            world.expect(Must::Serve, &request)?;
            let (caller, fields) = world.seen.last();
            let victim = VICTIM.hotkey().to_string();
            check(!fields.contains(&victim), format!("the handler was given {fields}"))?;
            check(!format!("{caller:?}").contains(&victim), format!("{caller:?}"))?;
        }
        Ok(())
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        sent("another text", "a body that was not signed", MALFORMED, r#"{"text": "evil"}"#),
        sent("another case", "letters that fold", MALFORMED, r#"{"text": "Hello"}"#),
        sent("a letter that looks alike", "a Cyrillic e", MALFORMED, "{\"text\": \"h\u{435}llo\"}"),
        sent("a space after it", "white space that is trimmed", MALFORMED, r#"{"text": "hello "}"#),
        sent("a zero byte after it", "an escape for NUL", MALFORMED, r#"{"text": "hello\u0000"}"#),
        sent("the field in upper case", "another field", MALFORMED, r#"{"Text": "hello"}"#),
        sent("the field left out", "nothing where something was signed", MALFORMED, "{}"),
        sent("the field null", "None where something was signed", MALFORMED, r#"{"text": null}"#),
        sent(
            "the field in a list",
            "its text inside of a list",
            MALFORMED,
            r#"{"text": ["hello"]}"#,
        ),
        sent(
            "the field twice, true one first",
            "two parsers, two values (W33)",
            MALFORMED,
            r#"{"text": "hello", "text": "evil"}"#,
        ),
        play("the field twice, true one last", "two parsers, two values (W33)", |world| {
            let body = r#"{"text": "evil", "text": "hello"}"#;
            world.expect(Must::Serve, &world.good().body(body))?;
            let (_, fields) = world.seen.last();
            check(fields == "{'text': 'hello'}", format!("the handler was given {fields}"))
        }),
        sent(
            "the field twice, one escaped",
            "a key in two spellings (W33)",
            MALFORMED,
            r#"{"text": "hello", "\u0074ext": "evil"}"#,
        ),
        sent("empty", "no body", MALFORMED, ""),
        sent("a space", "no JSON", NOT_JSON, " "),
        sent("null", "JSON, but no object", MALFORMED, "null"),
        sent("a list", "JSON, but no object", MALFORMED, r#"[{"text": "hello"}]"#),
        sent("a text", "JSON, but no object", MALFORMED, r#""hello""#),
        sent("a number", "JSON, but no object", MALFORMED, "1"),
        sent("cut", "half of an object", NOT_JSON, r#"{"text": "hel"#),
        sent("two objects", "something after the end", NOT_JSON, format!("{BODY}{BODY}")),
        sent("a comma too many", "what some parsers take", NOT_JSON, r#"{"text": "hello",}"#),
        sent("single quotes", "Python's spelling", NOT_JSON, "{'text': 'hello'}"),
        sent("a comment", "what some parsers take", NOT_JSON, r#"{"text": "hello" /* */}"#),
        sent("a control character", "a raw newline in a text", NOT_JSON, "{\"text\": \"hel\nlo\"}"),
        sent(
            "a byte order mark",
            "three bytes before the object",
            NOT_JSON,
            format!("\u{feff}{BODY}"),
        ),
        sent(
            "invalid UTF-8",
            "bytes that are no text",
            MALFORMED,
            b"{\"text\": \"hello\xff\"}".to_vec(),
        ),
        sent(
            "overlong UTF-8",
            "a letter in too many bytes",
            MALFORMED,
            b"{\"text\": \"\xc1\xa8\"}".to_vec(),
        ),
        sent("UTF-16", "the other encoding of JSON", Must::Refuse(&[400, 422]), {
            BODY.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()
        }),
        sent(
            "a lone surrogate",
            "half of a letter",
            Must::Refuse(&[400, 422]),
            r#"{"text": "\ud800"}"#,
        ),
        sent(
            "a lone surrogate in a field nobody hashes",
            "half of a letter",
            Must::Refuse(&[400, 422]),
            r#"{"text": "hello", "x": "\udfff"}"#,
        ),
        sent("NaN", "no number of JSON", Must::Refuse(&[400, 422]), r#"{"text": NaN}"#),
        sent("1e999", "a number beyond all", Must::Refuse(&[400, 422]), r#"{"text": 1e999}"#),
        sent(
            "gzip",
            "a body that is to be inflated",
            MALFORMED,
            vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
        ),
        case("gzip, announced", "content-encoding on a request", MALFORMED, |world| {
            let bomb = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xff];
            world.good().set("content-encoding", "gzip").body(bomb)
        }),
        sent("nested 100,000 deep", "a stack that overflows", NOT_JSON, {
            format!("{{\"text\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000))
        }),
        sent("objects nested 100,000 deep", "a stack that overflows", NOT_JSON, {
            format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000))
        }),
        sent("100,000 deep, never closed", "a stack that overflows", NOT_JSON, {
            format!("{{\"text\": {}", "[".repeat(100_000))
        }),
        sent(
            "an integer of a million digits",
            "a number that takes the square of its length",
            MALFORMED,
            format!("{{\"text\": {}}}", "9".repeat(1_000_000)),
        ),
        sent(
            "a float of a million digits",
            "a number that takes the square of its length",
            MALFORMED,
            format!("{{\"text\": 1.{}}}", "9".repeat(1_000_000)),
        ),
        sent("half a million numbers", "a body that grows when it is parsed", Must::Serve, {
            format!("{{\"text\": \"hello\", \"x\": [1{}]}}", ",1".repeat(500_000))
        }),
        sent("200,000 keys", "keys that are looked up one by one", Must::Serve, {
            let keys: String = (0..200_000).map(|at| format!("\"k{at}\": 1,")).collect();
            format!("{{{keys} \"text\": \"hello\"}}")
        }),
        sent("200,000 equal keys", "keys that are replaced one by one", Must::Serve, {
            format!("{{{} \"text\": \"hello\"}}", "\"x\": 1,".repeat(200_000))
        }),
        sent("base field of another type", "a terminal that is a text", MALFORMED, {
            r#"{"text": "hello", "dendrite": "5Victim"}"#
        }),
        sent("base field with a long text", "an error that quotes the body", MALFORMED, {
            format!("{{\"text\": \"hello\", \"timeout\": \"{}\"}}", "x".repeat(500_000))
        }),
        sent("a terminal's port beyond 64 bits", "an integer that wraps", MALFORMED, {
            r#"{"text": "hello", "dendrite": {"port": 18446744073709551617}}"#
        }),
        confused("1.0 for 1", Value::from(1), r#"{"text": 1.0}"#),
        confused("true for 1", Value::from(1), r#"{"text": true}"#),
        confused("1 for true", Value::Bool(true), r#"{"text": 1}"#),
        confused("null for an empty text", Value::from(""), r#"{"text": null}"#),
        confused("0 for -0.0", Value::from(-0.0), r#"{"text": 0}"#),
        confused("0.0 for -0.0", Value::from(-0.0), r#"{"text": 0.0}"#),
        confused("an empty list for an empty object", Value::List(Vec::new()), r#"{"text": {}}"#),
        confused(
            "2^53 + 1 as a float",
            Value::from(9_007_199_254_740_993_i64),
            r#"{"text": 9007199254740993.0}"#,
        ),
        confused("an order of keys", Value::parse_json(b"{\"a\": 1, \"b\": 2}").unwrap(), {
            r#"{"text": {"b": 2, "a": 1}}"#
        }),
        typed("typed: as signed", "the honest body", Must::Serve, {
            r#"{"text": "hello", "count": 1, "ratio": 1.0, "flag": true}"#
        }),
        typed("typed: a float for an int", "1.5 where 1 was signed", MALFORMED, {
            r#"{"text": "hello", "count": 1.5, "ratio": 1.0, "flag": true}"#
        }),
        typed("typed: a number for a text", "a type that pydantic refuses", MALFORMED, {
            r#"{"text": 1, "count": 1, "ratio": 1.0, "flag": true}"#
        }),
        typed("typed: a false for a true", "another value", MALFORMED, {
            r#"{"text": "hello", "count": 1, "ratio": 1.0, "flag": false}"#
        }),
        typed("typed: values swapped", "the right values in the wrong fields", MALFORMED, {
            r#"{"text": "hello", "count": true, "ratio": 1.0, "flag": 1, "count": 2}"#
        }),
        typed("typed: an int beyond 64 bits", "1 if cut to 64 bits", MALFORMED, {
            r#"{"text": "hello", "count": 18446744073709551617, "ratio": 1.0, "flag": true}"#
        }),
        typed("typed: a field left out", "a default where there is none", MALFORMED, {
            r#"{"text": "hello", "count": 1, "ratio": 1.0}"#
        }),
        typed("typed: a long text for a number", "an error that quotes the body", MALFORMED, {
            r#"{"text": "hello", "count": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "ratio": 1.0, "flag": true}"#
        }),
        typed(
            "typed: NaN for a float",
            "a float that equals nothing",
            Must::Refuse(&[400, 422]),
            r#"{"text": "hello", "count": 1, "ratio": NaN, "flag": true}"#,
        ),
        play(
            "typed: another spelling of the same value",
            "a text that is read as a number",
            |world| {
                let fields = ["hello".into(), Value::from(1), Value::from(1.0), Value::Bool(true)];
                for (ratio, count) in [("1", "1"), ("1.0", "\"1\""), ("1e0", "1.0")] {
                    let body = format!(
                        r#"{{"text": "hello", "count": {count}, "ratio": {ratio}, "flag": true}}"#
                    );
                    let request = V10::new(&world.axon, "Typed").hash(&fields).body(body).request();
                    world.expect(Must::Serve, &request)?;
                    let (_, seen) = world.seen.last();
                    let same =
                        seen == r#"Typed { text: "hello", count: 1, ratio: 1.0, flag: true }"#;
                    check(same, format!("signed one thing, the handler saw {seen}"))?;
                }
                Ok(())
            },
        ),
        spoofed("a victim in the body's dendrite", r#"{"dendrite": {"hotkey": "VICTIM"}}"#),
        spoofed("a victim in both terminals", {
            r#"{"dendrite": {"hotkey": "VICTIM", "nonce": 5}, "axon": {"hotkey": "VICTIM"}}"#
        }),
        spoofed("a victim in the second dendrite", {
            r#"{"dendrite": {"hotkey": null}, "dendrite": {"hotkey": "VICTIM"}}"#
        }),
        play("hash in upper case, signed so", "another spelling of the right hash", |world| {
            let mut v10 = V10::new(&world.axon, "Echo");
            v10.hash = v10.hash.to_uppercase();
            world.expect(MALFORMED, &v10.request())
        }),
        play("hash of the whole body", "a hash of something else", |world| {
            let mut v10 = V10::new(&world.axon, "Echo");
            v10.hash = hash_of(&[BODY.into()]);
            world.expect(MALFORMED, &v10.request())
        }),
        play(
            "hash of nothing for a route with hashed fields",
            "to have nothing protected (W2)",
            |world| {
                let mut v10 = V10::new(&world.axon, "Echo");
                v10.hash = hash_of(&[]);
                world.expect(MALFORMED, &v10.request())
            },
        ),
        play("no hash, signed as None", "to leave the hash out (W2)", |world| {
            let mut v10 = V10::new(&world.axon, "Echo");
            v10.hash = "None".to_owned();
            world.expect(MALFORMED, &v10.request().without(HASH))?;
            let mut v10 = V10::new(&world.axon, "Free");
            v10.hash = "None".to_owned();
            world.expect(MALFORMED, &v10.request().without(HASH))
        }),
        play(
            "an uncovered body where it must be covered",
            "a class that hashes nothing (W2)",
            |world| {
                let request = V10::new(&world.axon, "CoveredFree").request();
                world.expect(UNVERIFIED, &request)?;
                world.expect(UNVERIFIED, &V10::new(&world.axon, "Bound").request())?;
                world.expect(Must::Serve, &V10::new(&world.axon, "Covered").request())
            },
        ),
        case(
            "a body over the route's limit",
            "1,001 bytes where 1,000 are taken",
            Must::Refuse(&[413]),
            |w| V10::new(&w.axon, "Small").body(vec![b' '; 1001]).request(),
        ),
        case("text/plain", "another content type", MALFORMED, |world| {
            world.good().set("content-type", "text/plain")
        }),
        case("a form", "what browsers send without asking", MALFORMED, |world| {
            world.good().set("content-type", "application/x-www-form-urlencoded")
        }),
        case("text/json", "almost the content type", MALFORMED, |world| {
            world.good().set("content-type", "text/json; application/json")
        }),
        case("denied hotkey", "whom the route denies", Must::Refuse(&[403]), |world| {
            V10::new(&world.axon, "Denying").by(&MALLORY).request()
        }),
        case("unlisted hotkey", "whom the route does not allow", Must::Refuse(&[403]), |world| {
            V10::new(&world.axon, "Allowing").by(&VICTIM).request()
        }),
        case("an allowed hotkey's name", "to name whom the route allows", UNVERIFIED, |world| {
            let mut v10 = V10::new(&world.axon, "Allowing").by(&VICTIM);
            v10.hotkey = V10::new(&world.axon, "Allowing").hotkey;
            v10.request()
        }),
        case("a timeout in the body", "a deadline in the body", Must::Serve, |world| {
            world.good().set(TIMEOUT, "5").body(r#"{"text": "hello", "timeout": 1e308}"#)
        }),
        play("a handler that panics", "a bug that a caller found", |world| {
            let request = V10::new(&world.axon, "Panicking").request();
            let answer = world.expect_at(&world.axon, Must::Refuse(&[500]), &request)?;
            check(!answer.text().contains("on purpose"), "the panic's text was told")
        }),
        play("a wordy refusal", "a message too long for a header", |world| {
            let request = V10::new(&world.axon, "Wordy").request();
            let answer = crate::world::send(world.axon.at, &request.bytes());
            let text = answer.text();
            check(answer.status == 409 && text.contains(&"w".repeat(50_000)), "not told whole")?;
            let longest = text.split("\r\n\r\n").next().unwrap().lines().map(str::len).max();
            check(longest < Some(2000), format!("a header line of {longest:?} bytes"))
        }),
        play("a reason with a line break", "a second answer inside of the first (W20)", |world| {
            for route in ["Splitting", "SplittingStatus"] {
                let request = V10::new(&world.axon, route).request();
                let answer = crate::world::send(world.axon.at, &request.bytes());
                let head = answer.text().split("\r\n\r\n").next().unwrap().to_lowercase();
                check(matches!(answer.status, 403 | 418), answer.text())?;
                check(!head.contains("\r\nset-cookie"), format!("split: {head}"))?;
                check(head.contains("content-length:"), "an answer without its length")?;
            }
            Ok(())
        }),
    ];
    for prefix in [0, 2, 41, 43, 63, 64, 255, 2032, 16383] {
        cases.push(case(
            format!("denied hotkey as an address of network {prefix}"),
            "the same key under another prefix (W13)",
            Must::Refuse(&[403]),
            move |world| {
                let mut v10 = V10::new(&world.axon, "Denying").by(&MALLORY);
                v10.hotkey = foreign(MALLORY.hotkey(), prefix);
                v10.request()
            },
        ));
    }
    cases.push(play(
        "replay under another prefix",
        "a nonce per address instead of per key (W13)",
        |world| {
            let good = world.good();
            world.expect(Must::Serve, &good)?;
            let request = good.map(crate::world::HOTKEY, |_| {
                foreign(Keypair::from_uri("//Alice").unwrap().hotkey(), 0).into()
            });
            world.expect(UNVERIFIED, &request)
        },
    ));
    cases
}

/// Kept for the weaknesses' tests.
pub(crate) fn covered_by_a_bound_signature(world: &World) -> (V10, crate::world::Request) {
    use schwann_synapse::{
        caller::{BOUND_SIGNATURE_HEADER, bound_message},
        keys::signature_hex,
    };
    use sha2::{Digest, Sha256};
    let v10 = V10::new(&world.axon, "Bound");
    let sha256: [u8; 32] = Sha256::digest(&v10.body).into();
    let message = bound_message(&v10.message(), "POST", "/Bound", "12.0", &sha256);
    let signature = signature_hex(&v10.key.sign(message.as_bytes()));
    let request = v10.request().add(BOUND_SIGNATURE_HEADER, signature);
    (v10, request)
}
