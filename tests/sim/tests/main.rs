//! Tests of the simulator: invariants over many seeds, reproducibility, regressions, and negative
//! controls.

mod controls;
mod invariants;
mod real_engine;
mod regressions;
mod replay;
