//! Tests of the retrieval of one result: the effect of each response, and the pauses between polls.

#[path = "retrieve/progress.rs"]
mod progress;
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use support::{FakeSession, Scripted, Step, session, session_with_limits};
use tinkers_core::{
    Arrival, AttemptOutcome, BoxFuture, Call, Caller, Error, ErrorKind, HttpRequest, HttpResponse,
    Phase, Readmission, RouteClass, SessionContext, Transport, TransportError, TransportErrorKind,
};
use tinkers_futures::{Operation, Retrieval, retrieve, start};
use tinkers_wire::{
    FailureCategory, ForwardBackwardOutput, ModelCreated, OperationResult, RequestKind,
    RetrieveFuture, to_json,
};

const DONE: Step = Step::Json(200, r#"{"model_id": "m", "type": "create_model"}"#);
const NOT_READY: Step = Step::Json(
    200,
    r#"{"type": "try_again", "request_id": "r", "queue_state": "active"}"#,
);

fn run<T: OperationResult>(
    script: impl IntoIterator<Item = Step>,
) -> (Result<T, Error>, Arc<Scripted>, Operation) {
    let (session, server) = session(script);
    let operation = Operation::new(
        session as Arc<dyn SessionContext>,
        "Test.run",
        RouteClass::Sample,
    );
    let retrieval = Retrieval {
        operation: operation.clone(),
        client: tinkers_core::ClientId(0),
        request_id: "r".into(),
        kind: RequestKind::CreateModel,
        submitted_in: Duration::from_millis(250),
        queue_log: None,
    };
    let result = server.drive(retrieve::<T>(retrieval));
    (result, server, operation)
}

fn created(
    script: impl IntoIterator<Item = Step>,
) -> (Result<ModelCreated, Error>, Arc<Scripted>, Operation) {
    run(script)
}

#[test]
fn available_result_needs_only_one_poll() {
    let (result, server, operation) = created([DONE]);
    assert_eq!(result.unwrap().model_id, "m");
    let asked = server.requests.lock().unwrap();
    let request = &asked[0].1;
    let body = to_json(&RetrieveFuture {
        request_id: "r".into(),
        allow_metadata_only: true,
    });
    assert_eq!((asked.len(), &request.body), (1, &body));
    assert_eq!(request.headers["x-tinker-request-type"], "CreateModel");
    assert_eq!(request.headers["x-tinker-request-iteration"], "0");
    assert_eq!(
        request.headers["x-tinker-create-promise-roundtrip-time"],
        "0.250000"
    );
    assert_eq!(
        operation.progress.snapshot().request_id.as_deref(),
        Some("r")
    );
}

#[test]
fn long_polls_have_no_pauses_and_report_the_queue_state() {
    let held = Step::After(Duration::from_secs(30));
    let paused = Step::Json(
        408,
        r#"{"queue_state": "paused_capacity", "queue_state_reason": "full"}"#,
    );
    let (result, server, operation) =
        created([held.clone(), NOT_READY, held, paused, NOT_READY, DONE]);
    assert!(result.is_ok());
    // The third response arrived at once, so there is a pause before the fourth poll.
    assert_eq!(server.request_times(), [0.0, 30.0, 60.0, 60.02]);
    let progress = operation.progress.snapshot();
    assert_eq!((progress.polls, progress.phase), (4, Phase::Waiting));
}

#[test]
fn immediate_not_ready_responses_lengthen_the_pause_between_polls() {
    let script = std::iter::repeat_n(NOT_READY, 100).chain([DONE]);
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    let took = *server.request_times().last().unwrap();
    assert!(took > 180.0, "a hundred polls in {took} s");
}

#[test]
fn failed_operation_reports_the_category_from_the_server() {
    let (result, ..) = created([Step::Json(
        200,
        r#"{"error": "token 999 outside", "category": "user"}"#,
    )]);
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.category()),
        (ErrorKind::OperationFailed, Some(FailureCategory::User))
    );
    assert_eq!(error.request_id(), Some("r"));
    assert!(!error.is_retryable());
    let (result, ..) = created([Step::Json(
        200,
        r#"{"error": "node lost", "category": "server"}"#,
    )]);
    assert!(result.unwrap_err().is_retryable());
}

