//! `cargo xtask bench limits`: compares the cost of admission with governor, tokio's semaphore and
//! a limiter under one mutex.

use crate::program;

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    program::run("tinkers-stress", "bench-limits", arguments)
}
