//! Whole clients on real threads and real sockets, against a server in a process of its own that misbehaves by script.

mod count;
mod engine;
mod harness;
mod load;
mod plot;
mod probe;
mod profile;
mod report;
mod server;
mod shapes;
mod verdict;

pub use harness::{Options, Outcome, run};
pub use profile::{PROFILES, Profile};
pub use server::{SERVE, serve};
pub use verdict::Verdict;