#[test]
fn poll_with_a_4xx_response_is_retried_three_times() {
    for (status, kind) in [
        (400, ErrorKind::OperationFailed),
        (404, ErrorKind::NotFound),
        (422, ErrorKind::OperationFailed),
    ] {
        let answer = Step::Json(status, r#"{"detail": "no such luck"}"#);
        let (result, server, _) = created(std::iter::repeat_n(answer.clone(), 9));
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(status)));
        assert!(error.to_string().contains("no such luck"), "{error}");
        assert_eq!(server.request_times(), [0.0, 0.5, 1.5, 3.5], "{status}");
        // A "not ready" response in between resets the number of retries.
        let (result, ..) = created([
            answer.clone(),
            answer.clone(),
            answer.clone(),
            NOT_READY,
            answer,
            DONE,
        ]);
        assert!(result.is_ok(), "{status}");
    }
}

#[test]
fn poll_with_a_500_and_a_reason_fails_after_half_a_minute() {
    let answer = Step::Json(500, r#"{"detail": "CUDA out of memory"}"#);
    let (result, server, _) = created(std::iter::repeat_n(answer.clone(), 9));
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed);
    assert_eq!(error.category(), Some(FailureCategory::Server));
    assert!(error.to_string().contains("CUDA out of memory"), "{error}");
    assert_eq!(
        server.request_times(),
        [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5],
        "a small budget"
    );
    let (result, ..) = created([answer.clone(), answer, DONE]);
    assert!(result.is_ok());
    let bare = std::iter::repeat_n(Step::Json(500, "Internal Server Error"), 40);
    assert!(created(bare.chain([DONE])).0.is_ok());
}

