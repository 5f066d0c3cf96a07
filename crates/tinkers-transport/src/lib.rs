//! The HTTP stack of tinkers, on hyper.
#![doc = include_str!("../README.md")]

mod builder;
mod credential;
mod decode;
mod dedicated;
mod dial;
mod exchange;
mod failure;
mod link;
mod origin;
mod pool;
mod proxy;
mod redirect;
mod runtime;
mod scrub;
#[cfg(test)]
mod testing;
mod time;
mod tls;
mod transport;
mod upload;

pub use builder::HttpTransportBuilder;
pub use credential::{CloudflareAccess, Credential};
pub use decode::compress_zstd;
pub use dedicated::{DedicatedThread, spawn_on_own_thread};
pub use origin::BaseUrl;
pub use pool::{LaneLimits, LaneStats};
pub use proxy::{ProxyConfig, ProxyValues};
pub use runtime::IoRuntime;
pub use time::TokioTime;
pub use tls::Protocol;
pub use transport::HttpTransport;
