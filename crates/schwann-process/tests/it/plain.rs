//! Programs and upstreams as plain HTTP handlers, at the wire.

use schwann::{Handler, Server, serve_connection};
use schwann_testkit::{Client, pipe};

use crate::{Lifeline, command, sh, soon};

fn connect(handler: impl Handler) -> Client {
    let (client, server) = pipe(4096);
    tokio::spawn(async move { serve_connection(&Server::default(), server, handler).await });
    client
}

const POST: &str = "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn stdin_to_stdout() {
    let mut client = connect(command(sh("tr a-z A-Z")));
    client.write(POST).await;
    soon(client.read_until("HELLO")).await;
}

#[tokio::test]
async fn both_directions_move_at_once() {
    let mut client = connect(command(sh("while read line; do echo got $line; done")));
    client.write("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.write("4\r\none\n\r\n").await;
    soon(client.read_until("got one")).await;
    client.write("4\r\ntwo\n\r\n0\r\n\r\n").await;
    soon(client.read_until("got two")).await;
    soon(client.read_until("0\r\n\r\n")).await;
}

#[tokio::test]
async fn a_bad_exit_before_output_is_an_error_that_tells_nothing() {
    let mut client = connect(command(sh("echo secret path >&2; exit 3")));
    client.write(POST).await;
    let seen = soon(client.read_until("error")).await;
    assert!(seen.starts_with("HTTP/1.1 500") && !seen.contains("secret"), "{seen}");
}

#[tokio::test]
async fn a_bad_exit_after_output_truncates_visibly() {
    let mut client = connect(command(sh("echo partial; exit 3")));
    client.write(POST).await;
    let seen = soon(client.read_to_end()).await;
    assert!(seen.contains("partial") && !seen.contains("0\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn a_good_exit_does_not_wait_for_the_rest_of_the_request() {
    let mut client = connect(command(sh("echo enough")));
    client.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 50\r\n\r\nhello").await;
    soon(client.read_until("0\r\n\r\n")).await;
}

#[tokio::test]
async fn a_client_that_leaves_kills_the_program() {
    let mut line = Lifeline::new();
    let mut client = connect(command(sh(&format!("{} echo started; sleep 60", line.hold()))));
    client.write(POST).await;
    soon(client.read_until("started")).await;
    drop(client);
    line.cut().await;
}
