//! Where our axon answers otherwise than the recorded one, and why.

use schwann_synapse::{
    caller::Verify,
    headers::{parse_like_reference, parse_strict},
    keys::BytesWrapping,
    python::Value,
};

use crate::{answers_alike::message, asked::Asked, exchange::Reply, set::maybe};

/// Everything a difference may depend on.
pub(crate) struct Case<'a> {
    pub(crate) asked: &'a Asked,
    /// Nothing if the axon closed the connection instead.
    pub(crate) recorded: Option<&'a Reply>,
    pub(crate) verify: Verify,
    /// Nanoseconds since 1970.
    pub(crate) now: u64,
    /// Whether another request used the same nonce before.
    pub(crate) replayed: bool,
}

pub(crate) struct Difference {
    pub(crate) applies: fn(&Case<'_>) -> bool,
    pub(crate) status: u16,
    /// The row of the specification's §16, and why.
    pub(crate) why: &'static str,
}

pub(crate) const DIFFERENT: &[Difference] = &[
    // --- however it verifies ---
    Difference {
        applies: |case| case.asked.method != "POST" && case.asked.method != "GET",
        status: 405,
        why: "the method is looked at first: refusing it costs no signature",
    },
    Difference {
        applies: |case| case.asked.target.starts_with("http://"),
        status: 200,
        why: "RFC 9112 §3.2.2: a server accepts the absolute form",
    },
    Difference {
        applies: |case| case.asked.path().trim_start_matches('/').contains('/'),
        status: 404,
        why: "a path that goes on after the route's name names no route, and nothing redirects",
    },
    Difference {
        applies: |case| case.status() == 200 && case.asked.unsigned(),
        status: 401,
        why: "W8: a signature is always required",
    },
    Difference {
        applies: |case| {
            let hotkey = case.asked.last("bt_header_dendrite_hotkey");
            case.status() == 200 && hotkey.is_some_and(|hotkey| hotkey.starts_with("0x"))
        },
        status: 401,
        why: "W13: a hotkey is written as ss58; SDK 7 took hexadecimal too, SDK 8 no longer does",
    },
    Difference {
        applies: |case| {
            case.recorded.is_none_or(|reply| {
                reply.status == 500 && reply.content_type() == Some("text/plain")
            })
        },
        status: 403,
        why: "W20: a reason that no header can carry still arrives in the body",
    },
    Difference {
        applies: |case| case.blank() && case.parses(),
        status: 200,
        why: "W21: placeholders are not made into a synapse",
    },
    Difference {
        applies: |case| case.status() == 500 && case.asked.header("content-type").is_none(),
        status: 200,
        why: "no content type is taken for JSON, as SDK 7 to 9 take it",
    },
    Difference {
        applies: |case| {
            let axon = case.asked.body().and_then(|body| body.get("axon").cloned());
            axon.is_some_and(|axon| maybe(&axon, "status_code").is_some_and(|code| !code.is_none()))
        },
        status: 200,
        why: "W9: the status is the handler's, not the caller's",
    },
    Difference {
        applies: |case| case.status() == 500 && case.unreadable(),
        status: 422,
        why: "W17: what no JSON parser reads is the caller's fault",
    },
    // --- hardened ---
    Difference {
        applies: |case| case.hardened() && !case.strict(),
        status: 400,
        why: "W17, W32, W3: headers twice, numbers not plain and times not finite are malformed",
    },
    Difference {
        applies: |case| case.hardened() && case.reads_otherwise(),
        status: 200,
        why: "W19, W32: headers have exact names, and what they say of the axon's status is nothing to us",
    },
    Difference {
        applies: |case| {
            let timeout = case.asked.header("timeout").and_then(|text| text.parse().ok());
            case.hardened() && case.status() == 401 && case.asked.well_signed() && {
                case.age() < 4.0 && timeout.is_some_and(|timeout: f64| timeout < 0.0)
            }
        },
        status: 200,
        why: "W3: a timeout below nothing counts as none, and so does not close the window",
    },
    Difference {
        applies: |case| case.hardened() && case.status() == 200 && case.age() > 64.0,
        status: 401,
        why: "W3: the window follows neither an unsigned version nor an unsigned timeout",
    },
    Difference {
        applies: |case| case.hardened() && case.status() == 200 && case.age() < -60.0,
        status: 401,
        why: "W5: nonces from the future are refused",
    },
    Difference {
        applies: |case| case.hardened() && case.status() == 403 && !case.asked.well_signed(),
        status: 401,
        why: "W11: blacklists see proven callers only",
    },
    Difference {
        applies: |case| {
            case.hardened() && case.message().ends_with("a newer one was last processed") && {
                !case.replayed && case.asked.well_signed()
            }
        },
        status: 200,
        why: "W12: an unused nonce within the window is fresh, whatever came before it",
    },
    Difference {
        applies: |case| {
            case.hardened()
                && case.asked.well_signed()
                && !case.asked.signed(BytesWrapping::Refuse)
                && case.status() != 401
        },
        status: 401,
        why: "a signature over the wrapped message is none, and costs no second look",
    },
    Difference {
        applies: |case| case.hardened() && case.status() == 500 && case.malformed(),
        status: 400,
        why: "W17: a malformed body is the caller's fault",
    },
];

impl Case<'_> {
    pub(crate) fn status(&self) -> u16 {
        self.recorded.map_or(0, |reply| reply.status)
    }

