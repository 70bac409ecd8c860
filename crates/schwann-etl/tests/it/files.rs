//! Objects that are files.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    sync::{Mutex, mpsc},
};

use schwann_etl::{EtlServer, Object, transform};

use crate::{
    client::{Caller, ask},
    scripted::Scripted,
    served::{serve, serve_etl, settings},
    to,
};

/// More than one piece.
const SIZE: usize = 3 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_shrinks_while_it_is_read_is_never_a_short_success() {
    let target = Scripted::start().await;
    let (begun, began) = mpsc::channel();
    let (go, let_go) = mpsc::channel::<()>();
    let let_go = Mutex::new(let_go);
    let held = transform::streaming(move |_, input, output| {
        let first = input.chunk()?.unwrap();
        output.write_bytes(first)?;
        begun.send(()).unwrap();
        let_go.lock().unwrap().recv().unwrap();
        while let Some(piece) = input.chunk()? {
            output.write_bytes(piece)?;
        }
        Ok(())
    });
    let etl = serve(held, settings(&target.url())).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    for delivered in [false, true] {
        fs::write(&file, vec![b'x'; SIZE]).unwrap();
        let mut caller = Caller::connect(etl.address).await;
        let headers = if delivered { to(&target, "dst") } else { String::new() };
        caller.request("PUT", &format!("/b/o?etl_fqn={}", file.display()), &headers, b"").await;
        tokio::task::block_in_place(|| began.recv().unwrap());
        OpenOptions::new().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
        go.send(()).unwrap();
        let answer = caller.answer().await;
        if delivered {
            assert_eq!(answer.status, 500, "{}", answer.text());
            let why = "cannot read the object's file: it became shorter while it was read";
            assert_eq!(answer.detail(), why);
            assert!(target.quiet("dst").await.iter().all(|seen| !seen.complete));
        } else {
            assert_eq!((answer.status, answer.complete), (200, false), "{}", answer.body.len());
        }
    }
}

#[tokio::test]
async fn a_file_is_what_it_was_when_it_was_opened() {
    let target = Scripted::start().await;
    let copy = transform::streaming(|_, input, output| {
        std::io::copy(input, output)?;
        Ok(())
    });
    let etl = serve(copy, settings(&target.url())).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    let mut open = fs::File::create(&file).unwrap();
    let whole: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
    open.write_all(&whole).unwrap();
    for _ in 0..2 {
        let path = format!("/b/o?etl_fqn={}", file.display());
        let answer = ask(etl.address, "PUT", &path, "", b"").await;
        assert_eq!((answer.status, answer.complete), (200, true));
        assert!(answer.body == whole, "{} bytes", answer.body.len());
    }
    fs::write(&file, "").unwrap();
    let answer =
        ask(etl.address, "GET", &format!("/b/o?etl_fqn={}", file.display()), "", b"").await;
    assert_eq!((answer.status, answer.body.len(), answer.complete), (200, 0, true));
}

#[tokio::test]
async fn a_transform_that_accepts_files_gets_names_only_if_the_settings_say_so() {
    let target = Scripted::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a b");
    fs::write(&file, "bytes").unwrap();
    let told = || {
        transform::buffered(|object: &Object, data| {
            Ok(format!("{:?} {}", object.file(), String::from_utf8_lossy(&data)))
        })
    };
    let query = format!("/b/o?etl_fqn={}", file.display().to_string().replace(' ', "%2520"));
    for (direct, accepts, roots, expected) in [
        (true, true, false, format!("Some({file:?}) ")),
        (true, true, true, format!("Some({file:?}) ")),
        (true, false, false, "None bytes".to_owned()),
        (false, true, false, "None bytes".to_owned()),
    ] {
        let mut settings = settings(&target.url());
        settings.direct_fqn = direct;
        if roots {
            settings.fqn_roots = vec![folder.path().to_owned()];
        }
        let mut etl = EtlServer::new(settings, told()).unwrap();
        if accepts {
            etl = etl.accepts_files();
        }
        let etl = serve_etl(etl).await;
        assert_eq!(ask(etl.address, "PUT", &query, "", b"").await.text(), expected);
        if roots {
            let outside = ask(etl.address, "PUT", "/b/o?etl_fqn=/etc/hostname", "", b"").await;
            assert_eq!(outside.status, 403, "{}", outside.text());
        }
    }
}

#[test]
fn a_root_that_is_no_folder_is_found_at_the_start() {
    let mut settings = settings("http://t:1/v1");
    settings.fqn_roots = vec!["/no/such/folder".into()];
    let error = EtlServer::new(settings, transform::buffered(|_, data| Ok(data))).unwrap_err();
    let why = "`/no/such/folder`, below which files may be read, is not a folder";
    assert_eq!(error.to_string(), why);
}
