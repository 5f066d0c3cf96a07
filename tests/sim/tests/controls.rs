//! Each fault of older clients is found.

use tinkers_sim::control::Control;
use tinkers_sim::plan::Cut;
use tinkers_sim::seeds;

#[test]
fn each_fault_that_is_built_in_is_found() {
    for control in Control::ALL {
        let results = seeds::run(2000, &Cut::default(), Some(control));
        assert!(results.failure.is_some(), "{} is not found", control.name());
    }
}
