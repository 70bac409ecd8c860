//! The axon: serves synapses.
