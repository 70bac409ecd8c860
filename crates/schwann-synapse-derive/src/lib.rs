//! `#[derive(Synapse)]` and `#[derive(PyStr)]`. Use them through `schwann-synapse`, which re-exports them.

use proc_macro::TokenStream;

mod attributes;
mod py_str;
mod synapse;

/// Makes a serde struct a synapse. See `schwann_synapse::synapse::Synapse`.
#[proc_macro_derive(Synapse, attributes(synapse, serde))]
pub fn derive_synapse(input: TokenStream) -> TokenStream {
    synapse::expand(&syn::parse_macro_input!(input as syn::DeriveInput))
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

/// Lets a struct be a hashed field, or stand in one. See `schwann_synapse::hash::PyStr`.
#[proc_macro_derive(PyStr, attributes(serde))]
pub fn derive_py_str(input: TokenStream) -> TokenStream {
    py_str::expand(&syn::parse_macro_input!(input as syn::DeriveInput))
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}
