//! Stress tests of whole clients on real threads and sockets. The server runs in a separate process
//! with a fault script.

mod call_log;
mod calls;
mod control;
mod counts;
mod engine;
mod harness;
mod histogram;
mod loads;
mod measurement;
mod monitored_client;
mod plot;
mod profile;
mod recovery;
mod report;
mod server;
mod verdict;

pub use control::Control;
pub use harness::{Options, Outcome, run};
pub use profile::{PROFILES, Profile, Shape};
pub use server::{SERVE, serve};
pub use verdict::Verdict;
