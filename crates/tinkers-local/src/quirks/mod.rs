//! Quirks of other servers: differences in single requests and responses, applied at the host boundary.
//!
//! A quirk rewrites a request before the protocol reads it, or a response after the protocol has built it. The protocol itself does not know
//! quirks. Differences that the protocol must know, such as the order of operations, are fields of a [`Dialect`](crate::Dialect).

mod direct;
mod hatchery_client;
mod paths;
mod results;
mod rewriter;
mod state;
mod table;

pub use self::table::{Quirk, UnknownQuirk};

pub(crate) use self::rewriter::Quirks;
