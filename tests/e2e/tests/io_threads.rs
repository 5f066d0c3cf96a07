//! The threads of the I/O runtime. All clients of a process share the threads, so this test runs in
//! its own process.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers_core::Clock;
use tinkers_e2e::SocketServer;
use tinkers_local::LocalConfig;
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

/// The maximum number of times that the test counts the I/O threads, at intervals of 5 ms, while it
/// waits until all of them have started.
const MAX_COUNTS: u32 = 2000;

#[tokio::test]
async fn io_threads_sets_the_number_of_runtime_threads() {
    let server = SocketServer::start(LocalConfig::default());
    let four = NonZeroUsize::new(4).unwrap();
    let service = server.client_builder().io_threads(four).connect().await;
    let service = service.expect("connected");
    // The first client of a process sets the number of threads.
    let other = server
        .client_builder()
        .io_threads(NonZeroUsize::MIN)
        .connect();
    let error = other.await.expect_err("the runtime is running");
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    #[cfg(target_os = "linux")]
    {
        let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
        for _ in 0..MAX_COUNTS {
            if io_threads() == 4 {
                break;
            }
            time.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(io_threads(), 4);
    }
    drop(service);
    server.stop();
}

/// Counts the threads in this process that belong to the I/O runtime, which sends the clients'
/// requests.
#[cfg(target_os = "linux")]
fn io_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| {
        let name = task.ok()?.path().join("comm");
        std::fs::read_to_string(name).ok()
    });
    names.filter(|name| name.trim() == "tinkers-io").count()
}
