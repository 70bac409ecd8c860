//! Counters of an axon, in Prometheus text form.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use schwann::{Call, Error, Finished, Handler};

/// The counters of one axon. Cheap to clone; clones share the counters.
///
/// As a [`Handler`] it answers `GET /metrics` in the Prometheus text format (version 1.0 of OpenMetrics); serve it on a
/// listener of its own, for it tells strangers how busy the axon is. Hotkeys are never labels: there are too many.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    request_bytes: Family<Route, Counter>,
    response_bytes: Family<Route, Counter>,
    seconds: Family<Route, Histogram>,
    truncated: Family<Route, Counter>,
    left: Family<Route, Counter>,
    spoofed: Counter,
    running: Gauge,
    waiting: Gauge,
}

/// How an exchange ended, as labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    synapse: Arc<str>,
    status: u16,
    protocol: Spoken,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    synapse: Arc<str>,
}

/// Which protocol a request spoke, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
pub(crate) enum Spoken {
    v10,
    btauth,
}

/// The label of requests to routes that do not exist: their names are the callers' choice.
pub(crate) const UNKNOWN: &str = "(unknown)";

/// The counters of one route, looked up once.
#[derive(Clone)]
pub(crate) struct RouteMetrics {
    synapse: Arc<str>,
    metrics: Metrics,
    succeeded: [Counter; 2],
    request_bytes: Counter,
    response_bytes: Counter,
    seconds: Histogram,
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("schwann_axon"),
            requests: Family::default(),
            request_bytes: Family::default(),
            response_bytes: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            truncated: Family::default(),
            left: Family::default(),
            spoofed: Counter::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
        };
        let r = &mut inner.registry;
        r.register("requests", "Exchanges that were answered", inner.requests.clone());
        r.register("request_bytes", "Bytes of request bodies", inner.request_bytes.clone());
        r.register("response_bytes", "Bytes of response bodies", inner.response_bytes.clone());
        r.register(
            "seconds",
            "From the request's head to the end of its answer",
            inner.seconds.clone(),
        );
        r.register("truncated", "Streams that failed after their start", inner.truncated.clone());
        r.register("clients_left", "Exchanges whose client left first", inner.left.clone());
        r.register(
            "spoofed_bodies",
            "Bodies that named another hotkey than the signed one",
            inner.spoofed.clone(),
        );
        r.register("running", "Calls that run now", inner.running.clone());
        r.register("waiting", "Calls that wait for their turn now", inner.waiting.clone());
        Self(Arc::new(inner))
    }

    /// All counters in text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    pub(crate) fn route(&self, name: &str) -> RouteMetrics {
        let synapse: Arc<str> = name.into();
        let label = Route { synapse: Arc::clone(&synapse) };
        let succeeded = [Spoken::v10, Spoken::btauth].map(|protocol| {
            let outcome = Outcome { synapse: Arc::clone(&synapse), status: 200, protocol };
            self.0.requests.get_or_create(&outcome).clone()
        });
        RouteMetrics {
            metrics: self.clone(),
            succeeded,
            request_bytes: self.0.request_bytes.get_or_create(&label).clone(),
            response_bytes: self.0.response_bytes.get_or_create(&label).clone(),
            seconds: self.0.seconds.get_or_create(&label).clone(),
            synapse,
        }
    }

    pub(crate) fn spoofed(&self) {
        self.0.spoofed.inc();
    }

    pub(crate) fn load(&self, running: usize, waiting: usize) {
        self.0.running.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.0.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

/// A ping takes microseconds and a long stream minutes.
fn histogram() -> Histogram {
    Histogram::new([0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 12.0, 60.0, 300.0])
}

impl RouteMetrics {
    pub(crate) fn answered(
        &self,
        status: u16,
        protocol: Spoken,
        received: u64,
        sent: u64,
        took: Duration,
    ) {
        if status == 200 {
            self.succeeded[protocol as usize].inc();
        } else {
            let outcome = Outcome { synapse: Arc::clone(&self.synapse), status, protocol };
            self.metrics.0.requests.get_or_create(&outcome).inc();
        }
        self.request_bytes.inc_by(received);
        self.response_bytes.inc_by(sent);
        self.seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn truncated(&self) {
        self.metrics.0.truncated.get_or_create(&Route { synapse: Arc::clone(&self.synapse) }).inc();
    }

    pub(crate) fn left(&self) {
        self.metrics.0.left.get_or_create(&Route { synapse: Arc::clone(&self.synapse) }).inc();
    }
}

impl Handler for Metrics {
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

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
