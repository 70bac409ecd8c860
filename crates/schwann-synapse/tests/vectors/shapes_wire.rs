//! The synapse classes of public subnets as untyped synapses over a real connection: our dendrite and our axon, and
//! each of them with the other end of the SDK. Every field arrives, and comes back, as it was.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use schwann::Server;
use schwann_synapse::{
    axon::{Axon, Route, StreamReply, SynapseError, untyped},
    caller::Caller,
    dendrite::{CollectText, Dendrite, Inputs},
    keys::Keypair,
    python::{Dict, Value},
    synapse::{BASE_FIELDS, Untyped},
    target::Target,
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    numbers::Numbers,
    shapes::{Shape, shapes, synapse},
};

/// As the SDK's, and whole: classes that declare `timeout` as an `int` take no fraction.
const TIMEOUT: Duration = Duration::from_secs(12);

static SIGNER: LazyLock<Arc<Keypair>> =
    LazyLock::new(|| Arc::new(Keypair::from_uri("//interop-dendrite").unwrap()));

/// A class with values. Names repeat among subnets, so each gets its number.
struct Example {
    name: String,
    streams: bool,
    ask: Untyped,
}

fn examples(mut numbers: Numbers) -> Vec<Example> {
    let all = shapes();
    all.iter()
        .enumerate()
        .map(|(at, shape)| {
            let name = format!("{}{at}", shape.class);
            let ask = Untyped { name: name.clone(), ..synapse(shape, &mut numbers) };
            Example { name, streams: streams(shape), ask }
        })
        .collect()
}

fn streams(shape: &Shape) -> bool {
    shape.bases.iter().any(|base| base.ends_with("StreamingSynapse"))
}

/// What handlers got, by the route.
type Seen = Arc<Mutex<BTreeMap<String, Dict>>>;

fn route(example: &Example, seen: &Seen) -> Route {
    let seen = Arc::clone(seen);
    let note = move |ask: &Untyped| {
        seen.lock().unwrap().insert(ask.name.clone(), ask.fields.clone());
    };
    let redefined = BASE_FIELDS.into_iter().filter(|base| example.ask.fields.contains_key(base));
    let begun = untyped(&example.name).hash(example.ask.hash.clone()).redefines(redefined);
    if example.streams {
        begun.streaming(move |ask: Untyped, _: Caller, reply: StreamReply| {
            note(&ask);
            async move {
                let mut out = reply.start();
                let text = ask.fields.to_python_json().into_bytes();
                for piece in text.chunks(7) {
                    out.write(piece.to_vec()).await?;
                }
                Ok::<_, SynapseError>(out.finish())
            }
        })
    } else {
        begun.unary(move |ask: Untyped, _: Caller| {
            note(&ask);
            async move { Ok::<_, SynapseError>(ask) }
        })
    }
}

async fn serve(examples: &[Example], seen: &Seen) -> (Target, JoinHandle<schwann::Drained>) {
    let mut axon = Axon::builder(Keypair::from_uri("//interop-axon").unwrap());
    for example in examples {
        axon = axon.attach(route(example, seen));
    }
    let axon = axon.build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = Target::new("127.0.0.1", port, &axon.hotkey().to_string()).unwrap();
    (target, tokio::spawn(Server::default().run(listener, axon, std::future::pending())))
}

