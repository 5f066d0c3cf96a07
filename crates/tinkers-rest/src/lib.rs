//! Clients for the management of runs, checkpoints, sessions and usage.
#![doc = include_str!("../README.md")]

mod account;
mod admin;
mod arguments;
mod checkpoints;
mod client;
mod connection;
mod copy;
mod delete;
mod filter;
mod items;
mod lists;
mod missing_route;
mod paging;
mod runs;
mod search;
mod sessions;
mod trace;
mod upload;

pub use admin::AdminClient;
pub use client::RestClient;
pub use connection::{KeepAlive, RestParts};
pub use copy::CopyCheckpoint;
pub use delete::{DeleteReport, FailedDelete};
pub use filter::CheckpointFilter;
pub use items::ItemStream;
pub use lists::{ListSessions, ListTrainingRuns, ListUserCheckpoints};
pub use search::{SearchCheckpoints, SearchSessions};
pub use trace::ExportSessionTrace;
