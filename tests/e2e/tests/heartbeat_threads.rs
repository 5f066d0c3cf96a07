//! The heartbeat thread. All sessions of a process share the thread, so this test runs in its own
//! process.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::time::Duration;

use tinkers::ServiceClient;
use tinkers_core::Clock;
use tinkers_e2e::SocketServer;
use tinkers_local::LocalConfig;
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

/// The maximum number of times that the test counts the heartbeat threads, at intervals of 5 ms,
/// while it waits for the expected number.
const CHECKS: u32 = 2000;

#[tokio::test]
async fn all_sessions_share_one_heartbeat_thread() {
    let server = SocketServer::start(LocalConfig::default());
    let mut sessions: Vec<ServiceClient> = Vec::new();
    for _ in 0..10 {
        sessions.push(server.client().await.expect("connected"));
        wait_for_threads(1).await;
    }
    // The thread runs until the last session is dropped.
    let last = sessions.pop();
    drop(sessions);
    assert_eq!(heartbeat_threads(), 1);
    drop(last);
    wait_for_threads(0).await;
    // A later session starts a new thread.
    let session = server.client().await.expect("connected");
    wait_for_threads(1).await;
    drop(session);
    server.stop();
}

/// Waits until the process has exactly `count` heartbeat threads. Counts them up to [`CHECKS`]
/// times, and panics if the number is still different.
async fn wait_for_threads(count: usize) {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
    for _ in 0..CHECKS {
        if heartbeat_threads() == count {
            return;
        }
        clock.sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(heartbeat_threads(), count);
}

/// Counts the heartbeat threads of this process. It recognizes them by their name, which Linux
/// truncates to 15 bytes.
fn heartbeat_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("readable");
    let names = tasks.filter_map(|task| {
        let name = task.ok()?.path().join("comm");
        std::fs::read_to_string(name).ok()
    });
    names
        .filter(|name| name.trim() == "tinkers-heartbe")
        .count()
}