/// Fields that are the class's alone. Those of the base, declared again, the SDK fills itself.
fn own(fields: &Dict) -> Dict {
    let own = fields.iter().filter(|(name, _)| !BASE_FIELDS.contains(name));
    own.map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

/// Calls the axon with one example; what comes back is what was sent.
async fn call(dendrite: &Dendrite, axon: &Target, example: &Example) -> Result<(), String> {
    let answered = if example.streams {
        let call = dendrite.stream(axon, example.ask.clone()).timeout(TIMEOUT);
        let mut stream = call
            .hooks(CollectText::into_field("streamed"))
            .await
            .map_err(|why| format!("{why:?}"))?;
        while stream.chunk().await.map_err(|why| format!("{why:?}"))?.is_some() {}
        let answer = stream.finish().await.map_err(|why| format!("{why:?}"))?;
        let text =
            answer.synapse.fields.get("streamed").and_then(Value::as_str).unwrap_or_default();
        match Value::parse_json(text.as_bytes()) {
            Ok(Value::Dict(fields)) => fields,
            other => return Err(format!("streamed {text:?}: {other:?}")),
        }
    } else {
        let call =
            dendrite.call(axon, example.ask.clone()).timeout(TIMEOUT).inputs(Inputs::Answered);
        let answer = call.await.map_err(|why| format!("{why:?}"))?;
        if !answer.altered.is_empty() || !answer.is_success() {
            return Err(format!("altered {:?}, status {:?}", answer.altered, answer.status_code()));
        }
        answer.synapse.fields
    };
    let (got, sent) = (own(&answered), own(&example.ask.fields));
    if got != sent {
        return Err(format!("got {}, sent {}", got.to_python_json(), sent.to_python_json()));
    }
    Ok(())
}

async fn call_all(axon: &Target, examples: &[Example]) -> Vec<String> {
    let dendrite = Dendrite::builder(Arc::clone(&SIGNER)).build();
    let mut failures = Vec::new();
    for example in examples {
        if let Err(why) = call(&dendrite, axon, example).await {
            failures.push(format!("{}: {why}", example.name));
        }
    }
    failures
}

#[tokio::test]
async fn every_shape_makes_the_round_trip_between_our_ends() {
    for round in 0..3 {
        let examples = examples(Numbers(round));
        assert!(examples.iter().any(|example| example.streams), "no class streams");
        let seen = Seen::default();
        let (target, server) = serve(&examples, &seen).await;
        let failures = call_all(&target, &examples).await;
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        // Base fields declared again included, which the answer could not show.
        let seen = seen.lock().unwrap();
        for example in &examples {
            let (got, sent) = (&seen[&example.name], &example.ask.fields);
            assert_eq!(own(got), own(sent), "{}", example.name);
            // They travel in the base fields' places.
            for base in BASE_FIELDS {
                assert_eq!(got.get(base), sent.get(base), "{}: {base}", example.name);
            }
        }
        server.abort();
    }
}

/// The same with the real SDK at the other end, its classes made of the same file.
#[cfg(feature = "peers")]
mod peer {
    use std::path::{Path, PathBuf};

    use schwann_testkit::peer::{self, Peer, free_port, interpreter};

    use super::*;

    fn script() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/shapes_peer.py")
    }

    fn file() -> PathBuf {
        crate::set::path("SCHWANN_SHAPES", "vectors/synapse_shapes.json")
    }

    #[tokio::test]
    async fn our_dendrite_calls_every_shape_of_the_sdks_axon() {
        let port = free_port().to_string();
        let arguments: [PathBuf; 6] = [
            script(),
            "serve".into(),
            "--shapes".into(),
            file(),
            "--port".into(),
            port.as_str().into(),
        ];
        let axon = Peer::start(interpreter("SCHWANN_PEER_SDK_10_5"), arguments).await;
        let target = Target::new("127.0.0.1", port.parse().unwrap(), axon.said("hotkey")).unwrap();
        let failures = call_all(&target, &examples(Numbers(7))).await;
        assert!(failures.is_empty(), "{}\n{}", failures.join("\n"), axon.stderr());
    }

    #[tokio::test]
    async fn the_sdks_dendrite_calls_every_shape_of_our_axon() {
        let examples = examples(Numbers(8));
        let seen = Seen::default();
        let (target, server) = serve(&examples, &seen).await;
        let values = examples
            .iter()
            .map(|example| (example.name.clone(), Value::Dict(own(&example.ask.fields))));
        let values = Dict::from_iter(values);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values.json");
        std::fs::write(&path, values.to_python_json()).unwrap();
        let arguments: [PathBuf; 10] = [
            script(),
            "call".into(),
            "--shapes".into(),
            file(),
            "--port".into(),
            target.port().to_string().into(),
            "--axon-hotkey".into(),
            target.hotkey().into(),
            "--values".into(),
            path,
        ];
        let report =
            peer::run(interpreter("SCHWANN_PEER_SDK_10_5"), arguments, Duration::from_secs(240))
                .await;
        report.expect_all(examples.len());
        let seen = seen.lock().unwrap();
        for example in &examples {
            let mut got = own(&seen[&example.name]);
            // The script's own, where it collects what is streamed.
            got.remove("streamed");
            assert_eq!(got, own(&example.ask.fields), "{}", example.name);
        }
        server.abort();
    }
}
