//! AIStore's ETL web-server contract over any [`Handler`](schwann::Handler).
//!
//! A transform is a function of one object's bytes to the result's: a [`Handler`](schwann::Handler) of the core, whose
//! call carries an [`Object`]. [`EtlServer`] brings it the object (from the request, the target or a file) and takes the
//! result where it belongs (to the caller, the destination or the next stage).
//!
//! ```
//! use schwann_etl::{EtlServer, EtlSettings, Target, transform};
//!
//! let upper = transform::buffered(|_object, data| Ok(data.to_ascii_uppercase()));
//! let target = Target::parse("http://10.0.0.7:51081/v1/etl/_object/upper/SECRET")?;
//! let server = EtlServer::new(target, upper)?;
//! // EtlServer::http().run(listener, server, shutdown).await
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod builtin;
mod content;
mod deliver;
mod failure;
mod fqn;
mod metrics;
mod object;
mod outbound;
mod pipeline;
mod question;
mod server;
mod settings;
mod source;
mod target;
mod tls;
pub mod transform;
mod websocket;

pub use self::failure::FileNotFound;
pub use self::metrics::EtlMetrics;
pub use self::object::Object;
pub use self::outbound::TlsError;
pub use self::server::{EtlServer, SetupError, raise_open_files};
pub use self::settings::{BadToken, EtlSettings, SettingsError, TlsSettings, Token};
pub use self::target::{Target, TargetError};

/// The code on that page is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/transform-in-ten-lines.md")]
mod transform_in_ten_lines {}
