//! Creations whose reply was lost: they are made again, and what may be left behind is told.

use http::StatusCode;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{forgetful_world, model, strike};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, Rule};

use crate::log::Log;

const ORPHAN: &str = "may hold an unused";

/// The lines that speak of an orphan.
fn orphans(log: &Log) -> Vec<String> {
    log.lines_with(ORPHAN)
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_reply_was_lost_tells_of_the_orphan() {
    let world = forgetful_world().await;
    let (log, _logging) = Log::start();
    strike(&world, routes::CREATE_MODEL, Fault::cut_after());
    let training = model(&world).await;
    assert_eq!(orphans(&log).len(), 1);
    assert!(
        orphans(&log)[0].contains("request_id="),
        "{:?}",
        orphans(&log)
    );

    strike(&world, routes::CREATE_SAMPLING_SESSION, Fault::cut_after());
    world.service.sampling(SCRIPTED).create().await.unwrap();
    assert_eq!(orphans(&log).len(), 2);

    let saved = training.save_state("start").await.unwrap().path;
    strike(&world, routes::LOAD_WEIGHTS, Fault::cut_after());
    let again = world
        .service
        .training_from_state(&saved, RestoreOptimizer::Yes);
    again.create().await.unwrap();
    assert_eq!(orphans(&log).len(), 3);

    // Nothing was lost, or nothing was at the server.
    for fault in [None, Some(Fault::refuse())] {
        if let Some(fault) = fault {
            strike(&world, routes::CREATE_MODEL, fault);
        }
        model(&world).await;
    }
    assert_eq!(orphans(&log).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_applies_a_repeat_once_leaves_no_orphan() {
    let world = InMemory::start().await;
    let (log, _logging) = Log::start();
    strike(&world, routes::CREATE_MODEL, Fault::cut_after());
    strike(&world, routes::CREATE_SAMPLING_SESSION, Fault::cut_after());
    model(&world).await;
    world.service.sampling(SCRIPTED).create().await.unwrap();
    assert_eq!(orphans(&log), Vec::<String>::new());
    assert_eq!(world.parts.engine.counts().created, 1);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_fails_after_a_lost_reply_tells_of_the_orphan() {
    let world = forgetful_world().await;
    let refused = || Fault::status(StatusCode::FORBIDDEN, "key revoked");
    for route in [routes::CREATE_MODEL, routes::CREATE_SAMPLING_SESSION] {
        for lost in [true, false] {
            world.parts.faults.clear();
            let nth = if lost {
                strike(&world, route, Fault::cut_after());
                2
            } else {
                1
            };
            world.parts.faults.add(Rule::on(route).nth(nth), refused());
            let error = match route {
                routes::CREATE_MODEL => {
                    let creation = world.service.lora_training(SCRIPTED).rank(4).create();
                    creation.await.map(|_| ()).unwrap_err()
                }
                _ => {
                    let creation = world.service.sampling(SCRIPTED).create();
                    creation.await.map(|_| ()).unwrap_err()
                }
            };
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(error.sent() == Sent::MaybeSent, lost, "{error}");
            assert_eq!(error.to_string().contains(ORPHAN), lost, "{error}");
        }
    }
}
