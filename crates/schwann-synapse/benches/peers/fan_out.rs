//! One client, many axons: what a validator does.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use schwann_synapse::{
    dendrite::Dendrite,
    keys::{Keypair, Signer as _, signature_hex},
    nonce::now_ns,
    synapse::Synapse,
    target::Target,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{Failure, dismissed, hear, runtime, say};

/// A wish to call every axon some times.
#[derive(Clone, Deserialize)]
struct Job {
    ports: Vec<u16>,
    hotkey: String,
    /// Whether the axons take their time.
    slow: bool,
    rounds: usize,
    /// Seconds.
    timeout: f64,
    /// Whether connections of earlier rounds and jobs may be used.
    kept: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct PlainSynapse {
    #[serde(default)]
    x: i64,
    #[serde(default)]
    y: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct SlowSynapse {
    #[serde(default)]
    delay: f64,
    #[serde(default)]
    done: bool,
}

const AXON_URI: &str = "//bench-axons";

/// Listeners that answer every request alike, at once or after a second.
pub(crate) fn axons(count: &str) -> Result<(), Failure> {
    let count: usize = count.parse()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let hotkey = Keypair::from_uri(AXON_URI)?.hotkey().to_string();
        let fixed = Arc::new(Fixed::new(&hotkey)?);
        let mut ports = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            ports.push(listener.local_addr()?.port());
            tokio::spawn(serve(listener, Arc::clone(&fixed)));
        }
        say(&json!({ "ready": true, "hotkey": hotkey, "ports": ports }))?;
        dismissed().await;
        Ok(())
    })
}

/// An answer with the headers an axon gives.
struct Fixed {
    plain: Response<Bytes>,
    slow: Response<Bytes>,
}

