//! A seed is the same run every time, in another process too.

use std::process::Command;

use tinkers_sim::plan::{Cut, Plan};
use tinkers_sim::trace::Keep;
use tinkers_sim::world;

#[test]
fn a_seed_leaves_the_same_trace_in_two_processes() {
    for seed in [1, 2, 3] {
        let here = world::run(&Plan::new(seed, &Cut::default()), None, Keep::Last);
        let said = |_| {
            let output = Command::new(env!("CARGO_BIN_EXE_tinkers-sim"))
                .args(["--seed", &seed.to_string()])
                .output()
                .expect("the program starts");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let expected = format!("trace {:016x}", here.hash);
        for there in (0..2).map(said) {
            assert!(there.contains(&expected), "{expected} is not in {there}");
        }
    }
}
