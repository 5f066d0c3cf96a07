//! The life of a Tinker session: create, heartbeat, configuration, close.
#![doc = include_str!("../README.md")]

mod address;
mod answer;
mod close;
mod context;
mod document;
mod elsewhere;
mod endpoint;
mod events;
mod heartbeat;
mod life;
mod open;
mod options;
mod queries;
mod reachability;
mod refresh;
mod session;

pub use address::EndpointKey;
pub use endpoint::{Endpoint, EndpointState, Endpoints};
pub use events::{SessionEvent, SessionEvents};
pub use options::{HeartbeatParts, SessionOptions, SessionParts};
pub use session::Session;
pub use tinkers_core::BaseUrl;