impl Fixed {
    fn new(hotkey: &str) -> Result<Self, Failure> {
        let answer = |name: &str, own: &str| {
            let terminal = "\"status_code\":200,\"status_message\":\"Success\",\"process_time\":0.001,\"ip\":\"127.0.0.1\",\
                            \"port\":8091,\"version\":10005000,\"nonce\":1,\"uuid\":\"u\",\"hotkey\":\"h\",\"signature\":\"0x00\"";
            let body = format!(
                "{{\"name\":\"{name}\",\"timeout\":12.0,\"total_size\":3000,\"header_size\":464,\"dendrite\":{{{terminal}}},\
                 \"axon\":{{{terminal}}},\"computed_body_hash\":\"\",{own}}}"
            );
            let mut response = Response::new(Bytes::from(body));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            for (name, value) in [
                ("name", name),
                ("timeout", "12.0"),
                ("bt_header_axon_status_code", "200"),
                ("bt_header_axon_status_message", "Success"),
                ("bt_header_axon_process_time", "0.001"),
                ("bt_header_axon_ip", "127.0.0.1"),
                ("bt_header_axon_port", "8091"),
                ("bt_header_axon_version", "10005000"),
                ("bt_header_axon_hotkey", hotkey),
                ("bt_header_dendrite_ip", "203.0.113.7"),
                ("bt_header_dendrite_version", "10005000"),
                ("bt_header_dendrite_nonce", "1760000000000000000"),
                ("bt_header_dendrite_hotkey", hotkey),
                ("header_size", "0"),
                ("total_size", "3000"),
            ] {
                let name = HeaderName::from_bytes(name.as_bytes())?;
                headers.insert(name, HeaderValue::from_str(value)?);
            }
            Ok::<_, Failure>(response)
        };
        Ok(Self {
            plain: answer("PlainSynapse", "\"x\":21,\"y\":42")?,
            slow: answer("SlowSynapse", "\"delay\":1.0,\"done\":true")?,
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let slow = request.uri().path() == "/SlowSynapse";
        // What cannot be read whole is a client that left.
        let _ = request.into_body().collect().await;
        if slow {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        (if slow { &self.slow } else { &self.plain }).clone().map(Full::new)
    }
}

async fn serve(listener: TcpListener, fixed: Arc<Fixed>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Without it an answer might wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let fixed = Arc::clone(&fixed);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let fixed = Arc::clone(&fixed);
                async move { Ok::<_, Infallible>(fixed.answer(request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Our dendrite.
pub(crate) fn ours() -> Result<(), Failure> {
    let runtime = runtime()?;
    let signer = Keypair::from_uri("//bench-dendrite")?;
    let fresh = || Dendrite::builder(signer.clone()).external_ip("203.0.113.7").build();
    let kept = fresh();
    say(&json!({ "ready": true }))?;
    while let Some(job) = hear()? {
        let job: Job = serde_json::from_value(job)?;
        let targets = job.ports.iter().map(|port| Target::new("127.0.0.1", *port, &job.hotkey));
        let targets: Vec<Target> = targets.collect::<Result<_, _>>()?;
        say(&json!({ "prepared": true }))?;
        if hear()?.is_none() {
            return Ok(());
        }
        let codes = runtime.block_on(async {
            let mut codes = Codes::default();
            for _ in 0..job.rounds {
                let dendrite = if job.kept { kept.clone() } else { fresh() };
                let timeout = Duration::from_secs_f64(job.timeout);
                if job.slow {
                    let ask = SlowSynapse { delay: 1.0, done: false };
                    for result in dendrite.forward(&targets, ask).timeout(timeout).await {
                        codes.add(result.map_or_else(|e| e.status_code(), |_| 200));
                    }
                } else {
                    let ask = PlainSynapse { x: 21, y: None };
                    for result in dendrite.forward(&targets, ask).timeout(timeout).await {
                        codes.add(result.map_or_else(|e| e.status_code(), |_| 200));
                    }
                }
            }
            codes
        });
        say(&codes.result())?;
    }
    Ok(())
}

#[derive(Default)]
struct Codes(BTreeMap<String, u64>);

impl Codes {
    fn add(&mut self, code: i64) {
        *self.0.entry(code.to_string()).or_insert(0) += 1;
    }

    fn result(&self) -> Value {
        json!({ "operations": self.0.values().sum::<u64>(), "codes": self.0 })
    }
}

/// hyper-util's pool, the same headers, one signature, and serde_json both ways.
pub(crate) fn reference() -> Result<(), Failure> {
    let runtime = runtime()?;
    let signer = Arc::new(Keypair::from_uri("//bench-dendrite")?);
    let fresh = || {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector)
    };
    let kept = runtime.block_on(async { fresh() });
    say(&json!({ "ready": true }))?;
    while let Some(job) = hear()? {
        let job: Job = serde_json::from_value(job)?;
        say(&json!({ "prepared": true }))?;
        if hear()?.is_none() {
            return Ok(());
        }
        let codes = runtime.block_on(async {
            let mut codes = Codes::default();
            for _ in 0..job.rounds {
                let client = if job.kept { kept.clone() } else { fresh() };
                let mut calls = JoinSet::new();
                for port in job.ports.clone() {
                    let (client, signer) = (client.clone(), Arc::clone(&signer));
                    let (hotkey, slow) = (job.hotkey.clone(), job.slow);
                    let timeout = Duration::from_secs_f64(job.timeout);
                    calls.spawn(async move {
                        let call = call(&client, &signer, port, &hotkey, slow);
                        match tokio::time::timeout(timeout, call).await {
                            Ok(Ok(code)) => code,
                            Ok(Err(_)) => 503,
                            Err(_) => 408,
                        }
                    });
                }
                while let Some(code) = calls.join_next().await {
                    codes.add(code.unwrap_or(500));
                }
            }
            codes
        });
        say(&codes.result())?;
    }
    Ok(())
}

async fn call(
    client: &Client<HttpConnector, Full<Bytes>>,
    signer: &Keypair,
    port: u16,
    axon: &str,
    slow: bool,
) -> Result<i64, Failure> {
    let (name, own) = if slow {
        ("SlowSynapse", json!({ "delay": 1.0, "done": false }))
    } else {
        ("PlainSynapse", json!({ "x": 21, "y": null }))
    };
    let (hotkey, nonce, uuid) = (signer.hotkey().to_string(), now_ns(), "bench-fan-out-reference");
    let hash = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a";
    let message = format!("{nonce}.{hotkey}.{axon}.{uuid}.{hash}");
    let signature = signature_hex(&signer.sign(message.as_bytes()));
    let mut body = json!({
        "name": name, "timeout": 12.0, "total_size": 3000, "header_size": 0, "computed_body_hash": "",
        "dendrite": {
            "status_code": null, "status_message": null, "process_time": null, "ip": "203.0.113.7", "port": null,
            "version": 10_005_000, "nonce": nonce, "uuid": uuid, "hotkey": hotkey, "signature": signature,
        },
        "axon": {
            "status_code": null, "status_message": null, "process_time": null, "ip": "127.0.0.1", "port": port,
            "version": null, "nonce": null, "uuid": null, "hotkey": axon, "signature": null,
        },
    });
    if let (Value::Object(body), Value::Object(own)) = (&mut body, own) {
        body.extend(own);
    }
    let request = Request::post(format!("http://127.0.0.1:{port}/{name}"))
        .header("name", name)
        .header("timeout", "12.0")
        .header("bt_header_axon_ip", "127.0.0.1")
        .header("bt_header_axon_port", port)
        .header("bt_header_axon_hotkey", axon)
        .header("bt_header_dendrite_ip", "203.0.113.7")
        .header("bt_header_dendrite_version", 10_005_000)
        .header("bt_header_dendrite_nonce", nonce)
        .header("bt_header_dendrite_uuid", uuid)
        .header("bt_header_dendrite_hotkey", &hotkey)
        .header("bt_header_dendrite_signature", &signature)
        .header("header_size", "464")
        .header("total_size", "3000")
        .header("computed_body_hash", hash)
        .header(header::ACCEPT, "*/*")
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::USER_AGENT, "bench")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let answer = client.request(request).await?;
    let code = i64::from(answer.status().as_u16());
    let body: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
    if !body.is_object() {
        return Err("not an object".into());
    }
    Ok(code)
}
