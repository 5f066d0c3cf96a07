//! Options that apply to every dialect: expiry of results and restarts.

use std::time::Duration;

use serde_json::json;
use tinkers_local::{Dialect, Expiry, Fault, Rule};

use super::support::{backward, run_until_idle, step};
use super::{dialect_server, error_body, status_and_body};

fn with(mut dialect: Dialect, expiry: Expiry) -> Dialect {
    dialect.expiry = expiry;
    dialect
}

#[tokio::test]
async fn result_expires_after_its_first_delivery() {
    for dialect in [Dialect::tinker(), Dialect::skyrl_main()] {
        let server = dialect_server(with(dialect.clone(), Expiry::OnceFetched));
        let model = server.create_model().await;
        let pass = server.submit("forward_backward", backward(&model, 1)).await;
        server.poll(&pass).await.ok();
        let reason = match dialect == Dialect::tinker() {
            true => format!("the result of request {pass} is no longer kept; submit it again"),
            false => "Future not found".to_owned(),
        };
        assert_eq!(
            status_and_body(&server.poll(&pass).await),
            error_body(404, reason)
        );
        // The model accepts further requests.
        let step = server.submit("optim_step", step(&model, 2)).await;
        server.poll(&step).await.ok();
    }
}

#[tokio::test]
async fn unfetched_and_fetched_results_expire_after_the_configured_time() {
    let server = dialect_server(with(
        Dialect::tinker(),
        Expiry::After(Duration::from_secs(5)),
    ));
    let model = server.create_model().await;
    let pass = server.submit("forward_backward", backward(&model, 1)).await;
    let other = server.submit("optim_step", step(&model, 2)).await;
    server.clock.advance(Duration::from_secs(4));
    run_until_idle().await;
    server.poll(&pass).await.ok();
    server.clock.advance(Duration::from_secs(1));
    run_until_idle().await;
    for id in [pass, other] {
        assert_eq!(server.poll(&id).await.status, 404);
    }
}

#[tokio::test]
async fn server_restart_drops_sessions_in_every_dialect() {
    for dialect in [Dialect::tinker(), Dialect::skyrl(), Dialect::json_strict()] {
        let server = dialect_server(dialect);
        let model = server.create_model().await;
        let session = model.split(':').next().unwrap().to_owned();
        let done = server.submit("optim_step", step(&model, 1)).await;
        server
            .faults
            .add(Rule::on("/api/v1/healthz").nth(1), Fault::restart());
        let health = tinkers_core::HttpRequest::new(
            http::Method::GET,
            "/api/v1/healthz",
            tinkers_core::RouteClass::Control,
        );
        tinkers_core::Transport::send(&server.client, health)
            .await
            .unwrap_err();
        let heartbeat = server
            .post("session_heartbeat", json!({ "session_id": session }))
            .await;
        assert_eq!(heartbeat.status, 404);
        assert_eq!(server.poll(&done).await.status, 404);
        assert_eq!(server.post("optim_step", step(&model, 2)).await.status, 404);
        server.create_model().await;
    }
}
