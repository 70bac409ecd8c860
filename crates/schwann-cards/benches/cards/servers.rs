//! What is measured: our application, and a pipe by hyper alone.

use std::{convert::Infallible, process::Stdio};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use schwann::Server;
use schwann_cards::{Application, CardsSettings};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpListener,
    process::{ChildStdout, Command},
};

use crate::{Failure, dismissed, runtime, say};

pub(crate) const PASSWORD: &str = "correct horse";

/// Serves cards with default settings, but room for 200 runs at once, until dismissed.
pub(crate) fn ours(folder: &str) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let settings = CardsSettings {
            data: folder.into(),
            first_superuser_password: Some(PASSWORD.to_owned()),
            sample_book: false,
            max_running: 256,
            max_queued_per_user: 1000,
            requests_per_minute: 1_000_000,
            ..CardsSettings::default()
        };
        let application = Application::start(settings).await?;
        let listener = Server::listen(([127, 0, 0, 1], 0).into())?;
        let port = listener.local_addr()?.port();
        say(&json!({ "ready": true, "port": port, "api": true }))?;
        Server::default().run(listener, application.handler(), dismissed()).await;
        application.close().await;
        Ok(())
    })
}

/// Runs the code of each request and sends what it prints: no sandbox, no log, no account.
pub(crate) fn reference(python: &str) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        say(&json!({ "ready": true, "port": port, "api": false }))?;
        tokio::select! {
            served = pipe(listener, python) => served,
            () = dismissed() => Ok(()),
        }
    })
}

async fn pipe(listener: TcpListener, python: &str) -> Result<(), Failure> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let python = python.to_owned();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async {
                let output = started(&python, request).await.expect("a program");
                Ok::<_, Infallible>(Response::new(StreamBody::new(pieces(output))))
            });
            // A client that leaves is an error here, and means nothing.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "this one does without schwann-process, to compare")]
async fn started(python: &str, request: Request<Incoming>) -> Result<ChildStdout, Failure> {
    let body = request.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body)?;
    let code = body["code"].as_str().ok_or("no code")?;
    let mut child = Command::new(python)
        .args(["-u", "-c", code])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no pipe")?;
    tokio::spawn(async move { child.wait().await });
    Ok(output)
}

/// What is there when it is asked for, up to what a pipe holds.
fn pieces(
    output: ChildStdout,
) -> impl futures_util::Stream<Item = std::io::Result<Frame<Bytes>>> + Send {
    const PIPE: usize = 64 * 1024;
    futures_util::stream::try_unfold((output, BytesMut::new()), |(mut output, mut buffer)| async {
        buffer.reserve(PIPE);
        let read = output.read_buf(&mut buffer).await?;
        let piece = buffer.split().freeze();
        Ok((read > 0).then_some((Frame::data(piece), (output, buffer))))
    })
}
