//! Hosts of the protocol: the shared core, the transport in process, the server on sockets.

mod blocking;
mod builder;
mod connection;
mod core;
mod exchange;
mod in_process;
mod outgoing;
mod serve;
mod spawn;

pub use self::blocking::BlockingServer;
pub use self::builder::LocalServerBuilder;
#[cfg(feature = "fuzz")]
pub use self::connection::serve_stream;
pub use self::core::LocalServer;
pub use self::exchange::Cut;
pub use self::in_process::InProcess;
pub use self::serve::{ServeError, Serving, serve};
pub use self::spawn::TokioSpawn;
