//! Whole clients against the embedded server.

mod bad_input;
mod runtime;
mod sampling;
mod training;
