//! Events of a session that programs receive through the service client. All tests run in virtual time.

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::Harness;
use tinkers_e2e::training::model;
use tinkers_local::{Fault, Rule};

#[tokio::test(start_paused = true)]
async fn unpaid_bill_is_an_event_until_requests_are_accepted_again() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let mut events = harness.service.events();
    let unpaid = Rule::on(routes::OPTIM_STEP).times(3);
    harness.faults.add(unpaid, Fault::payment_required());
    training.optim_step(AdamParams::new(1e-3)).await.unwrap();
    assert_eq!(events.next().await, Some(SessionEvent::PaymentRequired));
    assert_eq!(events.next().await, Some(SessionEvent::PaymentAccepted));
    assert_eq!(events.latest(), Some(SessionEvent::PaymentAccepted));
}

#[tokio::test(start_paused = true)]
async fn unpaid_polls_are_an_event_until_polls_are_accepted_again() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let mut events = harness.service.events();
    let unpaid = Rule::on(routes::RETRIEVE_FUTURE).times(2);
    harness.faults.add(unpaid, Fault::payment_required());
    training.optim_step(AdamParams::new(1e-3)).await.unwrap();
    assert_eq!(events.next().await, Some(SessionEvent::PaymentRequired));
    assert_eq!(events.next().await, Some(SessionEvent::PaymentAccepted));
}
