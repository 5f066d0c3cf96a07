//! Every answer of `retrieve_future`, on a clock moved by hand: what it leads to, and how fast it is asked again.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use support::{Scripted, Step, session, session_with_limits};
use tinkers_core::{
    Arrival, ErrorKind, Phase, Readmission, Result, RouteClass, SessionContext, Settlement,
    TransportErrorKind,
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
) -> (Result<T>, Arc<Scripted>, Operation) {
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
) -> (Result<ModelCreated>, Arc<Scripted>, Operation) {
    run(script)
}

#[test]
fn a_result_that_is_ready_takes_one_poll() {
    let (result, server, operation) = created([DONE]);
    assert_eq!(result.unwrap().model_id, "m");
    let asked = server.asked.lock().unwrap();
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
fn long_polls_follow_each_other_at_once_and_tell_of_the_queue() {
    let held = Step::After(Duration::from_secs(30));
    let paused = Step::Json(
        408,
        r#"{"queue_state": "paused_capacity", "queue_state_reason": "full"}"#,
    );
    let (result, server, operation) =
        created([held.clone(), NOT_READY, held, paused, NOT_READY, DONE]);
    assert!(result.is_ok());
    // The third was answered at once, so the fourth is paced.
    assert_eq!(server.asked_at(), [0.0, 30.0, 60.0, 60.02]);
    let progress = operation.progress.snapshot();
    assert_eq!((progress.polls, progress.phase), (4, Phase::Waiting));
}

#[test]
fn answers_that_come_at_once_slow_the_polls_down() {
    let script = std::iter::repeat_n(NOT_READY, 100).chain([DONE]);
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    let took = *server.asked_at().last().unwrap();
    assert!(took > 180.0, "a hundred polls in {took} s");
}

#[test]
fn a_failed_operation_tells_whose_fault_it_was() {
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
fn what_may_be_final_is_doubted_three_times_with_growing_pauses() {
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
        assert_eq!(server.asked_at(), [0.0, 0.5, 1.5, 3.5], "{status}");
        // In passing it does no harm, and a held poll in between renews the doubt.
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
fn a_server_error_with_a_reason_is_doubted_for_half_a_minute_and_a_bare_one_is_waited_out() {
    let answer = Step::Json(500, r#"{"detail": "CUDA out of memory"}"#);
    let (result, server, _) = created(std::iter::repeat_n(answer.clone(), 9));
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed);
    assert_eq!(error.category(), Some(FailureCategory::Server));
    assert!(error.to_string().contains("CUDA out of memory"), "{error}");
    assert_eq!(
        server.asked_at(),
        [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5],
        "a small budget"
    );
    let (result, ..) = created([answer.clone(), answer, DONE]);
    assert!(result.is_ok());
    let bare = std::iter::repeat_n(Step::Json(500, "Internal Server Error"), 40);
    assert!(created(bare.chain([DONE])).0.is_ok());
}

#[test]
fn a_server_that_says_now_this_and_now_that_is_not_taken_at_its_first_word() {
    let failed = Step::Json(500, r#"{"detail": "starting"}"#);
    let unknown = Step::Json(404, r#"{"detail": "starting"}"#);
    let cut = Step::Json(200, r#"{"model_id": "#);
    let turns = [failed.clone(), unknown, cut, failed];
    let script = turns.into_iter().cycle().take(12).chain([DONE]);
    assert!(created(script).0.is_ok());
}

#[test]
fn a_poll_that_is_held_to_the_end_renews_the_doubt() {
    let unknown = Step::Json(404, r#"{"detail": "no such future"}"#);
    let held = [
        Step::After(Duration::from_secs(45)),
        Step::Fails(TransportErrorKind::Timeout),
    ];
    let doubted = std::iter::repeat_n(unknown, 3).chain(held);
    let script = doubted.cycle().take(25).chain([DONE]);
    assert!(created(script).0.is_ok());
}

#[test]
fn a_result_that_was_spoilt_on_its_way_is_fetched_again() {
    let cut = Step::Json(200, r#"{"model_id": "#);
    let (result, server, _) = created([cut.clone(), cut, DONE]);
    assert!(result.is_ok());
    assert_eq!(server.asked_at(), [0.0, 0.5, 1.5]);
}

#[test]
fn a_broken_way_is_waited_out() {
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
    // Nothing else is heard of the server, so it goes ahead of its pause; but not of the one behind the proxy's 400.
    assert_eq!(server.asked_at(), [0.0, 0.5, 1.5, 2.5, 6.5, 8.5]);
}

#[test]
fn a_server_that_holds_a_poll_too_long_is_asked_again_at_once() {
    let script = [
        Step::After(Duration::from_secs(45)),
        Step::Fails(TransportErrorKind::Timeout),
        DONE,
    ];
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    assert_eq!(server.asked_at(), [0.0, 45.0]);
}

#[test]
fn a_refused_poll_closes_its_lane_for_as_long_as_the_server_says() {
    let (result, server, _) = created([
        Step::WithHeader(429, "retry-after", "7"),
        Step::Json(429, "{}"),
        DONE,
    ]);
    assert!(result.is_ok());
    assert_eq!(server.asked_at(), [0.0, 7.0, 8.0]);
    let hint = Some(Duration::from_secs(7));
    let expected = [
        Settlement::Refused { hint },
        Settlement::Refused { hint: None },
        Settlement::Accepted,
    ];
    assert_eq!(*server.settled.lock().unwrap(), expected);
}

#[test]
fn a_refused_poll_keeps_its_place_in_the_queue() {
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
    assert_eq!(*server.places.lock().unwrap(), expected);
    // The permit closes the gate before the flight lets another one in.
    let pairs = server.given_back.lock().unwrap();
    assert!(pairs.chunks(2).all(|pair| pair == ["permit", "flight"]));
}

#[test]
fn poll_that_may_not_leave_keeps_its_place_in_the_queue() {
    let held = || Step::Fails(TransportErrorKind::Held);
    let (result, server, _) = created([NOT_READY, held(), held(), DONE]);
    assert!(result.is_ok());
    let kept = Readmission::AfterRefusal(Arrival(2));
    let expected = [Readmission::New, Readmission::New, kept, kept];
    assert_eq!(*server.places.lock().unwrap(), expected);
}

#[test]
fn a_server_that_fails_is_asked_until_the_operation_counts_as_stalled() {
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
    let error = server.drive(polls).expect_err("there is no result");
    let stalled = error.stalled().expect("a stall");
    assert_eq!((stalled.phase, stalled.since), (Phase::Waiting, limit));
    let asked = server.asked_at();
    assert!(
        (60..110).contains(&asked.len()),
        "{} polls in 600 s",
        asked.len()
    );
    // Five in a row and then a result: nobody notices.
    let script = std::iter::repeat_n(Step::Json(500, "{}"), 5).chain([DONE]);
    assert!(created(script).0.is_ok());
}

#[test]
fn an_unpaid_bill_pauses_and_in_the_end_fails() {
    let unpaid = Step::Json(402, r#"{"detail": "add a card"}"#);
    let (result, server, _) = created([unpaid.clone(), unpaid.clone(), DONE]);
    assert!(result.is_ok());
    assert_eq!(server.asked_at(), [0.0, 5.0, 10.0]);
    let (result, server, _) = created(std::iter::repeat_n(unpaid, 1000));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Billing);
    assert_eq!(*server.asked_at().last().unwrap(), 3605.0);
}

#[test]
fn a_lost_result_is_final_in_the_servers_own_words_alone() {
    let (result, server, _) = created([Step::Json(410, r#"{"detail": "gone"}"#)]);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ResultLost);
    assert_eq!(server.asked_at().len(), 1);
    let page = Step::Json(410, "<html>gone</html>");
    let (result, server, _) = created(std::iter::repeat_n(page, 9));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ResultLost);
    assert_eq!(server.asked_at().len(), 7);
}

#[test]
fn each_kind_of_doubt_has_its_budget_and_in_passing_it_does_no_harm() {
    use ErrorKind as K;
    let (few, some) = (4, 7);
    let reason = r#"{"detail": "starting"}"#;
    for (step, kind, asked) in [
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
        assert_eq!(server.asked_at().len(), asked, "{step:?}");
        if asked > 1 {
            let (result, ..) = created([step.clone(), DONE]);
            assert!(result.is_ok(), "{step:?}");
        }
    }
}

#[test]
fn no_content_is_not_ready() {
    let script = [Step::Json(204, ""), Step::Json(202, ""), DONE];
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    assert_eq!(server.asked_at(), [0.0, 0.02, 0.06]);
}

#[test]
fn each_poll_says_how_many_came_before_it() {
    let (result, server, operation) = created([NOT_READY, Step::Json(503, ""), NOT_READY, DONE]);
    assert!(result.is_ok());
    let asked = server.asked.lock().unwrap();
    let said = asked.iter().map(|(_, poll)| {
        let iteration = &poll.headers["x-tinker-request-iteration"];
        iteration.to_str().unwrap().to_owned()
    });
    assert_eq!(said.collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    assert_eq!(operation.progress.snapshot().polls, 4);
}

#[test]
fn failures_that_are_over_do_not_slow_the_next_ones_down() {
    let failed = || std::iter::repeat_n(Step::Json(400, ""), 4);
    let script = failed().chain([NOT_READY]).chain(failed()).chain([DONE]);
    let (result, server, _) = created(script);
    assert!(result.is_ok());
    let asked = server.asked_at();
    let pauses: Vec<f64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..4], [0.5, 1.0, 2.0, 4.0]);
    assert_eq!(pauses[5..], [0.5, 1.0, 2.0, 4.0]);
}

#[test]
fn a_large_result_is_fetched_within_the_budget_and_gives_it_back() {
    let output = ForwardBackwardOutput {
        loss_fn_output_type: "scalar".into(),
        ..Default::default()
    };
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
    assert_eq!(server.most_bytes_held.load(Ordering::SeqCst), 4000);
    assert_eq!(server.bytes_held.load(Ordering::SeqCst), 0);
    assert_eq!(operation.progress.snapshot().phase, Phase::Fetching);
    let asked = server.asked.lock().unwrap();
    let peeks: Vec<bool> = asked
        .iter()
        .map(|(_, request)| {
            request
                .body
                .windows(26)
                .any(|w| w == b"allow_metadata_only\":true}")
        })
        .collect();
    assert_eq!(peeks, [true, false, false]);
}

#[test]
fn a_server_that_never_sends_the_large_result_is_found_out() {
    let again = Step::Json(
        200,
        r#"{"status": "complete_metadata", "response_payload_size": 4000}"#,
    );
    let (result, server, _) = created(std::iter::repeat_n(again, 50));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(server.bytes_held.load(Ordering::SeqCst), 0);
}

#[test]
fn results_are_read_in_whichever_form_they_come() {
    let output = ForwardBackwardOutput {
        loss_fn_output_type: "scalar".into(),
        ..Default::default()
    };
    let json = r#"{"loss_fn_output_type": "scalar", "loss_fn_outputs": [], "metrics": {}}"#;
    assert_eq!(
        run::<ForwardBackwardOutput>([Step::Json(200, json)])
            .0
            .unwrap(),
        output
    );
    assert_eq!(
        run::<ForwardBackwardOutput>([Step::Protobuf(output.to_protobuf())])
            .0
            .unwrap(),
        output
    );
}

#[test]
fn what_cannot_be_read_is_an_error_with_its_body() {
    for body in ["<html>welcome</html>", "[]", r#"{"unrelated": true}"#] {
        let (result, ..) = created(std::iter::repeat_n(Step::Json(200, body), 9));
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
        assert_eq!(error.body(), body.as_bytes());
    }
    let garbled = Step::Protobuf(Bytes::from_static(&[1, 2, 3]));
    let (result, ..) = run::<ModelCreated>(std::iter::repeat_n(garbled, 9));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Protocol);
}
