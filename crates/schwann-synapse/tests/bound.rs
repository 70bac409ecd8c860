//! Bound signatures: what a route demands, and what no change to a request survives.

#![expect(clippy::unwrap_used, reason = "also outside of functions marked as tests")]

use schwann::{Server, serve_connection};
use schwann_synapse::{
    axon::{Axon, AxonBuilder, BuildError, Route, SynapseError, untyped},
    caller::{BOUND_SIGNATURE_HEADER, Bound, Caller, Protocol, Verify},
    dendrite::Dendrite,
    keys::{Keypair, Signer as _},
    python::{Dict, Int},
    synapse::Untyped,
    target::Target,
};
use schwann_testkit::{Probe, pipe, probe};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

fn axon_key() -> Keypair {
    Keypair::from_uri("//bound-axon").unwrap()
}

fn dendrite() -> Dendrite {
    Dendrite::new(Keypair::from_uri("//Alice").unwrap())
}

/// How a request is signed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    V10,
    Bound,
    BtAuth,
}
use Kind::{BtAuth, V10};

/// A request of our dendrite, as it goes over the wire.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// Takes what our dendrite sends. Neither protocol signs an address, so that it can be sent elsewhere.
async fn written(name: &str, hash: &[&str], kind: Kind) -> Request {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = Target::new("127.0.0.1", port, &axon_key().hotkey().to_string()).unwrap();
    let mut fields = Dict::new();
    fields.insert("x", Int::from(3u64));
    let ask = Untyped::new(name, fields).hash(hash.iter().copied());
    let dendrite = dendrite();
    let protocol = if kind == BtAuth { Protocol::BtAuth1 } else { Protocol::V10 };
    let call = dendrite.call(&target, ask).bound(kind == Kind::Bound).protocol(protocol);
    let take = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        loop {
            if let Some(request) = Request::parse(&bytes) {
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                return request;
            }
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "cut");
        }
    };
    tokio::join!(take, call.into_future()).0
}

impl Request {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let line = lines.next()?.to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let request = Self { line, headers: lines.map(header).collect(), body: body.to_owned() };
        let length: usize = request.header("content-length").parse().unwrap();
        (request.body.len() == length).then_some(request)
    }

    fn header(&self, name: &str) -> &str {
        &self.headers.iter().find(|(key, _)| key == name).unwrap().1
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.headers.iter_mut().find(|(key, _)| key == name).unwrap().1 = value.to_owned();
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| key != name);
        self
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn line(mut self, from: &str, to: &str) -> Self {
        assert!(self.line.contains(from), "{}", self.line);
        self.line = self.line.replace(from, to);
        self
    }

    fn body(mut self, from: &str, to: &str) -> Self {
        assert!(self.body.contains(from), "{}", self.body);
        self.body = self.body.replace(from, to);
        let length = self.body.len().to_string();
        self.set("content-length", &length)
    }

    /// The status of the axon's answer, and all of it.
    async fn send(&self, axon: &Axon) -> (u16, String) {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers: String = headers.collect();
        let text = format!("{}\r\n{headers}connection: close\r\n\r\n{}", self.line, self.body);
        let (mut client, server) = pipe(64 * 1024);
        let axon = axon.clone();
        let served = tokio::spawn(async move {
            let _ = serve_connection(&Server::default(), server, axon).await;
        });
        client.write(text).await;
        let answer = client.read_to_end().await;
        // Until then the server listens for what may still be on its way.
        drop(client);
        served.await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }
}

/// A route that counts, and notes what is known of its callers in their answers.
fn route(name: &str, hash: &[&str], served: &Probe) -> Route {
    let served = served.clone();
    untyped(name).hash(hash.iter().copied()).unary(move |mut ask: Untyped, from: Caller| {
        served.hit();
        ask.fields.insert("covered", from.body_covered);
        async move { Ok::<_, SynapseError>(ask) }
    })
}

fn axon() -> AxonBuilder {
    Axon::builder(axon_key())
}

/// The request's status, and what a handler was told of its cover.
async fn answer(axon: &Axon, request: &Request) -> (u16, Option<bool>) {
    let (status, text) = request.send(axon).await;
    let said = |covered: bool| text.contains(&format!("\"covered\":{covered}"));
    (status, [true, false].into_iter().find(|covered| said(*covered)))
}

