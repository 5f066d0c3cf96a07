//! From a request id to a typed result: handles, polling, queue state.
#![doc = include_str!("../README.md")]

mod api_future;
mod closing;
mod join;
mod operation;
mod pace;
mod poller;
mod polls;
mod queue_log;
mod retrieve;
mod sync;
mod unwind;

pub use api_future::ApiFuture;
pub use closing::after_close;
pub use join::join_all;
pub use operation::{Operation, QueueActivity, is_promise, promise, start};
pub use poller::{CompletionHandle, CompletionNotice, PendingSubmission, SessionPoller};
pub use queue_log::QueueLog;
pub use retrieve::{Retrieval, retrieve, retrieve_announced};
pub use unwind::{aborted, catch_unwind};
