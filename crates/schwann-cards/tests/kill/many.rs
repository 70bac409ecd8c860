//! 200 runs at once, and a thousand readers of one run, none of whom takes
//! anything for a while.

use std::{fs, io::Read as _, io::Write as _, net::TcpStream};

use http::Method;
use schwann_process::{Sandbox, Sandboxes};
use serde_json::{Value, json};

use crate::{application::Site, writer};

const RUNS: usize = 200;
const READERS: usize = 1000;
/// What one reader may cost the server.
const MOST: u64 = 64 * 1024;

pub(crate) fn at_once() {
    writer::runtime().block_on(async {
        let held = Sandboxes::probe().await.resolve(Sandbox::Bubblewrap).is_ok();
        let sandbox = if held { "bubblewrap" } else { "none" };
        println!("in sandbox `{sandbox}`");
        let data = tempfile::tempdir().unwrap();
        let site = Site::start(data.path(), sandbox).await;
        let book = site.book().await;
        let mut runs = Vec::new();
        for number in 0..RUNS {
            let code = format!("echo first {number}; read x; echo last {number}");
            runs.push(site.run(&book, &code).await);
        }
        // All of them have begun before the first may end.
        for run in &runs {
            site.shown(run, 2).await;
        }
        let running = site.ask(Method::GET, "/runs/?status=running", Value::Null).await;
        assert_eq!(running["count"], RUNS);
        for run in &runs {
            site.ask(Method::POST, &format!("/runs/{run}/stdin?eof=true"), Value::Null).await;
        }
        for (number, run) in runs.iter().enumerate() {
            let lines = site.lines(run).await;
            assert!(lines.iter().any(|line| line.contains(&format!("last {number}\\n"))));
            assert!(lines.last().unwrap().contains("\"code\":0"), "{lines:?}");
        }
    });
}

pub(crate) fn readers() {
    writer::runtime().block_on(async {
        let data = tempfile::tempdir().unwrap();
        let site = Site::start(data.path(), "none").await;
        stand_still(&site, &site).await;
    });
}

#[cfg(all(feature = "postgres", feature = "redis"))]
pub(crate) fn readers_elsewhere() {
    writer::runtime().block_on(async {
        let shared = crate::servers::Shared::new().await;
        let (_folders, one, two) = shared.two().await;
        stand_still(&one, &two).await;
    });
}

/// A run on `site`, which nobody reads who asked for it `through` a server.
async fn stand_still(site: &Site, through: &Site) {
    let book = site.book().await;
    // Much more than the kernel keeps for connections.
    let code = "n=0; while [ $n -lt 1000 ]; do n=$((n+1)); printf '%01000d\\n' $n; done; \
                echo ready; read x; echo end";
    let run = site.run(&book, code).await;
    through.until(&run, "ready").await;
    let before = resident(through.process());
    let mut clients: Vec<TcpStream> = Vec::new();
    // Not all at the same moment: this is about readers, not about a rush of log-ins.
    let mut first = [0; 12];
    for number in 0..READERS {
        if number >= 20 {
            begun(&mut clients[number - 20], &mut first);
        }
        let mut client = TcpStream::connect(&through.address).unwrap();
        let head = format!(
            "GET /api/v1/runs/{run}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\
             Accept: text/plain\r\nConnection: close\r\n\r\n",
            through.token
        );
        client.write_all(head.as_bytes()).unwrap();
        clients.push(client);
    }
    for client in &mut clients[READERS - 20..] {
        begun(client, &mut first);
    }
    let each = resident(through.process()).saturating_sub(before) / READERS as u64;
    println!("{READERS} readers that stand still: {each} bytes each");
    assert!(each <= MOST, "{each} bytes for each reader");
    site.ask(Method::POST, &format!("/runs/{run}/stdin?eof=true"), json!(null)).await;
    // The run is at its end although nobody has read it.
    assert!(through.lines(&run).await.last().unwrap().contains("\"type\":\"exit\""));
    for client in &mut clients {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert!(all.len() > 1000 * 1001, "{} bytes", all.len());
        assert!(all.ends_with(b"0\r\n\r\n"), "it was cut");
    }
}

/// A client has begun to read, and takes no more then.
fn begun(client: &mut TcpStream, first: &mut [u8; 12]) {
    client.read_exact(first).unwrap();
    assert_eq!(first, b"HTTP/1.1 200");
}

/// Memory of a process, in bytes.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
