//! Foreign bytes for everything that reads them: no bytes may make a reader panic, take memory out of proportion, or read back
//! something else than it wrote.
//!
//! A [`Target`] is one reader. Its inputs are the [`files`] of the repository, bodies of our own writers, and bodies that somebody
//! nasty would send; [`mutate`] makes others of them, and [`draw`] whole requests. `cargo test` runs some thousands for each target,
//! `cargo xtask fuzz` as many as there is time for. An input that breaks a target is cut as short as it still does
//! ([`shrink`]) and kept under `target/fuzz`; moved to `corpus/TARGET` under a name that says what it is, it stays a test.

mod bombs;
mod connection;
pub mod corpus;
pub mod draw;
pub mod files;
mod furniture;
pub mod mutate;
mod request;
mod requests;
mod server;
pub mod shrink;
mod stops;
pub mod targets;
mod words;

pub use targets::{TARGETS, Target};
