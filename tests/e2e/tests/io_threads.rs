//! The threads of the I/O runtime. All clients of a process share them, so this test has a process of its own.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers_core::Clock;
use tinkers_e2e::Served;
use tinkers_local::LocalConfig;
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

/// Steps of 5 ms, for the threads that come up.
const STEPS: u32 = 2000;

#[tokio::test]
async fn io_threads_are_started() {
    let served = Served::start(LocalConfig::default());
    let four = NonZeroUsize::new(4).unwrap();
    let service = served.connecting().io_threads(four).connect().await;
    let service = service.expect("connected");
    // It holds from the first client on.
    let other = served.connecting().io_threads(NonZeroUsize::MIN).connect();
    let error = other.await.expect_err("the runtime is running");
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    #[cfg(target_os = "linux")]
    {
        let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
        for _ in 0..STEPS {
            if io_threads() == 4 {
                break;
            }
            time.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(io_threads(), 4);
    }
    drop(service);
    served.stop();
}

#[cfg(target_os = "linux")]
fn io_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| {
        let name = task.ok()?.path().join("comm");
        std::fs::read_to_string(name).ok()
    });
    names.filter(|name| name.trim() == "tinkers-io").count()
}
