//! Fuzz targets for every parser of untrusted input. No input may cause a panic, memory use out of proportion to its length, or
//! a value that changes when it is written and parsed again.
//!
//! A [`Target`] is one parser. Its seeds are the files of the [`corpus`] and inputs made in code ([`seeds`]); [`mutate`] derives
//! further inputs from them, and [`generate`] makes whole requests. `cargo test` runs some thousands of inputs for each target,
//! `cargo xtask fuzz` runs for a given time. A failing input is shortened ([`shrink`]) and written to `target/fuzz`; to keep it as
//! a regression test, move it to `corpus/TARGET` with a name that describes it.

mod bombs;
mod connection;
pub mod corpus;
mod fixtures;
pub mod generate;
pub mod mutate;
mod request_parts;
mod request_seeds;
mod request_text;
pub mod seeds;
mod server;
pub mod shrink;
mod stops;
pub mod targets;

pub use targets::{TARGETS, Target};
