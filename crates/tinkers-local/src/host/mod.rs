//! The hosts of the protocol: the core that all hosts share, the in-process transport, and the server on sockets.

mod blocking;
mod builder;
mod connection;
mod core;
mod exchange;
mod in_process;
mod response_body;
mod serve;
mod spawn;
mod writer;

pub use self::blocking::BlockingServer;
pub use self::builder::LocalServerBuilder;
#[cfg(feature = "fuzz")]
pub use self::connection::serve_stream;
pub use self::core::LocalServer;
pub use self::exchange::Cut;
pub use self::in_process::InProcess;
pub use self::serve::{ServeError, Serving, serve};
pub use self::spawn::TokioSpawn;
