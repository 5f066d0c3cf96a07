//! The records of the server, such as sessions, the usage and the audit log: what they contain, and that they survive a restart.

#[path = "../support/mod.rs"]
mod support;

mod logs;
mod restarts;
mod store;
mod writes;
