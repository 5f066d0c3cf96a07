//! Creations whose reply is lost. The client retries the creation, and logs that the server may
//! keep an unused object (an orphan).

use http::StatusCode;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{harness_without_deduplication, inject, model};
use tinkers_e2e::{Harness, SCRIPTED};
use tinkers_local::{Fault, Rule};

use crate::log_capture::Log;

const ORPHAN: &str = "may keep an unused";

/// Returns the captured log lines about orphaned models, which the server may keep although no
/// client uses them.
fn orphan_lines(log: &Log) -> Vec<String> {
    log.lines_with(ORPHAN)
}

#[tokio::test(start_paused = true)]
async fn model_creation_with_a_lost_reply_logs_an_orphaned_model() {
    let harness = harness_without_deduplication().await;
    let (log, _logging) = Log::start();
    inject(&harness, routes::CREATE_MODEL, Fault::cut_after());
    let training = model(&harness).await;
    assert_eq!(orphan_lines(&log).len(), 1);
    assert!(
        orphan_lines(&log)[0].contains("request_id="),
        "{:?}",
        orphan_lines(&log)
    );

    inject(
        &harness,
        routes::CREATE_SAMPLING_SESSION,
        Fault::cut_after(),
    );
    harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    assert_eq!(orphan_lines(&log).len(), 2);

    let saved = training.save_state("start").await.unwrap().path;
    inject(&harness, routes::LOAD_WEIGHTS, Fault::cut_after());
    let resumed = harness
        .service
        .create_training_client_from_state_with_optimizer(&saved);
    resumed.await.unwrap();
    assert_eq!(orphan_lines(&log).len(), 3);

    // In these cases no reply is lost, or the request does not reach the server.
    for fault in [None, Some(Fault::refuse())] {
        if let Some(fault) = fault {
            inject(&harness, routes::CREATE_MODEL, fault);
        }
        model(&harness).await;
    }
    assert_eq!(orphan_lines(&log).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn model_creation_with_deduplication_logs_no_orphaned_model() {
    let harness = Harness::start().await;
    let (log, _logging) = Log::start();
    inject(&harness, routes::CREATE_MODEL, Fault::cut_after());
    inject(
        &harness,
        routes::CREATE_SAMPLING_SESSION,
        Fault::cut_after(),
    );
    model(&harness).await;
    harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    assert_eq!(orphan_lines(&log), Vec::<String>::new());
    assert_eq!(harness.engine.counts().created, 1);
}

#[tokio::test(start_paused = true)]
async fn failed_model_creation_after_lost_reply_reports_orphaned_model() {
    let harness = harness_without_deduplication().await;
    let rejection = || Fault::status(StatusCode::FORBIDDEN, "key revoked");
    for route in [routes::CREATE_MODEL, routes::CREATE_SAMPLING_SESSION] {
        for lost in [true, false] {
            harness.faults.clear();
            let nth = if lost {
                inject(&harness, route, Fault::cut_after());
                2
            } else {
                1
            };
            harness.faults.add(Rule::on(route).nth(nth), rejection());
            let error = match route {
                routes::CREATE_MODEL => {
                    let creation = harness
                        .service
                        .create_lora_training_client(SCRIPTED)
                        .rank(4)
                        .send();
                    creation.await.map(|_| ()).unwrap_err()
                }
                _ => {
                    let creation = harness.service.create_sampling_client(SCRIPTED).send();
                    creation.await.map(|_| ()).unwrap_err()
                }
            };
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(error.sent() == Sent::MaybeSent, lost, "{error}");
            assert_eq!(error.to_string().contains(ORPHAN), lost, "{error}");
        }
    }
}
