//! The HTTP stack of tinkers, on hyper.
#![doc = include_str!("../README.md")]

mod builder;
mod credential;
mod decode;
mod dedicated;
mod dial;
mod exchange;
mod failure;
mod first_bytes;
mod link;
mod pool;
mod proxy;
mod redirect;
mod roots;
mod runtime;
mod scrub;
mod target;
#[cfg(test)]
mod testing;
mod time;
mod tls;
mod transport;
mod upload;

pub use builder::HttpTransportBuilder;
pub use credential::{CloudflareAccess, Credential};
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use decode::decode_body;
pub use dedicated::{DedicatedThread, spawn_on_own_thread};
pub use pool::{ClassConnectionLimits, ClassConnectionStats};
pub use proxy::ProxyConfig;
pub use roots::RootFiles;
pub use runtime::IoRuntime;
pub use time::TokioClock;
pub use tls::Protocol;
pub use transport::HttpTransport;
