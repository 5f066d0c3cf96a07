//! Whole clients under two profiles, for two seconds each.

use std::path::PathBuf;
use std::time::Duration;

use tinkers_stress::clients::{Options, Profile, Verdict, run};

#[test]
fn counts_are_exact_under_loss_and_before_a_full_server() {
    // One after the other: sockets and registry are the process's.
    for name in ["disconnects", "rate-limited"] {
        let profile = Profile::named(name).expect("it is there");
        let options = Options {
            length: Duration::from_secs(2),
            clients: 2,
            tasks: 4,
            seed: 7 << 20,
            report: None,
            server: Some(PathBuf::from(env!("CARGO_BIN_EXE_tinkers-stress"))),
        };
        let outcome = run(&profile, &options).expect("it runs");
        assert_eq!(outcome.verdict, Verdict::Holds, "{}", outcome.text);
    }
}
