//! From a request to a [`Command`]: routing, the key, bodies. Pure, so that it runs without the protocol's lock.

mod body;
mod class;
mod command;
mod digest;
mod json;
mod number;
mod pass;
mod refusal;
mod route;
mod table;
mod unread;

pub(crate) use body::{is_protobuf, too_large};
pub(crate) use class::class_of;
pub use command::Command;
pub(crate) use command::Page;
pub(crate) use digest::Digest;
pub(crate) use number::{NumberScan, Numbered, gives_up_number};
pub(crate) use pass::{BackwardBody, ForwardBody};
pub(crate) use refusal::Refusal;
pub(crate) use route::{check_key, fault_counts, is_counts, read};
pub use table::Route;
pub(crate) use table::is_id;
