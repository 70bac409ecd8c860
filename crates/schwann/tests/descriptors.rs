//! Descriptors run out, and come back. Alone in its process, whose limit it lowers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::StatusCode;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use schwann::{Call, Error, Finished, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn the_accept_loop_survives_running_out_of_descriptors() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hello = async |call: Call| {
        let (_, _, reply) = call.into_parts();
        Ok::<Finished, Error>(reply.send(StatusCode::OK, "hello"))
    };
    let server = tokio::spawn(Server::default().run(listener, hello, std::future::pending()));

    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    // Each takes one descriptor here and, once accepted, another in the server:
    // connecting ends when there are none, and so some are never accepted.
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect(address).await {
        held.push(stream);
        tokio::task::yield_now().await;
    }
    assert!(held.len() >= 16, "{}", held.len());
    assert!(!server.is_finished());

    // One that is answered needs one descriptor; free a few.
    let mut last = held.pop().unwrap();
    held.clear();
    last.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    last.read_to_string(&mut seen).await.unwrap();
    assert!(seen.ends_with("hello"), "{seen}");
}
