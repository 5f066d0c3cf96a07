//! Tests of the progress that a handle reports, and of the responses that reset the progress deadline.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{
    ClientId, Clock, Error, ErrorKind, RouteClass, Sent, SessionContext, TransportErrorKind,
};
use tinkers_futures::{ApiFuture, Operation, QueueLog, Retrieval, retrieve, start};
use tinkers_wire::{ModelCreated, QueueState, RequestKind};

use crate::support::{Scripted, Step, session, session_with_limits};
use crate::{DONE, NOT_READY};

const PROGRESS_DEADLINE: Duration = Duration::from_secs(100);

/// Starts an operation that retrieves the result of the request with the id `r` from a fake server that follows `script`.
fn started(
    script: impl IntoIterator<Item = Step>,
    queue_log: Option<Arc<QueueLog>>,
) -> (ApiFuture<ModelCreated>, Arc<Scripted>) {
    let (session, server) = session_with_limits(script, PROGRESS_DEADLINE, None);
    let session = session as Arc<dyn SessionContext>;
    let operation = Operation::new(session, "Test.run", RouteClass::Sample);
    let retrieval = Retrieval {
        operation: operation.clone(),
        client: ClientId(0),
        request_id: "r".into(),
        kind: RequestKind::CreateModel,
        submitted_in: Duration::ZERO,
        queue_log,
    };
    (start(operation, retrieve(retrieval)), server)
}

fn wait(server: &Scripted, seconds: u64) {
    let time: &dyn Clock = &server.clock;
    server.drive(time.sleep(Duration::from_secs(seconds)));
}

#[test]
fn handle_returns_the_request_id_once_the_request_is_accepted() {
    let (handle, server) = started([Step::After(Duration::from_secs(30)), DONE], None);
    assert_eq!(handle.request_id(), None);
    wait(&server, 1);
    assert_eq!(handle.request_id().as_deref(), Some("r"));
}

#[test]
fn poll_response_updates_queue_state_and_queue_log() {
    let paused = Step::Json(
        408,
        r#"{"queue_state": "paused_capacity", "queue_state_reason": "full"}"#,
    );
    let held = || Step::After(Duration::from_secs(10));
    let log = Arc::new(QueueLog::sampling("s"));
    let script = [held(), paused, held(), NOT_READY, held(), DONE];
    let (handle, server) = started(script, Some(Arc::clone(&log)));
    wait(&server, 11);
    let progress = handle.progress();
    assert_eq!(progress.queue_state, Some(QueueState::PausedCapacity));
    assert_eq!(progress.queue_reason.as_deref(), Some("full"));
    let now = server.clock.now();
    let is_logged_again = log.observe(now, &QueueState::PausedCapacity, None);
    assert!(!is_logged_again, "the poll has logged the pause already");
    wait(&server, 10);
    let progress = handle.progress();
    assert_eq!(progress.queue_state, Some(QueueState::Active));
    assert_eq!(progress.queue_reason, None);
    server.drive(handle).expect("the result");
}

/// Returns the time after which an operation fails as stalled if its first poll gets `response` after 60 s and its second poll gets no
/// response.
fn stalled_at(response: Step) -> Duration {
    let held = |seconds| Step::After(Duration::from_secs(seconds));
    let (handle, server) = started([held(60), response, held(3600), DONE], None);
    let error = server.drive(handle).expect_err("the operation stalls");
    assert_eq!(error.kind(), ErrorKind::Stalled);
    server.clock.now().since_origin()
}

#[test]
fn not_ready_429_or_402_response_resets_the_progress_deadline() {
    let size = r#"{"status": "complete_metadata", "response_payload_size": 4000}"#;
    for response in [
        NOT_READY,
        Step::Json(408, "{}"),
        Step::Json(200, size),
        Step::Json(402, "{}"),
        Step::WithHeader(429, "retry-after", "90"),
    ] {
        let at = stalled_at(response.clone());
        assert_eq!(at, Duration::from_secs(160), "{response:?}");
    }
}

#[test]
fn failed_poll_leaves_the_progress_deadline_unchanged() {
    for response in [
        Step::Json(503, "{}"),
        Step::Json(404, "<html>"),
        Step::Fails(TransportErrorKind::Broken),
    ] {
        let at = stalled_at(response.clone());
        assert_eq!(at, PROGRESS_DEADLINE, "{response:?}");
    }
}

#[test]
fn not_sent_error_becomes_maybe_sent_after_an_accepted_request() {
    for (sent, is_accepted, expected) in [
        (Sent::NotSent, false, Sent::NotSent),
        (Sent::NotSent, true, Sent::MaybeSent),
        (Sent::MaybeSent, false, Sent::MaybeSent),
        (Sent::Answered, true, Sent::Answered),
    ] {
        let (session, server) = session([]);
        let session = session as Arc<dyn SessionContext>;
        let operation = Operation::new(session, "Test.run", RouteClass::Train);
        if is_accepted {
            operation.progress.accepted(server.clock.now(), "r");
        }
        let work = async move { Err(Error::new(ErrorKind::Rejected, sent, "failed")) };
        let handle: ApiFuture<()> = start(operation, work);
        let error = server.drive(handle).expect_err("the work fails");
        assert_eq!(error.sent(), expected, "{sent:?}, accepted: {is_accepted}");
    }
}
