//! `AxonInfo`: where a neuron is served, as the chain and the SDK say it.