#[tokio::test]
async fn what_is_demanded_and_what_is_sent() {
    // Required fields hashed or not, how it was signed; then the status by Optional, BodyCovered and Required.
    let table: [(&[&str], Kind, [u16; 3]); 6] = [
        (&[], V10, [200, 401, 401]),
        (&["x"], V10, [200, 200, 401]),
        (&[], Kind::Bound, [200, 200, 200]),
        (&["x"], Kind::Bound, [200, 200, 200]),
        (&[], BtAuth, [200, 200, 200]),
        (&["x"], BtAuth, [200, 200, 200]),
    ];
    for verify in [Verify::Hardened, Verify::LikeReference] {
        for (hash, kind, expected) in table {
            let demands = [Bound::Optional, Bound::BodyCovered, Bound::Required];
            for (demand, expected) in demands.into_iter().zip(expected) {
                let served = probe();
                // Said of the axon, of the route, and of the route against the axon.
                let plain = || route("A", hash, &served);
                let axons = [
                    axon().bound(demand).attach(plain()),
                    axon().attach(plain().bound(demand)),
                    axon().bound(Bound::Required).attach(plain().bound(demand)),
                ];
                for axon in axons {
                    let axon = axon.verify(verify).build().unwrap();
                    let request = written("A", hash, kind).await;
                    let before = served.count();
                    let (status, covered) = answer(&axon, &request).await;
                    let case = format!("{verify:?} {hash:?} {kind:?} {demand:?}");
                    assert_eq!(status, expected, "{case}");
                    assert_eq!(served.count() - before, usize::from(expected == 200), "{case}");
                    let known = expected == 200;
                    let cover = !hash.is_empty() || kind != V10;
                    assert_eq!(covered, known.then_some(cover), "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn nothing_of_a_bound_request_can_be_changed() {
    type Change = fn(Request) -> Request;
    let changes: &[(&str, Change)] = &[
        ("another value in the body", |r| r.body("\"x\": 3", "\"x\": 4")),
        ("a space in the body", |r| r.body("3}", "3 }")),
        ("another route", |r| r.line("/A ", "/B ")),
        ("another spelling of the route", |r| r.line("/A ", "/%41 ")),
        ("a query", |r| r.line("/A ", "/A?x=1 ")),
        ("another method", |r| r.line("POST", "GET")),
        ("another timeout", |r| r.set("timeout", "60.0")),
        ("the same timeout, written otherwise", |r| r.set("timeout", "12")),
        ("no timeout", |r| r.without("timeout")),
        ("two timeouts, ours first", |r| r.with("timeout", "60.0")),
        ("no bound signature", |r| r.without(BOUND_SIGNATURE_HEADER)),
        ("an empty bound signature", |r| r.set(BOUND_SIGNATURE_HEADER, "")),
        ("half a bound signature", |r| {
            let half = r.header(BOUND_SIGNATURE_HEADER)[..66].to_owned();
            r.set(BOUND_SIGNATURE_HEADER, &half)
        }),
        ("two bound signatures", |r| {
            let again = r.header(BOUND_SIGNATURE_HEADER).to_owned();
            r.with(BOUND_SIGNATURE_HEADER, &again)
        }),
        ("the v10 signature as the bound one", |r| {
            let v10 = r.header("bt_header_dendrite_signature").to_owned();
            r.set(BOUND_SIGNATURE_HEADER, &v10)
        }),
        ("the bound signature as the v10 one", |r| {
            let bound = r.header(BOUND_SIGNATURE_HEADER).to_owned();
            r.set("bt_header_dendrite_signature", &bound)
        }),
        ("another nonce", |r| {
            let nonce: u64 = r.header("bt_header_dendrite_nonce").parse().unwrap();
            r.set("bt_header_dendrite_nonce", &(nonce + 1).to_string())
        }),
        ("another uuid", |r| r.set("bt_header_dendrite_uuid", "other")),
        ("another caller", |r| {
            let bob = Keypair::from_uri("//Bob").unwrap().hotkey().to_string();
            r.set("bt_header_dendrite_hotkey", &bob)
        }),
        ("a bit of the bound signature", |r| {
            let mut text = r.header(BOUND_SIGNATURE_HEADER).to_owned();
            let flipped = if text.ends_with('0') { "1" } else { "0" };
            text.replace_range(129.., flipped);
            r.set(BOUND_SIGNATURE_HEADER, &text)
        }),
    ];
    for verify in [Verify::Hardened, Verify::LikeReference] {
        for (what, change) in changes {
            let served = probe();
            let builder = axon().bound(Bound::Required).verify(verify);
            let axon = builder.attach(route("A", &[], &served)).attach(route("B", &[], &served));
            let axon = axon.build().unwrap();
            let request = change(written("A", &[], Kind::Bound).await);
            let (status, answer) = request.send(&axon).await;
            let malformed = what.starts_with("two ");
            let expected = match (malformed, verify) {
                (false, _) => 401,
                (true, Verify::LikeReference) => 500,
                (true, _) => 400,
            };
            assert_eq!(status, expected, "{verify:?}, {what}: {answer}");
            assert_eq!(served.count(), 0, "{verify:?}, {what}");
        }
    }
}

#[tokio::test]
async fn a_bound_signature_that_is_not_demanded_is_checked_all_the_same() {
    let served = probe();
    let axon = axon().attach(route("A", &[], &served)).build().unwrap();
    let request = written("A", &[], Kind::Bound).await.body("\"x\": 3", "\"x\": 4");
    assert_eq!(answer(&axon, &request).await, (401, None));
    // And by whoever takes it out, it is not protected: that is what `Required` is for.
    let request = written("A", &[], Kind::Bound).await.body("\"x\": 3", "\"x\": 4");
    let request = request.without(BOUND_SIGNATURE_HEADER);
    assert_eq!(answer(&axon, &request).await, (200, Some(false)));
}

#[tokio::test]
async fn a_bound_request_is_served_once() {
    for verify in [Verify::Hardened, Verify::LikeReference] {
        let served = probe();
        let axon = axon().bound(Bound::Required).verify(verify);
        let axon = axon.attach(route("A", &[], &served)).build().unwrap();
        let request = written("A", &[], Kind::Bound).await;
        assert_eq!(answer(&axon, &request).await, (200, Some(true)));
        assert_eq!(answer(&axon, &request).await, (401, None));
        assert_eq!(served.count(), 1);
    }
}

#[tokio::test]
async fn a_hook_that_verifies_does_not_lift_the_demand() {
    for (hash, demand) in
        [(&[][..], Bound::BodyCovered), (&["x"], Bound::BodyCovered), (&["x"], Bound::Required)]
    {
        for verify in [Verify::Hardened, Verify::LikeReference, Verify::Nothing, Verify::BtAuth1] {
            let served = probe();
            // It admits everybody.
            let open = route("A", hash, &served).verify_with(async |_| Ok::<_, SynapseError>(()));
            let axon = axon().verify(verify).attach(open.bound(demand)).build().unwrap();
            let case = format!("{hash:?} {demand:?} {verify:?}");
            let request = written("A", hash, V10).await;
            assert_eq!(answer(&axon, &request).await, (401, None), "{case}");
            let request = written("A", hash, Kind::Bound).await;
            let changed = request.clone().body("\"x\": 3", "\"x\": 4");
            assert_eq!(answer(&axon, &changed).await, (401, None), "{case}");
            assert_eq!(served.count(), 0, "{case}");
            assert_eq!(answer(&axon, &request).await, (200, Some(true)), "{case}");
            // Whether a nonce was used is the hook's to know.
            assert_eq!(answer(&axon, &request).await, (200, Some(true)), "{case}");
        }
    }
}

#[test]
fn who_verifies_nothing_cannot_demand_a_signature() {
    let served = probe();
    for demand in [Bound::BodyCovered, Bound::Required] {
        let routes = [
            axon().verify(Verify::Nothing).attach(route("A", &[], &served).bound(demand)),
            axon().bound(demand).attach(route("A", &[], &served).verify(Verify::Nothing)),
        ];
        for axon in routes {
            let built = axon.build();
            assert!(matches!(&built, Err(BuildError::Unverifiable(name)) if name == "A"));
        }
    }
    let both = route("A", &[], &served).verify(Verify::Nothing).bound(Bound::Optional);
    assert!(axon().bound(Bound::Required).attach(both).build().is_ok());
}
