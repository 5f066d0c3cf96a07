//! The forms of a pass's body: which one is sent, and when the other is tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use tinkers::prelude::*;
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::wire::{CsrIndices, TensorValues, routes};
use tinkers::{BodyFormat, RecoveredError, Sent};
use tinkers_e2e::InMemory;
use tinkers_e2e::training::{
    datum, forgetful_world, model, numbers, step, submissions, world_with,
};
use tinkers_local::{Dialect, Entry, Fault, InProcess, LocalConfig, PassBodies, Rule, Script};
use tinkers_session::SessionOptions;

/// A server whose handler breaks behind the first pass, which it has made.
#[derive(Debug)]
struct Breaking {
    below: InProcess,
    broken: AtomicBool,
}

impl Breaking {
    fn new(below: InProcess) -> Self {
        let broken = AtomicBool::new(false);
        Self { below, broken }
    }
}

impl Transport for Breaking {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let is_pass = request.path == routes::FORWARD_BACKWARD;
            let mut answer = self.below.send(request).await?;
            if is_pass && !self.broken.swap(true, Ordering::SeqCst) {
                answer.status = StatusCode::INTERNAL_SERVER_ERROR;
                let text = HeaderValue::from_static("text/plain");
                answer.headers.insert(CONTENT_TYPE, text);
                answer.body = "Internal Server Error".into();
            }
            Ok(answer)
        })
    }
}

/// What a web framework answers when its handler breaks.
fn bare_500() -> Fault {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    Fault::answer(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        .with_header(CONTENT_TYPE, text)
}

/// A datum with a sparse input.
fn sparse_datum() -> Datum {
    let indices = CsrIndices {
        crow: vec![0, 1, 2, 3].into(),
        col: vec![0, 1, 0].into(),
    };
    let sparse = TensorData::csr(TensorValues::F32(vec![1.0; 3].into()), [3, 2], indices).unwrap();
    datum(1).with("extra", sparse)
}

/// Strikes the `nth` pass to arrive.
fn strike_pass(world: &InMemory, nth: u64, fault: Fault) {
    let rule = Rule::on(routes::FORWARD_BACKWARD).nth(nth);
    world.parts.faults.add(rule, fault);
}

/// The types of the bodies of all passes, in the order of arrival.
fn types(world: &InMemory) -> Vec<&'static str> {
    let of = |entry: &Entry| {
        let kind = entry.headers[CONTENT_TYPE].to_str().unwrap();
        if kind.contains("protobuf") {
            "protobuf"
        } else {
            "json"
        }
    };
    let passes = world.parts.journal.of(routes::FORWARD_BACKWARD);
    passes.iter().map(of).collect()
}

async fn pass(training: &TrainingClient) -> Result<(), Error> {
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_json_alone_gets_json_and_a_forward_pass_never_adds_gradients() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON please");
    world
        .parts
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
    let used: Vec<String> = submissions(&world)
        .into_iter()
        .map(|entry| entry.route)
        .collect();
    assert_eq!(
        used,
        [
            routes::FORWARD_BACKWARD,
            routes::FORWARD,
            routes::FORWARD_BACKWARD
        ]
    );
    let counts = world.parts.engine.counts();
    assert_eq!((counts.forwards, counts.backwards), (1, 1));
    assert_eq!(world.service.server_profile().bodies, BodyFormat::Json);
    assert_eq!(
        world
            .service
            .recovered_errors()
            .of(RecoveredError::Fallback),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_on_protobuf_gets_json_once_and_for_all() {
    for world in [InMemory::start().await, forgetful_world().await] {
        let training = model(&world).await;
        strike_pass(&world, 1, bare_500());
        pass(&training).await.unwrap();
        pass(&training).await.unwrap();
        assert_eq!(types(&world), ["protobuf", "json", "json"]);
        assert_eq!(numbers(&world), [1, 1, 2]);
        assert_eq!(world.parts.engine.counts().backwards, 2);
        assert_eq!(world.service.server_profile().bodies, BodyFormat::Json);
    }
}

#[tokio::test(start_paused = true)]
async fn a_500_that_says_why_is_not_about_the_form() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    let failed = Fault::status(StatusCode::INTERNAL_SERVER_ERROR, "out of memory");
    strike_pass(&world, 1, failed);
    let error = pass(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(types(&world), ["protobuf"]);
}

#[tokio::test(start_paused = true)]
async fn a_form_that_was_accepted_is_not_doubted() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    pass(&training).await.unwrap();
    strike_pass(&world, 1, bare_500());
    pass(&training).await.unwrap();
    assert_eq!(types(&world), ["protobuf"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_on_protobuf_and_refuses_json_just_broke() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    strike_pass(&world, 1, bare_500());
    strike_pass(
        &world,
        2,
        Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "protobuf please"),
    );
    pass(&training).await.unwrap();
    assert_eq!(types(&world), ["protobuf", "json", "protobuf"]);

    let world = forgetful_world().await;
    let training = model(&world).await;
    strike_pass(&world, 1, bare_500());
    strike_pass(
        &world,
        2,
        Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "protobuf please"),
    );
    let error = pass(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(types(&world), ["protobuf", "json"]);
}

#[tokio::test(start_paused = true)]
async fn no_other_form_follows_a_body_that_may_have_been_applied() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    strike_pass(&world, 1, Fault::cut_after());
    let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON please");
    strike_pass(&world, 2, refusal);
    let error = pass(&training).await.unwrap_err();
    assert_eq!((error.status(), error.sent()), (Some(415), Sent::MaybeSent));
    assert_eq!(types(&world), ["protobuf", "protobuf"]);
    assert_eq!(world.parts.engine.counts().backwards, 1);
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn when_both_forms_are_refused_the_first_refusal_is_told() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let says = |words| Fault::status(StatusCode::UNPROCESSABLE_ENTITY, words);
    strike_pass(&world, 1, says("loss_fn: not offered here"));
    strike_pass(&world, 2, says("body: no JSON"));
    let error = pass(&training).await.unwrap_err();
    assert!(error.to_string().contains("not offered here"), "{error}");
    training.recover().unwrap();
    pass(&training).await.unwrap();
    assert_eq!(types(&world), ["protobuf", "json", "protobuf"]);
}

#[tokio::test(start_paused = true)]
async fn sparse_data_do_not_go_to_a_server_that_might_drop_their_places() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let refusal = Fault::status(StatusCode::UNPROCESSABLE_ENTITY, "no sparse tensors");
    strike_pass(&world, 1, refusal);
    let error = training
        .forward_backward([sparse_datum()], LossFn::CrossEntropy)
        .await;
    assert_eq!(error.unwrap_err().status(), Some(422));
    assert_eq!(types(&world), ["protobuf"]);
}

