//! Which bodies are results: in a poll of every kind of operation, and in the answer to a submission.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use support::{Scripted, Step, session};
use tinkers_core::{Error, ErrorKind, HttpResponse, Result, RouteClass, SessionContext};
use tinkers_futures::{Operation, Retrieval, promise, retrieve};
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

/// The error of an operation whose polls answer `body` again and again, and how many there were.
fn refused<T: OperationResult + std::fmt::Debug>(body: &'static str) -> (Error, usize) {
    let script = std::iter::repeat_n(Step::Json(200, body), 9);
    let (result, server) = run::<T>(script);
    (result.expect_err(body), server.asked_at().len())
}

fn no_result_is_made_of<T: OperationResult + std::fmt::Debug>() {
    for body in [
        r#"{"type": "RequestFailedResponse", "error_message": "CUDA out of memory"}"#,
        r#"{"detail": "CUDA out of memory"}"#,
        r#"{"status": "failed", "message": "CUDA out of memory"}"#,
        r#"{"error": "CUDA out of memory", "category": "Server"}"#,
        r#"{"error": null, "category": "system"}"#,
    ] {
        let (error, polls) = refused::<T>(body);
        assert_eq!(
            (error.kind(), polls),
            (ErrorKind::OperationFailed, 1),
            "{body}"
        );
        let words = if body.contains("CUDA") {
            "CUDA out of memory"
        } else {
            body
        };
        assert!(error.to_string().contains(words), "{error}");
        let is_the_servers = error.category() == Some(FailureCategory::Server);
        assert_eq!(is_the_servers, body.contains("Server"), "{body}");
    }
    for body in [r#"{"message": "hello"}"#, r#"{"type": "other"}"#] {
        let (error, polls) = refused::<T>(body);
        assert_eq!((error.kind(), polls), (ErrorKind::Protocol, 4), "{body}");
        assert!(error.to_string().contains(body), "{error}");
    }
    let pending = std::iter::repeat_n(Step::Json(200, r#"{"status": "pending"}"#), 20);
    let lost = Step::Json(410, r#"{"detail": "gone"}"#);
    let (result, _) = run::<T>(pending.chain([lost]));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ResultLost);
}

#[test]
fn a_body_without_the_fields_of_its_kind_is_no_result() {
    no_result_is_made_of::<ModelCreated>();
    no_result_is_made_of::<ForwardBackwardOutput>();
    no_result_is_made_of::<OptimStepResult>();
    no_result_is_made_of::<SavedWeights>();
    no_result_is_made_of::<SavedSamplerWeights>();
    no_result_is_made_of::<LoadedWeights>();
    no_result_is_made_of::<UnloadedModel>();
    no_result_is_made_of::<SampleResponse>();
    let empty = std::iter::repeat_n(Step::Protobuf(Bytes::new()), 9);
    let (result, server) = run::<ForwardBackwardOutput>(empty.clone());
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(server.asked_at().len(), 4);
    let (result, _) = run::<SampleResponse>(empty);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn an_empty_result_is_one_where_no_field_is_required() {
    let empty = || [Step::Json(200, "{}")];
    assert!(run::<OptimStepResult>(empty()).0.is_ok());
    assert!(run::<LoadedWeights>(empty()).0.is_ok());
    assert!(run::<UnloadedModel>(empty()).0.is_ok());
}

#[test]
fn a_promise_that_is_none_tells_what_the_server_said() {
    let answer = |body: &'static str| {
        promise(&HttpResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        })
    };
    let read = answer(r#"{"request_id": 7}"#).unwrap();
    assert_eq!(read.request_id, "7");
    for body in [
        r#"{"error": "m is not served here", "category": "User"}"#,
        r#"{"type": "RequestFailedResponse", "error_message": "m is not served here"}"#,
        r#"{"detail": {"error": {"code": "no_model", "reason": "m is not served here"}}}"#,
    ] {
        let error = answer(body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OperationFailed, "{body}");
        assert!(
            error.to_string().contains("m is not served here"),
            "{error}"
        );
        assert_eq!(error.body(), body.as_bytes());
    }
    for body in [r#"{"status": "accepted"}"#, "<html>welcome</html>", ""] {
        let error = answer(body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
        let message = error.to_string();
        assert!(message.contains("carries no request id"), "{message}");
        assert!(message.contains(body), "{message}");
    }
}
