//! What goes with any dialect: results that go, and a server that forgets.

use std::time::Duration;

use serde_json::json;
use tinkers_local::{Dialect, Expiry, Fault, Rule};

use super::support::{backward, settle, step};
use super::{refused, said, speaks};

fn with(mut dialect: Dialect, expiry: Expiry) -> Dialect {
    dialect.expiry = expiry;
    dialect
}

#[tokio::test]
async fn a_result_is_forgotten_after_its_first_delivery() {
    for dialect in [Dialect::tinker(), Dialect::skyrl_main()] {
        let world = speaks(with(dialect.clone(), Expiry::OnceFetched));
        let model = world.model().await;
        let pass = world
            .post("forward_backward", backward(&model, 1))
            .await
            .id();
        world.poll(&pass).await.ok();
        let reason = match dialect == Dialect::tinker() {
            true => format!("the result of request {pass} is no longer kept; submit it again"),
            false => "Future not found".to_owned(),
        };
        assert_eq!(said(&world.poll(&pass).await), refused(404, reason));
        // The model goes on.
        let step = world.post("optim_step", step(&model, 2)).await.id();
        world.poll(&step).await.ok();
    }
}

#[tokio::test]
async fn a_result_expires_whether_fetched_or_not() {
    let world = speaks(with(
        Dialect::tinker(),
        Expiry::After(Duration::from_secs(5)),
    ));
    let model = world.model().await;
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let other = world.post("optim_step", step(&model, 2)).await.id();
    world.clock.advance(Duration::from_secs(4));
    settle().await;
    world.poll(&pass).await.ok();
    world.clock.advance(Duration::from_secs(1));
    settle().await;
    for id in [pass, other] {
        assert_eq!(world.poll(&id).await.status, 404);
    }
}

#[tokio::test]
async fn a_restart_forgets_sessions_in_any_dialect() {
    for dialect in [Dialect::tinker(), Dialect::skyrl(), Dialect::json_strict()] {
        let world = speaks(dialect);
        let model = world.model().await;
        let session = model.split(':').next().unwrap().to_owned();
        let done = world.post("optim_step", step(&model, 1)).await.id();
        world
            .faults
            .add(Rule::on("/api/v1/healthz").nth(1), Fault::restart());
        let health = tinkers_core::HttpRequest::new(
            http::Method::GET,
            "/api/v1/healthz",
            tinkers_core::RouteClass::Control,
        );
        tinkers_core::Transport::send(&world.client, health)
            .await
            .unwrap_err();
        let beat = world
            .post("session_heartbeat", json!({ "session_id": session }))
            .await;
        assert_eq!(beat.status, 404);
        assert_eq!(world.poll(&done).await.status, 404);
        assert_eq!(world.post("optim_step", step(&model, 2)).await.status, 404);
        world.model().await;
    }
}
