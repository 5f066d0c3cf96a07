//! A keyed registry whose entries live as long as somebody uses them.
#![doc = include_str!("../README.md")]

mod cell;
mod collisions;
mod handle;
mod node;
mod registry;
mod slot;
mod sync;
mod table;

pub use collisions::Collisions;
pub use handle::Handle;
pub use registry::Registry;
