//! What can be done to each header of a v10 request.

use schwann_synapse::keys::Signer;

use crate::world::{
    Case, HOTKEY, MALFORMED, Must, NONCE, SIGNATURE, TIMEOUT, UNVERIFIED, UUID, V10, VERSION,
    VICTIM, case, check, foreign, play,
};

/// What happens to a header: s is served, m is malformed (400), u is unverified (401).
/// In this order: left out, empty, 20,000 letters, one more letter beyond ASCII, upper case, a space in its middle.
const FATES: [(&str, &str); 14] = [
    ("name", "ssssss"),
    (TIMEOUT, "smmmsm"),
    ("bt_header_axon_ip", "ssssss"),
    ("bt_header_axon_port", "smmmsm"),
    // The signed message has the axon's own hotkey, whatever the header says.
    ("bt_header_axon_hotkey", "ssssss"),
    ("bt_header_dendrite_ip", "ssssss"),
    (VERSION, "smmmsm"),
    (NONCE, "ummmsm"),
    (UUID, "uuuuuu"),
    (HOTKEY, "uuuuuu"),
    // In upper case it begins with 0X, which the reference refuses too.
    (SIGNATURE, "uuuuuu"),
    ("header_size", "smmmsm"),
    ("total_size", "smmmsm"),
    ("computed_body_hash", "uuuuuu"),
];