    pub(crate) fn hardened(&self) -> bool {
        self.verify == Verify::Hardened
    }

    pub(crate) fn message(&self) -> String {
        self.recorded.and_then(message).unwrap_or_default()
    }

    /// Whether the recorded axon failed while it made a synapse of the headers.
    pub(crate) fn blank(&self) -> bool {
        let view = self.recorded.is_some_and(|reply| {
            reply.header("name") == Some("Synapse")
                && reply.header("bt_header_axon_version").is_none()
        });
        self.status() == 500 && view
    }

    pub(crate) fn parses(&self) -> bool {
        parse_like_reference(self.asked.pairs()).is_ok() && (!self.hardened() || self.strict())
    }

    pub(crate) fn strict(&self) -> bool {
        parse_strict(self.asked.pairs()).is_ok()
    }

    /// Whether exact names say something else than names that merely contain those.
    pub(crate) fn reads_otherwise(&self) -> bool {
        match (parse_like_reference(self.asked.pairs()), parse_strict(self.asked.pairs())) {
            (Err(_), Ok(_)) => true,
            (Ok(loose), Ok(strict)) => loose.dendrite != strict.dendrite,
            _ => false,
        }
    }

    /// Seconds, negative for the future.
    pub(crate) fn age(&self) -> f64 {
        let nonce =
            self.asked.last("bt_header_dendrite_nonce").and_then(|nonce| nonce.parse().ok());
        nonce.map_or(0.0, |nonce: i128| (i128::from(self.now) - nonce) as f64 / 1e9)
    }

    /// A body that the reference's parsers disagree about, or that holds text which is no Unicode.
    pub(crate) fn unreadable(&self) -> bool {
        !self.asked.body.is_empty() && Value::parse_json(&self.asked.body).is_err()
    }

    /// Whether the recorded axon failed before the handler, at the body.
    pub(crate) fn malformed(&self) -> bool {
        let json = self.asked.header("content-type").is_none_or(|kind| kind.contains("json"));
        let Some(body) = self.asked.body().filter(|_| json) else { return true };
        let Some(hash) = self.asked.header("computed_body_hash") else { return true };
        let fits = match self.asked.route() {
            "PlainSynapse" => body.get("x").is_none_or(|x| matches!(x, Value::Int(_))),
            "EchoSynapse" => ["text", "count"].iter().all(|field| body.contains_key(field)),
            _ => true,
        };
        // A hash of other text than the body's: signed, so nothing else could be wrong with it.
        let hashed: &[&str] = match self.asked.route() {
            "EchoSynapse" => &["text", "count"],
            "IntKeySynapse" => &["d"],
            "NanSynapse" => &["v"],
            "PlainSynapse" => &[],
            _ => return !fits,
        };
        let computed = schwann_synapse::hash::BodyHash::of(|hasher| {
            for field in hashed {
                hasher.value(body.get(field).unwrap_or(&Value::None));
            }
        });
        !fits || hash != computed.to_string()
    }
}
