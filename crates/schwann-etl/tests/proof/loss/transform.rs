//! A transform that stops or fails where it is told to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::StatusCode;
use schwann::{Call, Error, Finished, Handler};
use schwann_etl::Object;
use schwann_testkit::{Probe, probe};

/// Adds one to each byte. `etl_args` is `KIND FAIL PAUSE`: whether the result is sent whole or as it comes, after how many
/// bytes of input it fails and stops to wait for its gate; `-` for never.
#[derive(Clone, Default)]
pub(crate) struct Faulty {
    pub(crate) started: Probe,
    pub(crate) ended: Probe,
    gates: Arc<Mutex<HashMap<String, Stop>>>,
}

/// Where a transform of one object waits.
#[derive(Clone)]
pub(crate) struct Stop {
    /// Each attempt, those included that were dropped before they came here.
    pub(crate) begun: Probe,
    pub(crate) reached: Probe,
    /// Each lets one on, in the order in which they came: a transform that was dropped meanwhile leaves nothing to the next.
    pub(crate) released: Probe,
}

impl Faulty {
    /// The stop of this object.
    pub(crate) fn stop(&self, object: &str) -> Stop {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Stop { begun: probe(), reached: probe(), released: probe() };
        gates.entry(object.to_owned()).or_insert_with(new).clone()
    }
}

pub(crate) fn transformed(input: &[u8]) -> Vec<u8> {
    input.iter().map(|byte| byte.wrapping_add(1)).collect()
}

impl Handler for Faulty {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        self.started.hit();
        let _ended = self.ended.on_drop();
        let (head, mut body, reply) = call.into_parts();
        let object = Object::of(&head);
        let mut words = object.etl_args().split(' ');
        let streamed = words.next() == Some("streamed");
        let mut number = || words.next().and_then(|word| word.parse::<usize>().ok());
        let (fail, mut pause) = (number(), number());
        let name = object.path().rsplit('/').next().unwrap_or_default();
        let stop = self.stop(name);
        stop.begun.hit();
        let on_purpose = || Error::server("on purpose");

        let mut consumed = 0;
        let mut whole = Vec::new();
        let (mut reply, mut out) = (Some(reply), None);
        loop {
            if pause.is_some_and(|at| consumed >= at) {
                pause = None;
                stop.reached.hit();
                stop.released.reached(stop.reached.count()).await;
            }
            if fail == Some(0) {
                return Err(on_purpose());
            }
            let Some(chunk) = body.chunk().await? else { break };
            let end = fail.map_or(chunk.len(), |at| chunk.len().min(at - consumed));
            consumed += end;
            let made = transformed(&chunk[..end]);
            if streamed {
                let begin = || reply.take().expect("begun once").start(StatusCode::OK);
                out.get_or_insert_with(begin).write(made).await?;
            } else {
                whole.extend(made);
            }
            if fail.is_some_and(|at| consumed >= at) {
                return Err(on_purpose());
            }
        }
        match (out, reply) {
            (Some(out), _) => Ok(out.finish()),
            (None, Some(reply)) if streamed => Ok(reply.start(StatusCode::OK).finish()),
            (None, Some(reply)) => Ok(reply.send(StatusCode::OK, whole)),
            (None, None) => unreachable!("a reply is taken only to start it"),
        }
    }
}
