//! Tests of the progress deadline and the deadline of an operation, and of the timeouts of polls.

mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::future::join;
use support::{Scripted, Step, session, session_with_limits};
use tinkers_core::{
    ClientId, Clock, ErrorKind, ProgressCell, Result, RouteClass, SessionContext, Timeouts,
};
use tinkers_futures::{ApiFuture, Operation, Retrieval, SessionPoller, retrieve, start};
use tinkers_wire::{ModelCreated, PollTarget, RequestKind};

const PROGRESS_DEADLINE: Duration = Duration::from_secs(10);

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Starts an operation that never ends by itself. It reports progress at the given times, in seconds from its start.
fn operation(
    deadline: Option<Duration>,
    progress_at: &'static [u64],
) -> (ApiFuture<()>, Arc<Scripted>) {
    let (session, server) = session_with_limits([], PROGRESS_DEADLINE, deadline);
    let operation = Operation::new(
        session as Arc<dyn SessionContext>,
        "Test.run",
        RouteClass::Sample,
    );
    let (clock, progress) = (server.clock.clone(), Arc::clone(&operation.progress));
    let work = async move {
        report(&clock, &progress, progress_at).await;
        std::future::pending().await
    };
    (start(operation, work), server)
}

async fn report(clock: &dyn Clock, progress: &ProgressCell, progress_at: &[u64]) {
    let start = clock.now();
    for &at in progress_at {
        clock.sleep_until(start.after(seconds(at))).await;
        progress.record_response(clock.now());
    }
}

/// Runs an operation that never ends by itself. Returns the kind of the error with which it fails, and the number of seconds after which it
/// fails.
fn failure(deadline: Option<Duration>, progress_at: &'static [u64]) -> (ErrorKind, u64) {
    let (handle, server) = operation(deadline, progress_at);
    let start = server.clock.now();
    let error = server.drive(handle).expect_err("the operation never ends");
    let took = server.clock.now().since(start);
    (error.kind(), took.as_secs())
}

#[test]
fn progress_extends_only_the_progress_deadline() {
    let deadline = Some(seconds(25));
    assert_eq!(failure(deadline, &[]), (ErrorKind::Stalled, 10));
    assert_eq!(failure(deadline, &[9]), (ErrorKind::Stalled, 19));
    assert_eq!(failure(deadline, &[9, 18]), (ErrorKind::Timeout, 25));
    assert_eq!(failure(deadline, &[9, 18, 24]), (ErrorKind::Timeout, 25));
    assert_eq!(failure(Some(seconds(3)), &[1, 2]), (ErrorKind::Timeout, 3));
    assert_eq!(failure(None, &[9, 18, 24]), (ErrorKind::Stalled, 34));
}

#[test]
fn result_at_the_same_instant_as_the_deadline_is_returned() {
    for deadline in [None, Some(PROGRESS_DEADLINE)] {
        let (session, server) = session_with_limits([], PROGRESS_DEADLINE, deadline);
        let operation = Operation::new(
            session as Arc<dyn SessionContext>,
            "Test.run",
            RouteClass::Sample,
        );
        let sleep = server
            .clock
            .sleep_until(server.clock.now().after(PROGRESS_DEADLINE));
        let work = async move {
            sleep.await;
            Result::Ok(7)
        };
        assert_eq!(server.drive(start(operation, work)).ok(), Some(7));
    }
}

#[test]
fn progress_deadline_and_operation_deadline_use_one_timer() {
    let (handle, server) = operation(Some(seconds(25)), &[]);
    let clock = server.clock.clone();
    let sleepers = server.drive(async {
        // The operation itself uses no timer.
        clock.sleep_until(clock.now().after(seconds(1))).await;
        clock.sleepers()
    });
    assert_eq!(sleepers, 1);
    drop(handle);
    server.drive(async {
        clock.sleep_until(clock.now().after(seconds(1))).await;
    });
    assert_eq!(clock.sleepers(), 0);
}

/// A waker that records, when it is called, whether the resources of the operation under test are already released.
struct ReleaseRecorder {
    held: Weak<()>,
    is_released: Mutex<Vec<bool>>,
}

impl Wake for ReleaseRecorder {
    fn wake(self: Arc<Self>) {
        let is_released = self.held.strong_count() == 0;
        self.is_released.lock().unwrap().push(is_released);
    }
}

#[test]
fn timed_out_work_is_dropped_before_the_waiter_is_woken() {
    let deadline = Some(seconds(5));
    let (session, server) = session_with_limits([], PROGRESS_DEADLINE, deadline);
    let operation = Operation::new(
        session as Arc<dyn SessionContext>,
        "Test.run",
        RouteClass::Sample,
    );
    let held = Arc::new(());
    let recorder = Arc::new(ReleaseRecorder {
        held: Arc::downgrade(&held),
        is_released: Mutex::default(),
    });
    let work = async move {
        let _held = held;
        std::future::pending().await
    };
    let mut handle: ApiFuture<()> = start(operation, work);
    let waker = Waker::from(Arc::clone(&recorder));
    let mut cx = Context::from_waker(&waker);
    assert!(Pin::new(&mut handle).poll(&mut cx).is_pending());
    let time: &dyn Clock = &server.clock;
    server.drive(time.sleep(seconds(6)));
    assert_eq!(*recorder.is_released.lock().unwrap(), [true]);
}

#[test]
fn polls_have_the_poll_timeouts_of_the_client() {
    let (mut session, server) = session([]);
    let timeouts = Timeouts::new().with_first_byte(seconds(33));
    let caller = &mut Arc::get_mut(&mut session).expect("one owner").caller;
    caller.timeouts.set(RouteClass::Poll, timeouts);
    let done = r#"{"model_id": "m", "type": "create_model"}"#;
    server.on("retrieve_future", [Step::Json(200, done)]);
    let completed = r#"{"completions": [{"state": "finished", "request_id": "1"}], "cursor": 1}"#;
    server.on("retrieve_futures", [Step::Json(200, completed)]);
    let session = session as Arc<dyn SessionContext>;
    let target = PollTarget::samples("s:sample:0", 0);
    let poller = SessionPoller::new(Arc::clone(&session), ClientId(0), target);
    let operation = Operation::new(session, "Test.run", RouteClass::Sample);
    let submission = poller.begin().expect("the poller runs");
    let handle = poller
        .register(submission, "1", &operation.progress)
        .expect("a new id");
    let retrieval = Retrieval {
        operation,
        client: ClientId(0),
        request_id: "r".into(),
        kind: RequestKind::CreateModel,
        submitted_in: Duration::ZERO,
        queue_log: None,
    };
    let polls = join(handle.completed(), retrieve::<ModelCreated>(retrieval));
    let (completed, result) = server.drive(polls);
    completed.expect("the completion");
    result.expect("the result");
    let requests = server.requests.lock().unwrap();
    let used: Vec<Timeouts> = requests.iter().map(|(_, poll)| poll.timeouts).collect();
    assert_eq!(used, [timeouts, timeouts]);
}
