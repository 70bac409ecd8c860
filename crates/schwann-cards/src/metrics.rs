//! Counters of the runs of a server, in Prometheus text form.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use schwann::{Call, Error, Finished, Handler};

use crate::runs::Runs;

/// The counters of one application. Cheap to clone; clones show the same.
///
/// As a [`Handler`] it answers `GET /metrics` in the Prometheus text format (version 1.0 of OpenMetrics); serve it on a
/// listener of its own, for it tells strangers how busy the server is. Users, books and cards are never labels: there are too many.
#[derive(Clone)]
pub struct CardsMetrics(Runs);

/// What is counted where it happens. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Counters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    started: Counter,
    ended: Family<Why, Counter>,
    refused: Family<Code, Counter>,
    output_bytes: Counter,
    output_lines: Counter,
    log_bytes: Counter,
    log_syncs: Counter,
    readers: Gauge,
    running: Gauge,
    queued: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

impl CardsMetrics {
    pub(crate) fn new(runs: Runs) -> Self {
        Self(runs)
    }

    /// All counters in text form.
    pub fn text(&self) -> String {
        let (running, queued) = self.0.load();
        self.0.counters().text(running, queued)
    }
}

impl Handler for CardsMetrics {
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let (head, _body, reply) = call.into_parts();
        if head.uri.path() != "/metrics" {
            return Err(Error::caller(StatusCode::NOT_FOUND, "the counters are at /metrics"));
        }
        let mut response = Response::new(());
        let kind =
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(reply.send(response, Bytes::from(self.text())))
    }
}

impl fmt::Debug for CardsMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CardsMetrics")
    }
}

impl Default for Counters {
    fn default() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("schwann_cards"),
            started: Counter::default(),
            ended: Family::default(),
            refused: Family::default(),
            output_bytes: Counter::default(),
            output_lines: Counter::default(),
            log_bytes: Counter::default(),
            log_syncs: Counter::default(),
            readers: Gauge::default(),
            running: Gauge::default(),
            queued: Gauge::default(),
        };
        let r = &mut inner.registry;
        r.register("runs_started", "Runs whose turn came", inner.started.clone());
        r.register("runs_ended", "Runs that ended, by reason", inner.ended.clone());
        r.register("runs_refused", "Runs that were not accepted, by code", inner.refused.clone());
        r.register("output_bytes", "Bytes that programs printed", inner.output_bytes.clone());
        r.register("output_lines", "Lines that programs printed", inner.output_lines.clone());
        r.register("log_bytes", "Bytes put into logs", inner.log_bytes.clone());
        r.register("log_syncs", "Times that a log was put on disk", inner.log_syncs.clone());
        r.register("readers", "Readers of logs now", inner.readers.clone());
        r.register("running", "Runs that run now", inner.running.clone());
        r.register("queued", "Runs that wait for their turn now", inner.queued.clone());
        Self(Arc::new(inner))
    }
}

impl Counters {
    fn text(&self, running: usize, queued: usize) -> String {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.running.set(number(running));
        self.0.queued.set(number(queued));
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    pub(crate) fn started(&self) {
        self.0.started.inc();
    }

    pub(crate) fn ended(&self, reason: &'static str) {
        self.0.ended.get_or_create(&Why { reason }).inc();
    }

    pub(crate) fn refused(&self, code: &'static str) {
        self.0.refused.get_or_create(&Code { code }).inc();
    }

    pub(crate) fn output(&self, bytes: &[u8]) {
        // As a sum of bytes, which the compiler turns into wide instructions.
        let lines: usize = bytes
            .chunks(255)
            .map(|some| some.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>() as usize)
            .sum();
        self.0.output_bytes.inc_by(bytes.len() as u64);
        self.0.output_lines.inc_by(lines as u64);
    }

    pub(crate) fn synced(&self, bytes: usize) {
        self.0.log_syncs.inc();
        self.0.log_bytes.inc_by(bytes as u64);
    }

    /// Counts a reader until the guard is dropped.
    pub(crate) fn reader(&self) -> ReaderGuard {
        self.0.readers.inc();
        ReaderGuard(self.clone())
    }
}

/// A reader that is there.
#[derive(Debug)]
pub(crate) struct ReaderGuard(Counters);

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        self.0.0.readers.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_however_long_the_piece_is() {
        let counters = Counters::default();
        counters.output(&[b'\n'; 1000]);
        counters.output(b"half a line");
        let text = counters.text(2, 3);
        for line in [
            "schwann_cards_output_lines_total 1000\n",
            "schwann_cards_output_bytes_total 1011\n",
            "schwann_cards_running 2\n",
            "schwann_cards_queued 3\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
