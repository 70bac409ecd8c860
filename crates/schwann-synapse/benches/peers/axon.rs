//! Our axon with default settings, and handlers that do next to nothing.

use std::time::Duration;

use schwann::{Finished, Server};
use schwann_synapse::{
    axon::{Axon, StreamReply, SynapseError, streaming, unary},
    caller::Caller,
    keys::Keypair,
    ss58::Hotkey,
    synapse::Synapse,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{Failure, dismissed, echo::echo, runtime, say};

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct PlainSynapse {
    #[serde(default)]
    x: i64,
    #[serde(default)]
    y: Option<i64>,
}

async fn plain(mut ask: PlainSynapse, _from: Caller) -> Result<PlainSynapse, SynapseError> {
    ask.y = Some(ask.x.wrapping_mul(2));
    Ok(ask)
}

#[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
struct StreamSynapse {
    #[serde(default)]
    #[synapse(hash)]
    prompt: String,
    #[serde(default)]
    n_tokens: u32,
    #[serde(default)]
    delay: f64,
    #[serde(default)]
    completion: Option<String>,
}

async fn stream(
    ask: StreamSynapse,
    _from: Caller,
    reply: StreamReply,
) -> Result<Finished, SynapseError> {
    let delay = Duration::try_from_secs_f64(ask.delay)?;
    let mut out = reply.start();
    for token in 0..ask.n_tokens {
        out.write(format!("tok{token} ")).await?;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
    Ok(out.finish())
}

/// Serves until dismissed. Callers with the hotkey `denied` are refused.
pub(crate) fn run(denied: &str) -> Result<(), Failure> {
    let denied: Hotkey = denied.parse()?;
    runtime()?.block_on(async {
        let mut axon = Axon::builder(Keypair::from_uri("//bench-axon")?);
        for route in [unary(plain), unary(echo), streaming(stream)] {
            axon = axon.attach(route.deny([denied]));
        }
        let axon = axon.build()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        say(&json!({ "ready": true, "port": port, "hotkey": axon.hotkey().to_string() }))?;
        let server = Server { drain_timeout: Duration::ZERO, ..Server::default() };
        server.run(listener, axon, dismissed()).await;
        Ok(())
    })
}
