//! Body formats of forward and backward passes: the format of the first attempt, and the fallback
//! to the other format.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use tinkers::prelude::*;
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::wire::{CsrIndices, TensorValues, routes};
use tinkers::{BodyFormat, RecoveredError, Sent};
use tinkers_e2e::training::{
    datum, harness_with, harness_without_deduplication, inject_into_pass, model, numbers, step,
    submissions,
};
use tinkers_e2e::{Harness, Setup};
use tinkers_local::{Dialect, Fault, InProcess, JournalEntry, LocalConfig, PassBodies, Rule};
use tinkers_session::SessionOptions;

/// A transport that lets the server apply the first `forward_backward` request, but replaces the
/// response by a 500 response that gives no reason.
#[derive(Debug)]
struct FailingAfterPass {
    inner: InProcess,
    has_failed: AtomicBool,
}

impl Transport for FailingAfterPass {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let is_pass = request.path == routes::FORWARD_BACKWARD;
            let mut response = self.inner.send(request).await?;
            if is_pass && !self.has_failed.swap(true, Ordering::SeqCst) {
                response.status = StatusCode::INTERNAL_SERVER_ERROR;
                let text = HeaderValue::from_static("text/plain");
                response.headers.insert(CONTENT_TYPE, text);
                response.body = "Internal Server Error".into();
            }
            Ok(response)
        })
    }
}

/// Returns a fault that makes the server send a 500 response without a reason, as web frameworks do
/// after a panic in a request handler.
fn bare_500() -> Fault {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    Fault::answer(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        .with_header(CONTENT_TYPE, text)
}

/// Returns a datum with a sparse tensor.
fn sparse_datum() -> Datum {
    let indices = CsrIndices {
        crow: vec![0, 1, 2, 3].into(),
        col: vec![0, 1, 0].into(),
    };
    let sparse = TensorData::csr(TensorValues::F32(vec![1.0; 3].into()), [3, 2], indices).unwrap();
    datum(1).with("extra", sparse)
}

/// Returns the body format (JSON or protobuf) of each `forward_backward` request, in the order of
/// arrival.
fn formats(harness: &Harness) -> Vec<&'static str> {
    let of = |entry: &JournalEntry| {
        let kind = entry.headers[CONTENT_TYPE].to_str().unwrap();
        if kind.contains("protobuf") {
            "protobuf"
        } else {
            "json"
        }
    };
    let passes = harness.journal.of(routes::FORWARD_BACKWARD);
    passes.iter().map(of).collect()
}

