//! What is measured: our server with a builtin, and an echo by hyper alone.

use std::convert::Infallible;

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use schwann::Server;
use schwann_etl::{EtlServer, Target, builtin, raise_open_files};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{Failure, dismissed, runtime, say};

/// Serves a builtin transform with default settings until dismissed, in a runtime as `schwann etl` has it.
pub(crate) fn ours(transform: &str, target: &str) -> Result<(), Failure> {
    runtime().event_interval(schwann::EVENT_INTERVAL).build()?.block_on(async {
        raise_open_files();
        let transform = builtin::named(transform).ok_or("no such builtin")?;
        let etl = EtlServer::new(Target::parse(target)?, transform)?;
        let listener = Server::listen(([127, 0, 0, 1], 0).into())?;
        let port = listener.local_addr()?.port();
        say(&json!({ "ready": true, "port": port }))?;
        EtlServer::http().run(listener, etl, dismissed()).await;
        Ok(())
    })
}

/// Sends each request's body back, and knows nothing else.
pub(crate) fn reference() -> Result<(), Failure> {
    runtime().build()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        say(&json!({ "ready": true, "port": port }))?;
        tokio::select! {
            served = echo(listener) => served,
            () = dismissed() => Ok(()),
        }
    })
}

async fn echo(listener: TcpListener) -> Result<(), Failure> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async {
                Ok::<_, Infallible>(Response::new(request.into_body()))
            });
            // A client that leaves is an error here, and means nothing.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
