//! The HTTP client of tinkers, on hyper.
#![doc = include_str!("../README.md")]

mod block_on;
mod builder;
mod client_certificate;
mod clock;
mod connection;
mod credential;
mod dedicated_thread;
mod dialer;
mod errors;
mod exchange;
mod first_bytes;
mod io_runtime;
mod pool;
mod proxy;
mod redaction;
mod redirect;
mod response_body;
mod root_certificates;
mod shared_runtime;
mod target;
mod tls;
mod transport;
mod upload_body;

pub use block_on::block_on;
pub use builder::HttpTransportBuilder;
pub use client_certificate::ClientCertificate;
pub use clock::TokioClock;
pub use credential::CloudflareAccess;
pub use dedicated_thread::DedicatedThread;
pub use io_runtime::IoRuntime;
pub use pool::{ClassConnectionLimits, ClassConnectionStats};
pub use proxy::ProxyConfig;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use response_body::decode_body;
pub use root_certificates::RootFiles;
pub use tls::HttpVersions;
pub use transport::HttpTransport;
