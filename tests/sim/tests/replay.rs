//! Tests that a seed always gives the same run, even in another process.

use std::process::Command;

use tinkers_sim::plan::{EngineKind, Plan, PlanOptions};
use tinkers_sim::simulation::{self, RunReport};
use tinkers_sim::trace::KeptLines;

/// Runs a seed in this process and in `processes` other processes, and checks that all runs produce
/// the same trace. Returns the report of the run in this process.
fn replay(seed: u64, engine: EngineKind, processes: usize) -> RunReport {
    let options = PlanOptions {
        engine,
        ..PlanOptions::default()
    };
    let report = simulation::run(&Plan::new(seed, &options), None, KeptLines::Last);
    let expected = format!("trace {:016x}", report.hash);
    for _ in 0..processes {
        let output = Command::new(env!("CARGO_BIN_EXE_tinkers-sim"))
            .args(["--engine", engine.name(), "--seed", &seed.to_string()])
            .output()
            .expect("the program starts");
        let output = String::from_utf8_lossy(&output.stdout);
        assert!(output.contains(&expected), "{expected} is not in {output}");
    }
    report
}

#[test]
fn simulation_seed_gives_the_same_trace_in_other_processes() {
    for seed in [1, 2, 3] {
        replay(seed, EngineKind::Scripted, 2);
    }
}

#[test]
fn simulation_seed_gives_the_same_weights_in_another_process() {
    let report = replay(1, EngineKind::Real, 1);
    assert!(report.totals.models > 0, "inconclusive");
}