#[test]
fn alternating_poll_failures_have_separate_retry_limits() {
    let failed = Step::Json(500, r#"{"detail": "starting"}"#);
    let unknown = Step::Json(404, r#"{"detail": "starting"}"#);
    let cut = Step::Json(200, r#"{"model_id": "#);
    let turns = [failed.clone(), unknown, cut, failed];
    let script = turns.into_iter().cycle().take(12).chain([DONE]);
    assert!(created(script).0.is_ok());
}

#[test]
fn poll_timeout_without_a_response_resets_the_retry_counts() {
    let unknown = Step::Json(404, r#"{"detail": "no such future"}"#);
    let held = [
        Step::After(Duration::from_secs(45)),
        Step::Fails(TransportErrorKind::Timeout),
    ];
    let retried = std::iter::repeat_n(unknown, 3).chain(held);
    let script = retried.cycle().take(25).chain([DONE]);
    assert!(created(script).0.is_ok());
}

#[test]
fn truncated_result_is_polled_again() {
    let cut = Step::Json(200, r#"{"model_id": "#);
    let (result, server, _) = created([cut.clone(), cut, DONE]);
    assert!(result.is_ok());
    assert_eq!(server.request_times(), [0.0, 0.5, 1.5]);
}

#[test]
fn connection_and_proxy_failures_only_delay_the_result() {
    let script = [
        Step::Fails(TransportErrorKind::Connect),
        Step::Fails(TransportErrorKind::Broken),
        Step::Json(502, ""),
        Step::Json(400, ""),
        Step::Json(503, ""),
        DONE,
    ];
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    // As an outage check, a poll ends its pause early, except the pause after the 400 of the proxy.
    assert_eq!(server.request_times(), [0.0, 0.5, 1.5, 2.5, 6.5, 8.5]);
}

#[test]
fn next_poll_follows_a_timed_out_long_poll_at_once() {
    let script = [
        Step::After(Duration::from_secs(45)),
        Step::Fails(TransportErrorKind::Timeout),
        DONE,
    ];
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    assert_eq!(server.request_times(), [0.0, 45.0]);
}

#[test]
fn next_poll_after_a_429_waits_for_the_server_retry_delay() {
    let (result, server, _) = created([
        Step::WithHeader(429, "retry-after", "7"),
        Step::Json(429, "{}"),
        DONE,
    ]);
    assert!(result.is_ok());
    assert_eq!(server.request_times(), [0.0, 7.0, 8.0]);
    let hint = Some(Duration::from_secs(7));
    let expected = [
        AttemptOutcome::Refused { hint },
        AttemptOutcome::Refused { hint: None },
        AttemptOutcome::Accepted,
    ];
    assert_eq!(*server.settled.lock().unwrap(), expected);
}

#[test]
fn rate_limited_poll_keeps_its_queue_position() {
    let refused = || Step::Json(429, "{}");
    let script = [NOT_READY, refused(), refused(), NOT_READY, DONE];
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    let kept = Readmission::AfterRefusal(Arrival(2));
    let expected = [
        Readmission::New,
        Readmission::New,
        kept,
        kept,
        Readmission::New,
    ];
    assert_eq!(*server.readmissions.lock().unwrap(), expected);
    // The submit permit closes the gate before the in-flight permit admits another request.
    let pairs = server.released.lock().unwrap();
    assert!(
        pairs
            .chunks(2)
            .all(|pair| pair == ["permit", "in_flight_permit"])
    );
}

#[test]
fn poll_stopped_by_the_limiter_before_sending_keeps_its_position() {
    let held = || Step::Fails(TransportErrorKind::Held);
    let (result, server, _) = created([NOT_READY, held(), held(), DONE]);
    assert!(result.is_ok());
    let kept = Readmission::AfterRefusal(Arrival(2));
    let expected = [Readmission::New, Readmission::New, kept, kept];
    assert_eq!(*server.readmissions.lock().unwrap(), expected);
}

#[test]
fn failing_server_is_polled_until_the_operation_stalls() {
    let limit = Duration::from_secs(600);
    let failing = std::iter::repeat_n(Step::Json(500, "{}"), 1000);
    let (session, server) = session_with_limits(failing, limit, None);
    let operation = Operation::new(
        session as Arc<dyn SessionContext>,
        "Test.run",
        RouteClass::Sample,
    );
    let retrieval = Retrieval {
        operation: operation.clone(),
        client: tinkers_core::ClientId(0),
        request_id: "r".into(),
        kind: RequestKind::CreateModel,
        submitted_in: Duration::ZERO,
        queue_log: None,
    };
    let polls = start(operation, retrieve::<ModelCreated>(retrieval));
    let error = server.drive(polls).expect_err("the operation stalls");
    let stalled = error.stalled().expect("stalled");
    assert_eq!((stalled.phase, stalled.since), (Phase::Waiting, limit));
    let asked = server.request_times();
    assert!(
        (60..110).contains(&asked.len()),
        "{} polls in 600 s",
        asked.len()
    );
    // The client recovers from five consecutive failures before a result.
    let script = std::iter::repeat_n(Step::Json(500, "{}"), 5).chain([DONE]);
    assert!(created(script).0.is_ok());
}

#[test]
fn unpaid_bill_pauses_polls_until_the_billing_time_limit() {
    let unpaid = Step::Json(402, r#"{"detail": "add a card"}"#);
    let (result, server, _) = created([unpaid.clone(), unpaid.clone(), DONE]);
    assert!(result.is_ok());
    assert_eq!(server.request_times(), [0.0, 5.0, 10.0]);
    let (result, server, _) = created(std::iter::repeat_n(unpaid, 1000));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Billing);
    assert_eq!(*server.request_times().last().unwrap(), 3600.0);
}

#[test]
fn poll_with_a_410_response_is_retried_unless_a_reason_is_given() {
    let (result, server, _) = created([Step::Json(410, r#"{"detail": "gone"}"#)]);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ResultLost);
    assert_eq!(server.request_times().len(), 1);
    let page = Step::Json(410, "<html>gone</html>");
    let (result, server, _) = created(std::iter::repeat_n(page, 9));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ResultLost);
    assert_eq!(server.request_times().len(), 7);
}

#[test]
fn each_cause_of_poll_retries_has_its_own_retry_limit() {
    use ErrorKind as K;
    let (few, some) = (4, 7);
    let reason = r#"{"detail": "starting"}"#;
    for (step, kind, polls) in [
        (Step::Json(401, reason), K::Authentication, few),
        (Step::Json(403, reason), K::PermissionDenied, few),
        (Step::Json(409, reason), K::Conflict, few),
        (Step::Json(418, reason), K::Rejected, few),
        (Step::Json(401, "<html>"), K::Authentication, some),
        (Step::Json(404, "<html>"), K::NotFound, some),
        (Step::Json(405, "<html>"), K::NotFound, some),
        (Step::Json(400, "<html>"), K::Rejected, some),
        (Step::Json(413, ""), K::Rejected, some),
        (Step::Json(421, "{}"), K::Rejected, some),
        (Step::Json(431, "<html>"), K::Rejected, some),
        (Step::Json(302, ""), K::Protocol, some),
        (Step::Fails(TransportErrorKind::Tls), K::Connection, some),
        (Step::Fails(TransportErrorKind::Decode), K::Protocol, some),
        (Step::Fails(TransportErrorKind::Redirect), K::Protocol, some),
        (Step::Fails(TransportErrorKind::TooLarge), K::Protocol, 2),
        (
            Step::Fails(TransportErrorKind::Credential),
            K::Authentication,
            1,
        ),
    ] {
        let (result, server, _) = created(std::iter::repeat_n(step.clone(), 9));
        assert_eq!(result.unwrap_err().kind(), kind, "{step:?}");
        assert_eq!(server.request_times().len(), polls, "{step:?}");
        if polls > 1 {
            let (result, ..) = created([step.clone(), DONE]);
            assert!(result.is_ok(), "{step:?}");
        }
    }
}

#[test]
fn poll_response_without_content_means_not_ready() {
    let script = [Step::Json(204, ""), Step::Json(202, ""), DONE];
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    assert_eq!(server.request_times(), [0.0, 0.02, 0.06]);
}

#[test]
fn each_poll_carries_its_iteration_number() {
    let (result, server, operation) = created([NOT_READY, Step::Json(503, ""), NOT_READY, DONE]);
    assert!(result.is_ok());
    let requests = server.requests.lock().unwrap();
    let iterations = requests.iter().map(|(_, poll)| {
        let iteration = &poll.headers["x-tinker-request-iteration"];
        iteration.to_str().unwrap().to_owned()
    });
    assert_eq!(iterations.collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    assert_eq!(operation.progress.snapshot().polls, 4);
}

#[test]
fn poll_backoff_restarts_after_a_not_ready_response() {
    let failed = || std::iter::repeat_n(Step::Json(400, ""), 4);
    let script = failed().chain([NOT_READY]).chain(failed()).chain([DONE]);
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    let times = server.request_times();
    let pauses: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..4], [0.5, 1.0, 2.0, 4.0]);
    assert_eq!(pauses[5..], [0.5, 1.0, 2.0, 4.0]);
}

#[test]
fn large_result_reserves_memory_budget_until_it_is_decoded() {
    let output = ForwardBackwardOutput::new("scalar", Vec::new());
    let script = [
        Step::Json(
            200,
            r#"{"status": "complete_metadata", "response_payload_size": 4000}"#,
        ),
        Step::Json(502, ""),
        Step::Protobuf(output.to_protobuf()),
    ];
    let (result, server, operation) = run::<ForwardBackwardOutput>(script);
    assert_eq!(result.unwrap(), output);
    assert_eq!(server.max_bytes_held.load(Ordering::SeqCst), 4000);
    assert_eq!(server.bytes_held.load(Ordering::SeqCst), 0);
    assert_eq!(operation.progress.snapshot().phase, Phase::Fetching);
    let asked = server.requests.lock().unwrap();
    let asks_for_size: Vec<bool> = asked
        .iter()
        .map(|(_, request)| {
            request
                .body
                .windows(26)
                .any(|w| w == b"allow_metadata_only\":true}")
        })
        .collect();
    assert_eq!(asks_for_size, [true, false, false]);
}

#[test]
fn retrieval_fails_after_three_responses_with_only_the_size() {
    let again = Step::Json(
        200,
        r#"{"status": "complete_metadata", "response_payload_size": 4000}"#,
    );
    let (result, server, _) = created(std::iter::repeat_n(again, 50));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Protocol);
    let max_held = server.max_bytes_held.load(Ordering::SeqCst);
    assert_eq!(max_held, 4000, "the bytes are reserved once");
    assert_eq!(server.bytes_held.load(Ordering::SeqCst), 0);
}

/// A transport that, when it is asked to send a request, first retrieves the result of another request.
#[derive(Debug)]
struct RetrievingLayer(Retrieval);

impl Transport for RetrievingLayer {
    fn send(&self, _: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async {
            let result = retrieve::<ModelCreated>(self.0.clone()).await;
            result.expect("the nested result");
            Ok(HttpResponse {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: Bytes::new(),
            })
        })
    }
}

#[test]
fn retrieval_by_a_transport_during_a_request_reserves_no_memory() {
    let size = Step::Json(
        200,
        r#"{"status": "complete_metadata", "response_payload_size": 4000}"#,
    );
    let (session, server) = session([size, DONE]);
    let retrieval = Retrieval {
        operation: Operation::new(
            Arc::<FakeSession>::clone(&session),
            "Test.run",
            RouteClass::Train,
        ),
        client: tinkers_core::ClientId(0),
        request_id: "r".into(),
        kind: RequestKind::CreateModel,
        submitted_in: Duration::ZERO,
        queue_log: None,
    };
    let caller = Caller {
        transport: Arc::new(RetrievingLayer(retrieval)),
        ..session.caller().clone()
    };
    let call = caller.call(Call::get("/models", RouteClass::Rest));
    server.drive(call).expect("a response");
    // The outer request may hold the whole budget, so waiting for the budget could deadlock.
    assert_eq!(server.max_bytes_held.load(Ordering::SeqCst), 0);
}
