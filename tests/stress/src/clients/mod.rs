//! Whole clients on real threads and real sockets, against a server in a process of its own that misbehaves by script.

mod control;
mod count;
mod engine;
mod harness;
mod histogram;
mod in_use;
mod ledger;
mod load;
mod plot;
mod probe;
mod profile;
mod recovery;
mod report;
mod server;
mod shapes;
mod verdict;

pub use control::Control;
pub use harness::{Options, Outcome, run};
pub use profile::{PROFILES, Profile, Shape};
pub use server::{SERVE, serve};
pub use verdict::Verdict;
