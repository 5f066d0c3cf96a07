//! Creations whose reply was lost: they are made again, and what may be left behind is told.

use std::io;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{forgetful_world, model, strike};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, Rule};
use tracing::subscriber::DefaultGuard;

/// What was logged on this thread since it was made.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that speak of an orphan.
    fn orphans(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains(ORPHAN));
        lines.map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const ORPHAN: &str = "that nobody uses";

#[tokio::test(start_paused = true)]
async fn a_creation_whose_reply_was_lost_tells_of_the_orphan() {
    let world = forgetful_world().await;
    let (log, _logging) = Log::start();
    strike(&world, routes::CREATE_MODEL, Fault::cut_after());
    let training = model(&world).await;
    assert_eq!(log.orphans().len(), 1);
    assert!(
        log.orphans()[0].contains("request_id="),
        "{:?}",
        log.orphans()
    );

    strike(&world, routes::CREATE_SAMPLING_SESSION, Fault::cut_after());
    world.service.sampling(SCRIPTED).create().await.unwrap();
    assert_eq!(log.orphans().len(), 2);

    let saved = training.save_state("start").await.unwrap().path;
    strike(&world, routes::LOAD_WEIGHTS, Fault::cut_after());
    let again = world
        .service
        .training_from_state(&saved, RestoreOptimizer::Yes);
    again.create().await.unwrap();
    assert_eq!(log.orphans().len(), 3);

    // Nothing was lost, or nothing was at the server.
    for fault in [None, Some(Fault::refuse())] {
        if let Some(fault) = fault {
            strike(&world, routes::CREATE_MODEL, fault);
        }
        model(&world).await;
    }
    assert_eq!(log.orphans().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_applies_a_repeat_once_leaves_no_orphan() {
    let world = InMemory::start().await;
    let (log, _logging) = Log::start();
    strike(&world, routes::CREATE_MODEL, Fault::cut_after());
    strike(&world, routes::CREATE_SAMPLING_SESSION, Fault::cut_after());
    model(&world).await;
    world.service.sampling(SCRIPTED).create().await.unwrap();
    assert_eq!(log.orphans(), Vec::<String>::new());
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
