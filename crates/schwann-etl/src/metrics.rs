//! What happened, in Prometheus' text form.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::failure::Stage;

/// Counters of one server. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct EtlMetrics {
    pub(crate) objects: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) direct_puts: Counter,
    pub(crate) retries: Counter,
    errors: Errors,
    registry: std::sync::Arc<Registry>,
}

/// One counter for each stage, so that counting looks nothing up.
#[derive(Clone, Debug, Default)]
struct Errors {
    request: Counter,
    source: Counter,
    transform: Counter,
    delivery: Counter,
    caller: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

impl Default for EtlMetrics {
    fn default() -> Self {
        let family = Family::<StageLabel, Counter>::default();
        let of = |stage| family.get_or_create_owned(&StageLabel { stage });
        let mut metrics = Self {
            objects: Counter::default(),
            in_flight: Gauge::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            direct_puts: Counter::default(),
            retries: Counter::default(),
            errors: Errors {
                request: of("request"),
                source: of("source"),
                transform: of("transform"),
                delivery: of("delivery"),
                caller: of("caller"),
            },
            registry: std::sync::Arc::default(),
        };
        let mut registry = Registry::with_prefix("schwann_etl");
        let mut counts = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counts("objects", "Objects transformed and delivered", &metrics.objects);
        counts("bytes_in", "Bytes that transforms have read", &metrics.bytes_in);
        counts("bytes_out", "Bytes of whole results", &metrics.bytes_out);
        counts("direct_puts", "Objects delivered to a destination", &metrics.direct_puts);
        counts("retries", "Deliveries that were tried again", &metrics.retries);
        registry.register("errors", "Objects that failed, by where they did", family);
        let in_flight = metrics.in_flight.clone();
        registry.register("in_flight", "Objects being worked on", in_flight);
        metrics.registry = std::sync::Arc::new(registry);
        metrics
    }
}

impl EtlMetrics {
    /// All of them, in Prometheus' text form.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes all that is written to it");
        text
    }

    pub(crate) fn failed(&self, stage: Stage) {
        let errors = &self.errors;
        let counter = match stage {
            Stage::Request => &errors.request,
            Stage::Source => &errors.source,
            Stage::Transform => &errors.transform,
            Stage::Delivery => &errors.delivery,
            Stage::Caller => &errors.caller,
        };
        counter.inc();
    }

    /// Counts one object as being worked on until the guard is dropped.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight { metrics: self, ended: false }
    }
}

/// An object that is being worked on. Dropped before its end, its caller has left.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    metrics: &'a EtlMetrics,
    ended: bool,
}

impl InFlight<'_> {
    pub(crate) fn ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        if !self.ended {
            self.metrics.failed(Stage::Caller);
        }
    }
}
