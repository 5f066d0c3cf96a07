//! Tests of sessions on a scripted server, a manual clock and manual executors.

mod closing;
mod document;
mod heartbeat;
mod heartbeat_thread;
mod messages;
mod opening;
mod optional;
mod recovered_errors;
mod refresh;
mod support;
mod telemetry;
