//! `cargo xtask stress`: the cases are in the package tinkers-stress; this calls it in release.

use crate::release;

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    release::run("tinkers-stress", "tinkers-stress", arguments)
}
