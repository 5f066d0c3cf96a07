//! Decoding of results of every kind, and of responses to submissions.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use support::{Scripted, Step, session};
use tinkers_core::{Error, ErrorKind, HttpResponse, Result, RouteClass, SessionContext};
use tinkers_futures::{Operation, Retrieval, is_submission, read_submission, retrieve};
use tinkers_wire::{
    FailureCategory, ForwardBackwardOutput, LoadedWeights, ModelCreated, OperationResult,
    OptimStepResult, RequestKind, SampleResponse, SavedSamplerWeights, SavedWeights, UnloadedModel,
};

fn run<T: OperationResult>(script: impl IntoIterator<Item = Step>) -> (Result<T>, Arc<Scripted>) {
    let (session, server) = session(script);
    let session = session as Arc<dyn SessionContext>;
    let retrieval = Retrieval {
        operation: Operation::new(session, "Test.run", RouteClass::Sample),
        client: tinkers_core::ClientId(0),
        request_id: "r".into(),
        kind: RequestKind::CreateModel,
        submitted_in: Duration::ZERO,
        queue_log: None,
    };
    let result = server.drive(retrieve::<T>(retrieval));
    (result, server)
}

/// Returns the error of an operation after all its polls got the response `body`, and the number of polls.
fn failure<T: OperationResult + std::fmt::Debug>(body: &'static str) -> (Error, usize) {
    let script = std::iter::repeat_n(Step::Json(200, body), 9);
    let (result, server) = run::<T>(script);
    (result.expect_err(body), server.request_times().len())
}

fn assert_rejects_other_bodies<T: OperationResult + std::fmt::Debug>() {
    for body in [
        r#"{"type": "RequestFailedResponse", "error_message": "CUDA out of memory"}"#,
        r#"{"detail": "CUDA out of memory"}"#,
        r#"{"status": "failed", "message": "CUDA out of memory"}"#,
        r#"{"error": "CUDA out of memory", "category": "Server"}"#,
        r#"{"error": null, "category": "system"}"#,
    ] {
        let (error, polls) = failure::<T>(body);
        assert_eq!(
            (error.kind(), polls),
            (ErrorKind::OperationFailed, 1),
            "{body}"
        );
        let text = if body.contains("CUDA") {
            "CUDA out of memory"
        } else {
            body
        };
        assert!(error.to_string().contains(text), "{error}");
        let is_server = error.category() == Some(FailureCategory::Server);
        assert_eq!(is_server, body.contains("Server"), "{body}");
    }
    for body in [r#"{"message": "hello"}"#, r#"{"type": "other"}"#] {
        let (error, polls) = failure::<T>(body);
        assert_eq!((error.kind(), polls), (ErrorKind::Protocol, 4), "{body}");
        assert!(error.to_string().contains(body), "{error}");
    }
    let pending = std::iter::repeat_n(Step::Json(200, r#"{"status": "pending"}"#), 20);
    let lost = Step::Json(410, r#"{"detail": "gone"}"#);
    let (result, _) = run::<T>(pending.chain([lost]));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ResultLost);
}

#[test]
fn poll_response_without_required_fields_is_not_a_result() {
    assert_rejects_other_bodies::<ModelCreated>();
    assert_rejects_other_bodies::<ForwardBackwardOutput>();
    assert_rejects_other_bodies::<OptimStepResult>();
    assert_rejects_other_bodies::<SavedWeights>();
    assert_rejects_other_bodies::<SavedSamplerWeights>();
    assert_rejects_other_bodies::<LoadedWeights>();
    assert_rejects_other_bodies::<UnloadedModel>();
    assert_rejects_other_bodies::<SampleResponse>();
    let empty = std::iter::repeat_n(Step::Protobuf(Bytes::new()), 9);
    let (result, server) = run::<ForwardBackwardOutput>(empty.clone());
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(server.request_times().len(), 4);
    let (result, _) = run::<SampleResponse>(empty);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn empty_poll_response_is_a_result_if_no_fields_are_required() {
    let empty = || [Step::Json(200, "{}")];
    assert!(run::<OptimStepResult>(empty()).0.is_ok());
    assert!(run::<LoadedWeights>(empty()).0.is_ok());
    assert!(run::<UnloadedModel>(empty()).0.is_ok());
}

fn submission_response(body: &'static str) -> HttpResponse {
    HttpResponse {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

#[test]
fn submission_response_contains_a_request_id_or_a_failure() {
    for (body, expected) in [
        (r#"{"request_id": "r"}"#, true),
        (
            r#"{"error": "m is not served here", "category": "User"}"#,
            true,
        ),
        (r#"{"status": "accepted"}"#, false),
        ("<html>welcome</html>", false),
    ] {
        assert_eq!(
            is_submission(&submission_response(body)),
            expected,
            "{body}"
        );
    }
}

#[test]
fn invalid_submission_response_reports_the_server_text() {
    let read = |body| read_submission(&submission_response(body));
    let submission = read(r#"{"request_id": 7}"#).unwrap();
    assert_eq!(submission.request_id, "7");
    for body in [
        r#"{"error": "m is not served here", "category": "User"}"#,
        r#"{"type": "RequestFailedResponse", "error_message": "m is not served here"}"#,
        r#"{"detail": {"error": {"code": "no_model", "reason": "m is not served here"}}}"#,
    ] {
        let error = read(body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OperationFailed, "{body}");
        assert!(
            error.to_string().contains("m is not served here"),
            "{error}"
        );
        assert_eq!(error.body(), body.as_bytes());
    }
    for body in [r#"{"status": "accepted"}"#, "<html>welcome</html>", ""] {
        let error = read(body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
        let message = error.to_string();
        assert!(message.contains("carries no request id"), "{message}");
        assert!(message.contains(body), "{message}");
    }
}

#[test]
fn results_are_decoded_from_json_and_protobuf() {
    let output = ForwardBackwardOutput::new("scalar", Vec::new());
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
fn undecodable_result_is_an_error_that_contains_the_response_body() {
    for body in ["<html>welcome</html>", "[]", r#"{"unrelated": true}"#] {
        let (result, ..) = run::<ModelCreated>(std::iter::repeat_n(Step::Json(200, body), 9));
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
        assert_eq!(error.body(), body.as_bytes());
    }
    let garbled = Step::Protobuf(Bytes::from_static(&[1, 2, 3]));
    let (result, ..) = run::<ModelCreated>(std::iter::repeat_n(garbled, 9));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Protocol);
}
