//! Tinker sessions: creation, configuration, heartbeats and close.
#![doc = include_str!("../README.md")]

mod api_document;
mod caller;
mod cancel_queue;
mod close;
mod context;
mod endpoint;
mod endpoint_key;
mod events;
mod heartbeat;
mod observed_transport;
mod open;
mod options;
mod queries;
mod reachability;
mod refresh;
mod session;
mod session_state;
mod telemetry;

pub use caller::CallerParts;
pub use endpoint::{Endpoint, EndpointState, Endpoints};
pub use endpoint_key::EndpointKey;
pub use events::{MessageLevel, SessionEvent, SessionEvents};
pub use options::{HeartbeatParts, SessionOptions, SessionParts};
pub use session::Session;
pub use telemetry::TelemetryCounts;
pub use tinkers_core::BaseUrl;