#[tokio::test(start_paused = true)]
async fn a_form_that_the_caller_chose_is_the_only_one() {
    for (bodies, expected) in [
        (BodyFormat::Json, vec!["json"]),
        (BodyFormat::Protobuf, vec!["protobuf"]),
    ] {
        let options = SessionOptions {
            bodies: Some(bodies),
            ..SessionOptions::default()
        };
        let world = InMemory::with(Script::default(), LocalConfig::default(), options).await;
        let training = model(&world).await;
        let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the other please");
        strike_pass(&world, 1, refusal);
        assert_eq!(pass(&training).await.unwrap_err().status(), Some(415));
        assert_eq!(types(&world), expected);
        training.recover().unwrap();
        step(&training).await.unwrap();
    }
}

/// A server whose document lists these bodies of a pass, and nothing more that matters.
async fn documented(bodies: PassBodies) -> InMemory {
    world_with(|config| {
        config.dialect = Dialect::skyrl();
        config.dialect.pass_bodies = bodies;
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_document_saves_the_first_attempt() {
    let world = documented(PassBodies::Json).await;
    let training = model(&world).await;
    pass(&training).await.unwrap();
    assert_eq!(types(&world), ["json"]);
}

#[tokio::test(start_paused = true)]
async fn a_document_that_is_wrong_costs_one_attempt() {
    let world = documented(PassBodies::Json).await;
    let training = model(&world).await;
    let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "protobuf please");
    strike_pass(&world, 1, refusal);
    let error = pass(&training).await.unwrap_err();
    // This server takes neither: it breaks on protobuf, and nobody knows what that left behind.
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(types(&world), ["json", "protobuf"]);
    assert_eq!(world.parts.engine.counts().backwards, 0);
}

#[tokio::test(start_paused = true)]
async fn a_bare_500_to_a_json_body_is_not_about_the_form() {
    let world = documented(PassBodies::Json).await;
    let training = model(&world).await;
    strike_pass(&world, 1, bare_500());
    let error = pass(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(types(&world), ["json"]);
}

#[tokio::test(start_paused = true)]
async fn a_500_to_a_form_that_the_server_lists_is_never_followed_by_the_other() {
    // It takes both, and applies what comes twice twice: another body would add the gradient again.
    let mut config = LocalConfig::default();
    config.dialect = Dialect::skyrl();
    config.dialect.pass_bodies = PassBodies::Both;
    let world = InMemory::through(config, |direct| Arc::new(Breaking::new(direct))).await;
    let training = model(&world).await;
    let error = pass(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(types(&world), ["protobuf"]);
    assert_eq!(world.parts.engine.counts().backwards, 1);
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_500_before_a_refusal_of_the_other_form_frees_no_number() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    strike_pass(&world, 1, bare_500());
    let refusal = Fault::status(StatusCode::UNPROCESSABLE_ENTITY, "no such loss");
    strike_pass(&world, 2, refusal);
    let error = pass(&training).await.unwrap_err();
    assert_eq!((error.status(), error.sent()), (Some(422), Sent::MaybeSent));
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_forward_pass_in_json_does_not_say_what_other_passes_take() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    strike_pass(&world, 1, bare_500());
    training
        .forward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    assert_eq!(world.parts.journal.of(routes::FORWARD).len(), 1);
    assert!(!world.service.server_profile().bodies_confirmed);
    pass(&training).await.unwrap();
    assert_eq!(types(&world), ["protobuf", "protobuf"]);
}

#[tokio::test(start_paused = true)]
async fn sparse_data_are_not_sent_where_their_places_would_be_dropped() {
    let world = documented(PassBodies::Json).await;
    let training = model(&world).await;
    let error = training
        .forward_backward([sparse_datum()], LossFn::CrossEntropy)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Unsupported, Sent::NotSent)
    );
    assert_eq!(error.field(), Some("loss_fn_inputs.extra"));
    assert_eq!(types(&world), Vec::<&str>::new());
    training.recover().unwrap();
    pass(&training).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_forward_pass_whose_model_is_gone_says_so_at_once() {
    let world = documented(PassBodies::Json).await;
    let training = model(&world).await;
    let gone = Fault::status(StatusCode::NOT_FOUND, "Model not found");
    world.parts.faults.add(Rule::on(routes::FORWARD), gone);
    let clock = world.server.time();
    let began = clock.now();
    let forward = training.forward([datum(1)], LossFn::CrossEntropy).await;
    let error = forward.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    assert!(clock.now().since(began) < Duration::from_secs(10));
}
