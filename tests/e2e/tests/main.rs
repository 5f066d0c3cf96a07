//! Whole clients against the embedded server.

mod bad_input;
mod body_formats;
mod chunks;
mod lost_replies;
mod orphans;
mod runtime;
mod sampling;
mod training;
