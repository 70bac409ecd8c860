//! Bittensor synapses in Rust: the wire of the Python SDK 7 to 10, and `btauth/1` of SDK 11.
//!
//! An [`Axon`] serves synapses and is a [`schwann::Handler`]; a [`Dendrite`] calls them. A synapse is a serde struct with
//! `#[derive(Synapse)]`, or [`Untyped`]: a name and a JSON object.
//!
//! ```
//! use schwann_synapse::{Axon, Caller, Dendrite, Keypair, Synapse, SynapseError, Target, unary};
//! use serde::{Deserialize, Serialize};
//!
//! /// Translate `text`. The answer comes back in `translation`.
//! #[derive(Clone, Debug, Serialize, Deserialize, Synapse)]
//! struct Translate {
//!     /// Covered by the signature, through the body hash.
//!     #[synapse(hash)]
//!     text: String,
//!     /// Filled in by the miner.
//!     #[serde(default)]
//!     translation: Option<String>,
//! }
//!
//! async fn translate(mut ask: Translate, from: Caller) -> Result<Translate, SynapseError> {
//!     ask.translation = Some(format!("{} (for {})", ask.text.to_uppercase(), from.hotkey));
//!     Ok(ask)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let axon = Axon::builder(Keypair::from_uri("//Alice")?).attach(unary(translate)).build()?;
//! let hotkey = axon.hotkey();
//! let listener = schwann::Server::listen("127.0.0.1:0".parse()?)?;
//! let address = listener.local_addr()?;
//! tokio::spawn(schwann::Server::default().run(listener, axon, std::future::pending()));
//!
//! let dendrite = Dendrite::new(Keypair::from_uri("//Bob")?);
//! let target = Target::new("127.0.0.1", address.port(), &hotkey.to_string())?;
//! let ask = Translate { text: "hello".to_owned(), translation: None };
//! let answer = dendrite.call(target, ask).await?;
//! assert!(answer.synapse.translation.is_some_and(|text| text.starts_with("HELLO")));
//! # Ok(())
//! # }
//! ```

pub mod admission;
mod answer;
mod ask;
pub mod axon;
pub mod axon_info;
pub mod btauth;
pub mod call_error;
pub mod caller;
mod connections;
mod convert;
pub mod dendrite;
mod exchange;
mod fan_out;
pub mod hash;
pub mod headers;
mod history;
mod json;
pub mod keys;
mod kind;
mod lanes;
mod memory;
pub mod metrics;
pub mod nonce;
mod nonprintable;
pub mod python;
pub mod route;
pub mod ss58;
mod stream;
pub mod synapse;
pub mod target;
pub mod tensor;
pub mod terminal;
mod verification;
pub mod wallet;

#[doc(inline)]
pub use self::{
    axon::{
        Axon, Filled, Route, StreamReply, SynapseError, SynapseStream, streaming, unary,
        unary_blocking, untyped,
    },
    axon_info::AxonInfo,
    call_error::CallError,
    caller::{Caller, Protocol, Verdict, Verify},
    dendrite::{Answer, Dendrite},
    keys::{Keypair, Signer},
    ss58::Hotkey,
    synapse::{Synapse, Untyped},
    target::Target,
};

/// The README's examples, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
