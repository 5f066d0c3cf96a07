//! Whole clients against the embedded server.

mod bad_days;
mod bad_input;
mod body_formats;
mod chunks;
mod congestion;
mod lost_replies;
mod orphans;
mod other_servers;
mod outages;
mod runtime;
mod sampling;
mod session_poll_faults;
mod session_polls;
mod shared_poll_doubts;
mod training;
