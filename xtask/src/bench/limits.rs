//! `cargo xtask bench limits`: what admission costs, beside governor, tokio's semaphore and a lane under one mutex.

use crate::release;

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    release::run("tinkers-stress", "bench-limits", arguments)
}
