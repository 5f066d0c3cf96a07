//! Events of a session that programs receive through the service client. All tests run in virtual time.

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::model;
use tinkers_e2e::{Harness, SCRIPTED};
use tinkers_local::{Fault, Rule};

#[tokio::test(start_paused = true)]
async fn unpaid_bill_is_an_event_until_the_call_is_accepted() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let mut events = harness.service.events();
    let unpaid = Rule::on(routes::OPTIM_STEP).times(3);
    harness.faults.add(unpaid, Fault::payment_required());
    training.optim_step(AdamParams::new(1e-3)).await.unwrap();
    assert_eq!(events.next().await, Some(SessionEvent::PaymentRequired));
    assert_eq!(events.next().await, Some(SessionEvent::PaymentSettled));
    assert_eq!(events.latest(), Some(SessionEvent::PaymentSettled));
}

#[tokio::test(start_paused = true)]
async fn unpaid_polls_are_an_event_until_a_poll_is_accepted() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let mut events = harness.service.events();
    let unpaid = Rule::on(routes::RETRIEVE_FUTURE).times(2);
    harness.faults.add(unpaid, Fault::payment_required());
    training.optim_step(AdamParams::new(1e-3)).await.unwrap();
    assert_eq!(events.next().await, Some(SessionEvent::PaymentRequired));
    assert_eq!(events.next().await, Some(SessionEvent::PaymentSettled));
}

#[tokio::test(start_paused = true)]
async fn dropped_call_does_not_wait_for_a_payment_any_more() {
    let harness = Harness::start().await;
    let sampler = harness.service.create_sampling_client(SCRIPTED);
    let sampler = sampler.await.unwrap();
    let mut events = harness.service.events();
    let unpaid = Rule::on(routes::ASAMPLE).always();
    harness.faults.add(unpaid, Fault::payment_required());
    let sample = sampler.sample(vec![1]).max_tokens(1).send();
    assert_eq!(events.next().await, Some(SessionEvent::PaymentRequired));
    drop(sample);
    assert_eq!(events.next().await, Some(SessionEvent::PaymentSettled));
}
