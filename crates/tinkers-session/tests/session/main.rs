//! The life of a session, from its first request to its end, over a scripted server, a clock and executors moved by hand.

mod closing;
mod document;
mod heart;
mod opening;
mod recovered_errors;
mod refresh;
mod support;
mod thread;
