//! Runs the conformance suite against the embedded server, in process and over loopback.

mod in_process;
mod loopback;
mod rest;