async fn pass(training: &TrainingClient) -> Result<(), Error> {
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn json_fallback_of_a_forward_pass_uses_the_forward_route() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON please");
    harness
        .faults
        .add(Rule::on(routes::FORWARD_BACKWARD), refusal);
    training
        .forward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    let sent_routes: Vec<String> = submissions(&harness)
        .into_iter()
        .map(|entry| entry.route)
        .collect();
    assert_eq!(
        sent_routes,
        [
            routes::FORWARD_BACKWARD,
            routes::FORWARD,
            routes::FORWARD_BACKWARD
        ]
    );
    let counts = harness.engine.counts();
    assert_eq!((counts.forwards, counts.backwards), (1, 1));
    assert_eq!(
        harness.service.server_profile().body_format,
        BodyFormat::Json
    );
    assert_eq!(
        harness
            .service
            .recovered_errors()
            .of(RecoveredError::Fallback),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn protobuf_body_answered_with_a_bare_500_is_sent_again_as_json() {
    for harness in [
        Harness::start().await,
        harness_without_deduplication().await,
    ] {
        let training = model(&harness).await;
        inject_into_pass(&harness, 1, bare_500());
        pass(&training).await.unwrap();
        pass(&training).await.unwrap();
        assert_eq!(formats(&harness), ["protobuf", "json", "json"]);
        assert_eq!(numbers(&harness), [1, 1, 2]);
        assert_eq!(harness.engine.counts().backwards, 2);
        assert_eq!(
            harness.service.server_profile().body_format,
            BodyFormat::Json
        );
    }
}

#[tokio::test(start_paused = true)]
async fn http_500_with_a_reason_causes_no_body_format_fallback() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    let failed = Fault::status(StatusCode::INTERNAL_SERVER_ERROR, "out of memory");
    inject_into_pass(&harness, 1, failed);
    let error = pass(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(formats(&harness), ["protobuf"]);
}

#[tokio::test(start_paused = true)]
async fn reason_of_a_500_never_makes_gradients_be_sent_in_another_format() {
    // Such texts also come from failures after the gradients were added.
    for reason in [
        "cannot write metrics.json",
        "1 validation error for ForwardBackwardResponse",
        "UnicodeDecodeError: 'utf-8' codec can't decode byte 0x92",
    ] {
        let harness = harness_without_deduplication().await;
        let training = model(&harness).await;
        let failed = Fault::status(StatusCode::INTERNAL_SERVER_ERROR, reason);
        inject_into_pass(&harness, 1, failed);
        let error = pass(&training).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{reason}");
        assert_eq!(formats(&harness), ["protobuf"], "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn accepted_body_format_stays_in_use_after_a_500_without_a_reason() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    pass(&training).await.unwrap();
    inject_into_pass(&harness, 1, bare_500());
    pass(&training).await.unwrap();
    assert_eq!(formats(&harness), ["protobuf"; 3]);
}

#[tokio::test(start_paused = true)]
async fn protobuf_is_sent_again_if_json_is_rejected_after_a_500() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, bare_500());
    inject_into_pass(
        &harness,
        2,
        Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "protobuf please"),
    );
    pass(&training).await.unwrap();
    assert_eq!(formats(&harness), ["protobuf", "json", "protobuf"]);

    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, bare_500());
    inject_into_pass(
        &harness,
        2,
        Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "protobuf please"),
    );
    let error = pass(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(formats(&harness), ["protobuf", "json"]);
}

#[tokio::test(start_paused = true)]
async fn request_that_may_have_been_applied_is_not_sent_in_another_format() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, Fault::cut_after());
    let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON please");
    inject_into_pass(&harness, 2, refusal);
    let error = pass(&training).await.unwrap_err();
    assert_eq!((error.status(), error.sent()), (Some(415), Sent::MaybeSent));
    assert_eq!(formats(&harness), ["protobuf", "protobuf"]);
    assert_eq!(harness.engine.counts().backwards, 1);
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn first_rejection_is_reported_if_both_body_formats_are_rejected() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let rejection = |text| Fault::status(StatusCode::UNPROCESSABLE_ENTITY, text);
    inject_into_pass(&harness, 1, rejection("loss_fn: not offered here"));
    inject_into_pass(&harness, 2, rejection("body: no JSON"));
    let error = pass(&training).await.unwrap_err();
    assert!(error.to_string().contains("not offered here"), "{error}");
    training.recover().unwrap();
    pass(&training).await.unwrap();
    assert_eq!(formats(&harness), ["protobuf", "json", "protobuf"]);
}

#[tokio::test(start_paused = true)]
async fn sparse_tensors_are_not_sent_again_in_json() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let refusal = Fault::status(StatusCode::UNPROCESSABLE_ENTITY, "no sparse tensors");
    inject_into_pass(&harness, 1, refusal);
    let error = training
        .forward_backward([sparse_datum()], LossFn::CrossEntropy)
        .await;
    assert_eq!(error.unwrap_err().status(), Some(422));
    assert_eq!(formats(&harness), ["protobuf"]);
}

#[tokio::test(start_paused = true)]
async fn body_format_chosen_by_the_caller_has_no_fallback() {
    for (bodies, expected) in [
        (BodyFormat::Json, vec!["json"]),
        (BodyFormat::Protobuf, vec!["protobuf"]),
    ] {
        let options = SessionOptions {
            body_format: Some(bodies),
            ..SessionOptions::default()
        };
        let harness = Harness::with(options).await;
        let training = model(&harness).await;
        let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the other please");
        inject_into_pass(&harness, 1, refusal);
        assert_eq!(pass(&training).await.unwrap_err().status(), Some(415));
        assert_eq!(formats(&harness), expected);
        training.recover().unwrap();
        step(&training).await.unwrap();
    }
}

