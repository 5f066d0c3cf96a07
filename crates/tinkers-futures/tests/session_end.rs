//! Tests of the errors of operations whose session was closed or lost.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{Step, session};
use tinkers_core::{ClientId, Error, ErrorKind, RouteClass, Sent};
use tinkers_futures::{Operation, Retrieval, retrieve, session_error};
use tinkers_wire::{ModelCreated, RequestKind};

#[test]
fn session_end_error_replaces_only_errors_that_a_session_end_may_cause() {
    use ErrorKind as K;
    let (session, server) = session([]);
    let kind_of = |kind| {
        let error = Error::new(kind, Sent::Answered, "failed");
        session_error(&*session, error).kind()
    };
    assert_eq!(kind_of(K::ResultLost), K::ResultLost, "the session is open");
    *server.ended.lock().unwrap() = Some(Error::closed());
    for kind in [
        K::NotFound,
        K::ResultLost,
        K::OperationFailed,
        K::SessionLost,
    ] {
        assert_eq!(kind_of(kind), K::Closed, "{kind:?}");
    }
    for kind in [K::Connection, K::Timeout, K::Protocol, K::Authentication] {
        assert_eq!(kind_of(kind), kind);
    }
}

#[test]
fn lost_training_result_makes_the_client_check_the_session() {
    let lost = Step::Json(410, r#"{"detail": "gone"}"#);
    let failed = Step::Json(200, r#"{"error": "diverged", "category": "user"}"#);
    for (step, class, confirmations) in [
        (lost.clone(), RouteClass::Train, 1),
        (lost, RouteClass::Sample, 0),
        (failed, RouteClass::Train, 0),
    ] {
        let (session, server) = session([step.clone()]);
        let retrieval = Retrieval {
            operation: Operation::new(session, "Test.run", class),
            client: ClientId(0),
            request_id: "r".into(),
            kind: RequestKind::CreateModel,
            submitted_in: Duration::ZERO,
            queue_log: None,
        };
        let result = server.drive(retrieve::<ModelCreated>(retrieval));
        result.expect_err("there is no result");
        let confirmed = server.confirmations.load(Ordering::SeqCst);
        assert_eq!(confirmed, confirmations, "{step:?} {class:?}");
    }
}
