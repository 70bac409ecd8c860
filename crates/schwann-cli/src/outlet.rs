//! What cards may call: synapses of the axon beside them, signed by the axon's own hotkey.
//!
//! A card's program has a socket in its sandbox that leads here and nowhere else. Its calls go to the axon as anybody's do: verified,
//! in the order of priorities, within its limits. To a synapse all cards are one caller, the axon itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Response, StatusCode, header};
use schwann::{Call, Error, Finished, Reply};
use schwann_cards::{CallingRun, Outlet};
use schwann_synapse::{
    axon::RouteTable,
    call_error::CallError,
    dendrite::{Dendrite, Protocol},
    keys::Signer,
    python::Value,
    synapse::Untyped,
    target::Target,
};
use serde_json::json;
use tracing::info;

use crate::{
    call::{fields, reason},
    problem::{Problem, chain},
    routes::Verify,
};

/// Largest answer that is not streamed.
const MAX_ANSWER: u64 = 64 << 20;

/// The axon that cards call.
struct Beside {
    dendrite: Dendrite,
    axon: Target,
    names: Vec<String>,
    published: RouteTable,
}

/// An outlet to this axon. `timeout` is its longest call.
pub(crate) fn outlet(
    signer: Arc<dyn Signer>,
    address: SocketAddr,
    names: &[String],
    published: RouteTable,
    verify: Verify,
    timeout: Duration,
) -> Result<Outlet, Problem> {
    // An axon that listens everywhere also listens here.
    let host = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => "::1".to_owned(),
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        ip => ip.to_string(),
    };
    let axon = Target::new(&host, address.port(), &signer.hotkey().to_string());
    let axon = axon.map_err(|error| Problem::failed(chain(&error)))?;
    let protocol = match verify {
        Verify::Btauth => Protocol::BtAuth1,
        Verify::Hardened | Verify::LikeReference | Verify::Nothing => Protocol::V10,
    };
    let dendrite = Dendrite::builder(signer)
        .timeout(timeout)
        .connect_timeout(timeout.min(Duration::from_secs(5)))
        .first_byte_timeout(timeout)
        .idle_timeout(timeout)
        .protocol(protocol)
        .bound(true)
        .max_answer_bytes(MAX_ANSWER)
        .build();
    let beside = Arc::new(Beside { dendrite, axon, names: names.to_vec(), published });
    let handler = move |call: Call| {
        let beside = Arc::clone(&beside);
        async move { beside.serve(call).await }
    };
    Ok(Outlet::new("axon", handler)
        .file("axon.py", include_str!("outlet/axon.py"), false)
        .file("axon.js", include_str!("outlet/axon.js"), false)
        .file("axon", include_str!("outlet/axon.sh"), true))
}

impl Beside {
    async fn serve(&self, call: Call) -> Result<Finished, Error> {
        let (head, body, reply) = call.into_parts();
        let path = head.uri.path().to_owned();
        let mut steps = path.split('/').skip(1);
        let (first, name, rest) = (steps.next(), steps.next(), steps.next());
        let (streams, name) = match (first, name, rest, &head.method) {
            (Some(""), None, None, &Method::GET) => {
                let all = json!({"synapses": self.names, "hotkey": self.axon.hotkey()});
                return Ok(send(reply, StatusCode::OK, all.to_string()));
            }
            (Some("call"), Some(name), None, &Method::POST) => (false, name),
            (Some("stream"), Some(name), None, &Method::POST) => (true, name),
            _ => {
                let text =
                    "POST /call/NAME or /stream/NAME with a JSON object, or GET / for the names";
                return Ok(refuse(reply, StatusCode::NOT_FOUND, text));
            }
        };
        if self.published.has(name) {
            let text = "this is a published card, which cards do not call: each call of one would wait for a turn that \
                        its caller has";
            return Ok(refuse(reply, StatusCode::FORBIDDEN, text));
        }
        let bytes = body.collect().await?;
        let own = match Value::parse_json(&bytes) {
            Ok(Value::Dict(own)) => own,
            Ok(_) | Err(_) if bytes.is_empty() => Default::default(),
            Ok(_) | Err(_) => {
                let text = "the body must be a JSON object of the synapse's fields";
                return Ok(refuse(reply, StatusCode::UNPROCESSABLE_ENTITY, text));
            }
        };
        let run = head.extensions.get::<CallingRun>().map(|run| run.0);
        info!(target: "schwann::outlet", run = run.map(tracing::field::display), synapse = name, streams, "a card calls");
        let ask = Untyped::new(name, own);
        if !streams {
            return Ok(match self.dendrite.call(&self.axon, ask).await {
                Ok(answer) => send(reply, StatusCode::OK, fields(&answer.synapse.fields)),
                Err(error) => failed(reply, &error),
            });
        }
        let mut stream = match self.dendrite.stream(&self.axon, ask).await {
            Ok(stream) => stream,
            Err(error) => return Ok(failed(reply, &error)),
        };
        // A failure before the first piece is a status.
        let mut next = match stream.chunk().await {
            Ok(next) => next,
            Err(error) => return Ok(failed(reply, &error)),
        };
        let mut head = Response::new(());
        let kind = HeaderValue::from_static("application/octet-stream");
        head.headers_mut().insert(header::CONTENT_TYPE, kind);
        let mut out = reply.start(head);
        while let Some(piece) = next {
            out.write(piece).await?;
            next = stream.chunk().await.map_err(|error| Error::server(reason(&error)))?;
        }
        Ok(out.finish())
    }
}

fn send(reply: Reply, status: StatusCode, json: String) -> Finished {
    let mut head = Response::new(());
    *head.status_mut() = status;
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply.send(head, json)
}

fn refuse(reply: Reply, status: StatusCode, why: &str) -> Finished {
    send(reply, status, json!({"detail": why}).to_string())
}

/// With the status that the axon gave, or 502 if it gave none.
fn failed(reply: Reply, error: &CallError) -> Finished {
    let status = match error {
        CallError::Refused(refusal) => {
            u16::try_from(refusal.status).ok().and_then(|code| StatusCode::from_u16(code).ok())
        }
        CallError::Timeout { .. } => Some(StatusCode::GATEWAY_TIMEOUT),
        _ => None,
    };
    let status = status.filter(|status| status.is_client_error() || status.is_server_error());
    refuse(reply, status.unwrap_or(StatusCode::BAD_GATEWAY), &reason(error))
}
