//! The forms of a pass's body: which one is sent, and when the other is tried.

use http::StatusCode;
use tinkers::BodyFormat;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::InMemory;
use tinkers_e2e::training::{datum, model, submissions};
use tinkers_local::{Fault, Rule};

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
}
