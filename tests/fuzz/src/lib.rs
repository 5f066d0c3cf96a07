//! Foreign bytes for everything that reads them: no bytes may make a reader panic, take memory out of proportion, or read back
//! something else than it wrote.
//!
//! A [`Target`] is one reader. Its seeds are bodies of our own writers and bodies that somebody nasty would send; [`mutate`]
//! makes others of them. `cargo test` runs some thousands for each target, `cargo xtask fuzz` as many as there is time for.

pub mod corpus;
pub mod mutate;
mod server;
pub mod targets;

pub use targets::{TARGETS, Target};
