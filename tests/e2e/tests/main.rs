//! Whole clients against the embedded server.

mod bad_days;
mod bad_input;
mod body_formats;
mod chunks;
mod closing;
mod congestion;
mod deadlines;
mod log;
mod lost_replies;
mod lost_sessions;
mod nested;
mod options_builder;
mod options_calls;
mod options_limits;
mod orphans;
mod other_servers;
mod outages;
mod prompt_wakers;
mod refusals;
mod runtime;
mod sampling;
mod session_poll_faults;
mod session_polls;
mod shared_poll_doubts;
mod training;
mod unreachable;
