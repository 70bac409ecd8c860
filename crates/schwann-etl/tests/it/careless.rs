//! Transforms that take a failed read for the end of the object.

use http::StatusCode;
use schwann::{Call, Error, Finished};
use schwann_etl::transform;

use crate::{
    client::Caller,
    scripted::{Act, Reply, Scripted},
    served::{serve, settings},
    to,
};

async fn sends(call: Call) -> Result<Finished, Error> {
    let (_, mut body, reply) = call.into_parts();
    let mut all = Vec::new();
    while let Ok(Some(piece)) = body.chunk().await {
        all.extend_from_slice(&piece);
    }
    Ok(reply.send(StatusCode::OK, all))
}

async fn streams(call: Call) -> Result<Finished, Error> {
    let (_, mut body, reply) = call.into_parts();
    let mut out = reply.start(StatusCode::OK);
    while let Ok(Some(piece)) = body.chunk().await {
        out.write(piece).await?;
    }
    Ok(out.finish())
}

/// A source at the target that breaks off after three of its ten bytes.
async fn cut_source() -> Scripted {
    let target = Scripted::start().await;
    let cut = Reply { status: 200, body: "0123456789".into(), cut: Some(3), ..Reply::default() };
    target.on("cut", [Act::Answer(cut)]);
    target
}

const CUT: &str = "/ais%2F@%23%2Fsrc%2Fcut";

#[tokio::test]
async fn what_they_make_of_a_cut_object_is_not_passed_off_as_whole() {
    let target = cut_source().await;
    let settings = settings(&target.url());
    let blocking = transform::streaming(|_, input, output| {
        while let Ok(Some(piece)) = input.chunk() {
            output.write_bytes(piece)?;
        }
        Ok(())
    });
    for etl in [
        serve(sends, settings.clone()).await,
        serve(streams, settings.clone()).await,
        serve(blocking, settings).await,
    ] {
        let mut caller = Caller::connect(etl.address).await;
        caller.head("GET", CUT, "").await;
        let answer = caller.answer().await;
        assert!(answer.status == 502 || !answer.complete, "{answer:?}");
        let mut caller = Caller::connect(etl.address).await;
        caller.head("GET", CUT, &to(&target, "dst")).await;
        let answer = caller.answer().await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.detail().starts_with("Network error: "), "{}", answer.detail());
        assert!(target.quiet("dst").await.iter().all(|seen| !seen.complete), "delivered");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_has_nothing_delivered_by_them() {
    let target = cut_source().await;
    for etl in
        [serve(sends, settings(&target.url())).await, serve(streams, settings(&target.url())).await]
    {
        let mut caller = Caller::connect(etl.address).await;
        let headers = format!("{}Content-Length: 10\r\n", to(&target, "dst"));
        caller.head("PUT", "/b/o", &headers).await;
        caller.send("012").await;
        caller.end().await;
        let _ = caller.answer().await;
        assert!(target.quiet("dst").await.iter().all(|seen| !seen.complete), "delivered");
    }
}
