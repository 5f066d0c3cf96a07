//! A keyed registry whose entries live as long as somebody uses them.
#![doc = include_str!("../README.md")]

mod handle;
mod table;

pub use handle::Handle;
pub use table::Registry;