/// Starts a server and a client. The server's OpenAPI document lists `bodies` as the body formats
/// of forward and forward-backward passes.
async fn harness_with_document(bodies: PassBodies) -> Harness {
    harness_with(|config| {
        config.dialect = Dialect::skyrl();
        config.dialect.pass_bodies = bodies;
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn openapi_document_selects_the_first_body_format() {
    let harness = harness_with_document(PassBodies::Json).await;
    let training = model(&harness).await;
    pass(&training).await.unwrap();
    assert_eq!(formats(&harness), ["json"]);
}

#[tokio::test(start_paused = true)]
async fn wrong_body_format_in_the_openapi_document_causes_one_fallback() {
    let harness = harness_with_document(PassBodies::Json).await;
    let training = model(&harness).await;
    let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "protobuf please");
    inject_into_pass(&harness, 1, refusal);
    let error = pass(&training).await.unwrap_err();
    // The server panics while it handles the protobuf body, so the client cannot know whether the
    // request was applied.
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(formats(&harness), ["json", "protobuf"]);
    assert_eq!(harness.engine.counts().backwards, 0);
}

#[tokio::test(start_paused = true)]
async fn json_body_answered_with_a_bare_500_causes_no_fallback() {
    let harness = harness_with_document(PassBodies::Json).await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, bare_500());
    let error = pass(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(formats(&harness), ["json"]);
}

#[tokio::test(start_paused = true)]
async fn documented_body_format_answered_with_500_causes_no_fallback() {
    // This server accepts both formats and applies a repeated sequence number again. A fallback
    // would add the gradients twice.
    let mut config = LocalConfig::default();
    config.dialect = Dialect::skyrl();
    config.dialect.pass_bodies = PassBodies::Both;
    let (harness, _) = Harness::through(Setup::from(config), |inner| FailingAfterPass {
        inner,
        has_failed: AtomicBool::new(false),
    })
    .await;
    let training = model(&harness).await;
    let error = pass(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(formats(&harness), ["protobuf"]);
    assert_eq!(harness.engine.counts().backwards, 1);
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn body_format_rejected_after_a_500_prevents_model_recovery() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, bare_500());
    let refusal = Fault::status(StatusCode::UNPROCESSABLE_ENTITY, "no such loss");
    inject_into_pass(&harness, 2, refusal);
    let error = pass(&training).await.unwrap_err();
    assert_eq!((error.status(), error.sent()), (Some(422), Sent::MaybeSent));
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn json_forward_pass_does_not_confirm_json_for_backward_passes() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, bare_500());
    training
        .forward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    assert_eq!(harness.journal.of(routes::FORWARD).len(), 1);
    assert!(!harness.service.server_profile().body_format_confirmed);
    pass(&training).await.unwrap();
    assert_eq!(formats(&harness), ["protobuf", "protobuf"]);
}

#[tokio::test(start_paused = true)]
async fn sparse_tensors_are_unsupported_on_json_servers() {
    let harness = harness_with_document(PassBodies::Json).await;
    let training = model(&harness).await;
    let error = training
        .forward_backward([sparse_datum()], LossFn::CrossEntropy)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Unsupported, Sent::NotSent)
    );
    assert_eq!(error.field(), Some("loss_fn_inputs.extra"));
    assert_eq!(formats(&harness), Vec::<&str>::new());
    training.recover().unwrap();
    pass(&training).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn forward_pass_on_a_model_unknown_to_the_server_fails_at_once() {
    let harness = harness_with_document(PassBodies::Json).await;
    let training = model(&harness).await;
    let gone = Fault::status(StatusCode::NOT_FOUND, "Model not found");
    harness.faults.add(Rule::on(routes::FORWARD), gone);
    let clock = harness.server.time();
    let began = clock.now();
    let forward = training.forward([datum(1)], LossFn::CrossEntropy).await;
    let error = forward.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    assert!(clock.now().since(began) < Duration::from_secs(10));
}
