//! Handles of operations, and the polls that turn a request id into a typed result.
#![doc = include_str!("../README.md")]

mod api_future;
mod backoff;
mod failure;
mod io_task;
mod operation;
mod poll_loop;
mod poller;
mod queue_log;
mod retrieve;
mod session_error;
mod status_retries;
mod submission;
mod sync;
mod unwind;

pub use api_future::ApiFuture;
pub use io_task::{call_on_io, on_io};
pub use operation::{Operation, QueueActivity, start};
pub use poller::{CompletionHandle, CompletionNotice, PendingSubmission, SessionPoller};
pub use queue_log::QueueLog;
pub use retrieve::{Retrieval, retrieve, retrieve_completed};
pub use session_error::session_error;
pub use submission::{
    SubmissionOutcome, is_submission, is_submission_or_result, read_submission,
    read_submission_or_result,
};
pub use unwind::{catch_unwind, panic_error};
