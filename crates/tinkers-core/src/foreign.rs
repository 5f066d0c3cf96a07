//! Foreign code: wakers and log subscribers, which are the caller's and may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs foreign code that works for nobody who could be told of its panic, such as the log line of a background loop or the waker of
/// another task. A panic in it goes no further; the hook for panics has reported it already.
pub fn contain(foreign: impl FnOnce()) {
    let _panicked = catch_unwind(AssertUnwindSafe(foreign));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_foreign_code_goes_no_further() {
        let mut is_run = false;
        contain(|| {
            is_run = true;
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(is_run);
    }
}
