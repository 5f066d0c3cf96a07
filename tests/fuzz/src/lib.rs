//! Fuzz targets for every parser of untrusted input. No input may cause a panic or a memory use
//! that is not proportional to its length. A parsed value must not change when it is written and
//! parsed again.
//!
//! A [`Target`] is one parser. Its seeds are the files of the [`corpus`] and inputs made in code
//! ([`seeds`]). The module [`mutate`] derives further inputs from the seeds, and [`generate`] makes
//! whole requests. `cargo test` runs some thousands of inputs for each target; `cargo xtask fuzz`
//! runs for a given time. A failing input is shortened ([`shrink`]) and written to `target/fuzz`.
//! To keep it as a regression test, move it to `corpus/TARGET` with a name that describes the
//! failure.

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