fn fate(letter: u8) -> Must {
    match letter {
        b's' => Must::Serve,
        b'm' => MALFORMED,
        b'u' => UNVERIFIED,
        other => panic!("{other}"),
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (header, fates) in FATES {
        let fates = fates.as_bytes();
        let mut one = |trick: &str, tries: &str, must: Must, bend: fn(String) -> Vec<u8>| {
            cases.push(case(format!("{header}: {trick}"), tries, must, move |world| {
                world.good().map(header, bend)
            }));
        };
        one("empty", "a header without a value", fate(fates[1]), |_| Vec::new());
        one("huge", "20,000 bytes in one header", fate(fates[2]), |_| vec![b'A'; 20_000]);
        one("beyond ASCII", "a letter of two bytes", fate(fates[3]), |value| {
            format!("{value}\u{e9}").into()
        });
        one("upper case", "the value in upper case", fate(fates[4]), |value| {
            value.to_uppercase().into()
        });
        one("a space in it", "a value that some parsers join or cut", fate(fates[5]), |value| {
            let (left, right) = value.split_at(value.len() / 2);
            format!("{left} {right}").into()
        });
        one("not UTF-8", "bytes that are no text", MALFORMED, |value| {
            [value.as_bytes(), b"\xff\xfe"].concat()
        });
        one("NUL", "a zero byte, at which C ends a text", MALFORMED, |value| {
            format!("{value}\0x").into()
        });
        one("control", "a control character", MALFORMED, |value| format!("{value}\u{1}").into());
        one("spaces around", "white space that HTTP takes off", Must::Serve, |value| {
            format!(" \t {value} \t ").into()
        });
        one("folded", "a line folded as HTTP once allowed", MALFORMED, |value| {
            let (left, right) = value.split_at(value.len() / 2);
            format!("{left}\r\n {right}").into()
        });
        cases.push(case(
            format!("{header}: missing"),
            "a request without it",
            fate(fates[0]),
            move |world| world.good().without(header),
        ));
        cases.push(case(
            format!("{header}: twice the same"),
            "two equal headers (W32)",
            MALFORMED,
            move |world| {
                let good = world.good();
                let value = good.value(header);
                good.add(header, value)
            },
        ));
        cases.push(case(
            format!("{header}: twice, the true one first"),
            "first wins or last wins (W32)",
            MALFORMED,
            move |world| world.good().add(header, "1"),
        ));
        cases.push(case(
            format!("{header}: twice, the true one last, in other case"),
            "first wins or last wins, by spelling (W32)",
            MALFORMED,
            move |world| {
                let mut bent = world.good();
                bent.headers.insert(0, (header.to_uppercase().into(), b"1".to_vec()));
                bent
            },
        ));
        cases.push(case(
            format!("{header}: name in upper case"),
            "HTTP header names have no case",
            Must::Serve,
            move |world| world.good().rename(header, &header.to_uppercase()),
        ));
        cases.push(case(
            format!("{header}: space before the colon"),
            "a name that some parsers trim",
            MALFORMED,
            move |world| world.good().rename(header, &format!("{header} ")),
        ));
        cases.push(case(
            format!("{header}: with dashes"),
            "a proxy's spelling takes the place of a header that is missing",
            fate(if header.contains('_') { fates[0] } else { b's' }),
            move |world| world.good().rename(header, &header.replace('_', "-")),
        ));
        if header.starts_with("bt_") {
            for (place, name) in [
                ("before", format!("x-{header}")),
                ("after", format!("{header}_x")),
                ("around", format!("bt_header_axon_{header}")),
            ] {
                cases.push(case(
                    format!("{header}: text {place} the name"),
                    "the reference finds names inside of names (W32)",
                    Must::Serve,
                    move |world| world.good().add(&name, VICTIM.hotkey().to_string()),
                ));
            }
        }
    }
    cases.extend(others());
    cases
}

fn others() -> Vec<Case> {
    vec![
        case("head over the limit", "a head of 40,000 bytes", Must::Refuse(&[431]), |world| {
            world.good().set("x-filler", vec![b'x'; 40_000])
        }),
        case("a thousand headers", "more lines than are taken", Must::Refuse(&[431]), |world| {
            (0..1000).fold(world.good(), |good, at| good.add(format!("x-{at}"), "1"))
        }),
        case("only placeholders", "no terminal, ninety input objects", UNVERIFIED, |world| {
            let mut bare = world.good();
            bare.headers.retain(|(name, _)| !name.starts_with(b"bt_"));
            (0..90).fold(bare, |good, at| good.add(format!("bt_header_input_obj_{at}"), "IiI="))
        }),
        case("placeholder of garbage", "base64 that is none", Must::Serve, |world| {
            world.good().add("bt_header_input_obj_text", "%%%")
        }),
        case(
            "placeholder with a value",
            "a field's value from an unsigned header",
            Must::Serve,
            |world| world.good().add("bt_header_input_obj_text", "ImV2aWwi"),
        ),
        case(
            "placeholder with a long name and no text",
            "an error that quotes a header's name",
            MALFORMED,
            |world| {
                world.good().add(format!("bt_header_input_obj_{}", "n".repeat(20_000)), b"\xff")
            },
        ),
        case(
            "v10 prefix with nothing after it",
            "an attribute without a name",
            Must::Serve,
            |world| world.good().add("bt_header_dendrite_", VICTIM.hotkey().to_string()),
        ),
        case(
            "axon status headers",
            "to choose the axon's own status and message (W19)",
            Must::Serve,
            |world| {
                world
                    .good()
                    .add("bt_header_axon_status_code", "500")
                    .add("bt_header_axon_status_message", "chosen by the client")
                    .add("bt_header_axon_process_time", "nan")
            },
        ),
        play(
            "axon status message in a refusal",
            "to put words into the axon's mouth (W19)",
            |world| {
                let bent = world.good().without(SIGNATURE);
                let bent = bent.add("bt_header_axon_status_message", "chosen by the client");
                let answer = world.expect_at(&world.axon, UNVERIFIED, &bent)?;
                check(!answer.text().contains("chosen"), answer.text())
            },
        ),
        play("axon status in a body", "to choose the status of the answer by the body", |world| {
            let body = r#"{"text": "hello", "axon": {"status_code": 500, "status_message": "x"}}"#;
            let request = V10::new(&world.axon, "Echo").body(body).request();
            let answer = world.expect_at(&world.axon, Must::Serve, &request)?;
            let said = answer.text().to_lowercase();
            check(said.contains("bt_header_axon_status_code: 200"), answer.text())
        }),
        case(
            "hotkey in hexadecimal",
            "the form of SDK 7.4, which has no checksum",
            UNVERIFIED,
            |w| {
                let mut v10 = V10::new(&w.axon, "Echo");
                v10.hotkey = format!("0x{}", hex::encode(v10.key.hotkey().as_bytes()));
                v10.request()
            },
        ),
        case("hotkey with a bad checksum", "an address with one letter changed", UNVERIFIED, |w| {
            let mut v10 = V10::new(&w.axon, "Echo");
            let last = if v10.hotkey.ends_with('A') { "B" } else { "A" };
            v10.hotkey.replace_range(v10.hotkey.len() - 1.., last);
            v10.request()
        }),
        case("hotkey of dots", "parts of the message inside of a part", UNVERIFIED, |w| {
            let mut v10 = V10::new(&w.axon, "Echo");
            v10.hotkey = format!("{}.{}", v10.hotkey, v10.receiver);
            v10.request()
        }),
        case("hotkey of a foreign prefix", "the same key by another address", Must::Serve, |w| {
            let mut v10 = V10::new(&w.axon, "Echo");
            v10.hotkey = foreign(v10.key.hotkey(), 2);
            v10.request()
        }),
    ]
}
