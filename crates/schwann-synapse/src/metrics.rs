//! Counters of an axon, in Prometheus text form.
