//! Parses a request into a [`Command`]: API key, route and body. Parsing does not use the state, so it runs without the lock of the
//! protocol.

mod admin_query;
mod body;
mod command;
mod digest;
mod json;
mod parse;
mod pass;
mod refusal;
mod route;
mod route_class;
mod seq_id_scan;
mod unknown_options;

pub(crate) use admin_query::{AuditQuery, UsagePeriod};
pub(crate) use body::{decompressed, is_protobuf, too_large};
pub(crate) use command::Page;
pub use command::{AuthorizedCommand, Command};
pub(crate) use digest::Digest;
pub(crate) use parse::{check_key, fault_counts, is_counts, read};
pub(crate) use pass::{BackwardBody, ForwardBody};
pub(crate) use refusal::Refusal;
pub use route::Route;
pub(crate) use route::is_id;
pub(crate) use route_class::class_of;
pub(crate) use seq_id_scan::{NumberScan, Numbered, gives_up_number};
