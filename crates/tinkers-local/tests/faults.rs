//! Each fault of a fault script, through the in-process transport.

mod support;

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use support::{Response, TestServer, is_pending, step, test_server};
use tinkers_core::hint::retry_after;
use tinkers_core::{
    HttpRequest, ManualClock, RouteClass, Sent, Timestamp, Transport, TransportError,
    TransportErrorKind,
};
use tinkers_local::{
    Fault, Faults, Hint, InProcess, Journal, LocalConfig, LocalServer, Rule, ScriptedEngine,
    TokioSpawn,
};
use tinkers_wire::routes::{OPTIM_STEP, RETRIEVE_FUTURE};

async fn send(server: &TestServer, model: &str) -> Result<Response, TransportError> {
    let mut request = HttpRequest::new(Method::POST, OPTIM_STEP, RouteClass::Train);
    request.body = step(model, 1).to_string().into();
    server.client.send(request).await.map(Response::new)
}

#[tokio::test]
async fn request_with_a_cut_fault_is_applied_only_if_cut_after_processing() {
    let server = test_server();
    let model = server.create_model().await;
    for (fault, kind, sent, applied) in [
        (
            Fault::refuse(),
            TransportErrorKind::Connect,
            Sent::NotSent,
            0,
        ),
        (
            Fault::cut_before(),
            TransportErrorKind::Broken,
            Sent::MaybeSent,
            0,
        ),
        (
            Fault::cut_after(),
            TransportErrorKind::Broken,
            Sent::MaybeSent,
            1,
        ),
        (
            Fault::cut_body(),
            TransportErrorKind::Broken,
            Sent::MaybeSent,
            1,
        ),
    ] {
        server.faults.add(Rule::on(OPTIM_STEP), fault);
        let error = send(&server, &model).await.unwrap_err();
        assert_eq!((error.kind, error.sent), (kind, sent));
        assert_eq!(server.engine.counts().steps, applied);
    }
    // The optimizer step was applied, so a retry gets the response of the first request.
    assert_eq!(send(&server, &model).await.unwrap().status, 200);
    assert_eq!(server.engine.counts().steps, 1);
    let entries = server.journal.of(OPTIM_STEP);
    let attempts: Vec<_> = entries
        .iter()
        .map(|entry| (entry.seq_id, entry.status, entry.faulted))
        .collect();
    assert_eq!(
        attempts,
        [
            (Some(1), None, true),
            (Some(1), None, true),
            (Some(1), None, true),
            (Some(1), None, true),
            (Some(1), Some(200), false)
        ]
    );
    assert!(
        entries
            .iter()
            .all(|entry| entry.digest == entries[0].digest)
    );
}

#[tokio::test]
async fn response_of_a_fault_replaces_the_response_of_the_server() {
    let server = test_server();
    let model = server.create_model().await;
    for (fault, status, body) in [
        (Fault::empty_400(), 400, ""),
        (Fault::payment_required(), 402, "billing"),
        (Fault::gone(), 410, "no longer kept"),
        (Fault::html(StatusCode::BAD_GATEWAY), 502, "<h1>502 Bad"),
        (
            Fault::unknown_queue_state(),
            200,
            "paused_by_a_newer_server",
        ),
        (
            Fault::poll_timeout("paused_capacity", "busy"),
            408,
            "paused_capacity",
        ),
        (
            Fault::status(StatusCode::BAD_GATEWAY, "broken"),
            502,
            "broken",
        ),
    ] {
        server.faults.add(Rule::any(), fault);
        let response = send(&server, &model).await.unwrap();
        assert_eq!(response.status, status);
        assert_eq!(
            response.raw.header("content-length"),
            Some(response.raw.body.len().to_string().as_str())
        );
        assert!(
            std::str::from_utf8(&response.raw.body)
                .unwrap()
                .contains(body)
        );
    }
    assert_eq!(server.engine.counts().steps, 0);
}

#[tokio::test]
async fn client_reads_the_same_delay_from_every_retry_after_form() {
    let server = test_server();
    let model = server.create_model().await;
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let two = Some(Duration::from_secs(2));
    for (hint, expected) in [
        (Hint::None, None),
        (Hint::Milliseconds(2000), two),
        (Hint::Seconds(2), two),
        (Hint::Date(wall + Duration::from_secs(2)), two),
        (Hint::Body(2000), two),
        (Hint::Text("soon".to_owned()), None),
    ] {
        server
            .faults
            .add(Rule::on(OPTIM_STEP), Fault::rate_limited(hint.clone()));
        let response = send(&server, &model).await.unwrap();
        assert_eq!(
            (response.status, retry_after(&response.raw, wall)),
            (429, expected),
            "{hint:?}"
        );
    }
    // The server's wall clock is at the Unix epoch.
    let hint = Hint::DateAfter(Duration::from_millis(1001));
    let limited = Fault::rate_limited(hint);
    server.faults.add(Rule::on(OPTIM_STEP), limited);
    let response = send(&server, &model).await.unwrap();
    assert_eq!(retry_after(&response.raw, SystemTime::UNIX_EPOCH), two);
}

#[tokio::test]
async fn delay_faults_use_the_clock_of_the_server() {
    let server = test_server();
    let model = server.create_model().await;
    let (second, early) = (Duration::from_secs(1), Duration::from_millis(999));
    for (fault, applied) in [(Fault::delay(second), 0), (Fault::delay_answer(second), 1)] {
        server.faults.add(Rule::on(OPTIM_STEP), fault);
        let mut pending = pin!(send(&server, &model));
        assert!(is_pending(&mut pending).await);
        server.clock.advance(early);
        assert!(is_pending(&mut pending).await);
        assert_eq!(server.engine.counts().steps, applied);
        server.clock.advance(second - early);
        assert_eq!(pending.await.unwrap().status, 200);
        assert_eq!(server.engine.counts().steps, 1);
    }
}

#[tokio::test]
async fn poll_with_a_duplicate_fault_still_returns_the_result() {
    let server = test_server();
    let model = server.create_model().await;
    let id = server.submit("optim_step", step(&model, 1)).await;
    server
        .faults
        .add(Rule::on(RETRIEVE_FUTURE), Fault::duplicate());
    assert!(server.result(&id).await["metrics"].is_object());
}

#[tokio::test]
async fn injected_faults_are_counted_and_recorded_in_the_journal() {
    let server = test_server();
    let model = server.create_model().await;
    let never = Rule::class(RouteClass::Sample).always();
    server.faults.add(never, Fault::gone());
    let steps = Rule::class(RouteClass::Train).times(2).named("steps");
    server.faults.add(steps, Fault::empty_400());
    // Requests for the counters get no faults themselves.
    let all = Rule::any().nth(3).always();
    server.faults.add(all, Fault::gone());
    for expected in [400, 400, 410] {
        assert_eq!(send(&server, &model).await.unwrap().status, expected);
    }
    let counts = server.send(Method::GET, "/faults/counts", "", &[]).await;
    assert_eq!(
        counts.ok(),
        serde_json::json!({ "rules": [
            { "rule": 1, "name": null, "matched": 0, "struck": 0 },
            { "rule": 2, "name": "steps", "matched": 3, "struck": 2 },
            { "rule": 3, "name": null, "matched": 3, "struck": 1 },
        ] })
    );
    let struck: Vec<_> = server
        .journal
        .of(OPTIM_STEP)
        .into_iter()
        .map(|entry| {
            let by = entry.struck_by.expect("struck");
            (entry.class, by.number)
        })
        .collect();
    let train = RouteClass::Train;
    assert_eq!(struck, [(train, 2), (train, 2), (train, 3)]);
    let wrong = server.send(Method::POST, "/faults/counts", "", &[]).await;
    assert_eq!(wrong.status, 405);
}

#[tokio::test]
async fn delays_of_fault_rules_begin_when_the_server_is_built() {
    let server = test_server();
    let minute = Duration::from_secs(60);
    let window = Rule::on("/api/v1/healthz")
        .always()
        .after(minute)
        .lasting(minute);
    server.faults.add(window, Fault::empty_400());
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(server.get("healthz").await.status);
        server.clock.advance(minute / 2);
    }
    for _ in 0..2 {
        server.clock.advance(minute / 2);
        seen.push(server.get("healthz").await.status);
    }
    assert_eq!(seen, [200, 200, 400, 400, 200, 200]);
}

#[tokio::test]
async fn truncate_fault_halves_the_response_body() {
    let server = test_server();
    let model = server.create_model().await;
    server.faults.add(Rule::on(OPTIM_STEP), Fault::truncate());
    let half = send(&server, &model).await.unwrap();
    assert_eq!(server.engine.counts().steps, 1);
    let whole = send(&server, &model).await.unwrap();
    let (half, whole) = (half.raw, whole.raw);
    assert_eq!(half.body, whole.body.slice(..whole.body.len() / 2));
    let length = half.body.len().to_string();
    assert_eq!(half.header("content-length"), Some(length.as_str()));
}

#[tokio::test]
async fn journal_callback_gets_each_exchange_when_it_ends() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let journal = Journal::read_by({
        let seen = Arc::clone(&seen);
        move |entry| seen.lock().unwrap().push(entry.clone())
    });
    let clock = ManualClock::new();
    let faults = Faults::new();
    let second = Duration::from_secs(1);
    faults.add(Rule::any().named("slow"), Fault::delay(second));
    let spawn = Arc::new(TokioSpawn::new(tokio::runtime::Handle::current()));
    let engine = Arc::new(ScriptedEngine::default());
    let server = LocalServer::builder(engine, Arc::new(clock.clone()), spawn)
        .faults(faults)
        .journal(journal.clone())
        .config(LocalConfig::default().with_api_key("tml-secret"))
        .build()
        .unwrap();
    let client = InProcess::new(server).with_api_key("tml-secret");
    let get = |path: &str| client.send(HttpRequest::new(Method::GET, path, RouteClass::Control));
    let mut slow = pin!(get("/api/v1/healthz?secret=1"));
    assert!(is_pending(&mut slow).await);
    assert_eq!(get("/nowhere").await.unwrap().status, 404);
    clock.advance(second / 2);
    assert_eq!(seen.lock().unwrap().len(), 1);
    clock.advance(second / 2);
    assert_eq!(slow.await.unwrap().status, 200);
    assert!(journal.entries().is_empty());
    let seen = seen.lock().unwrap();
    let lines: Vec<serde_json::Value> = seen
        .iter()
        .map(|entry| {
            let line = entry.to_json_line(Timestamp::ORIGIN);
            assert!(!line.contains("secret") && !line.contains('\n'), "{line}");
            serde_json::from_str(&line).unwrap()
        })
        .collect();
    assert_eq!(
        (&lines[0]["number"], &lines[0]["status"]),
        (&2.into(), &404.into())
    );
    let mut last = lines[1].clone();
    assert_eq!(last["digest"].take().as_str().unwrap().len(), 16);
    assert_eq!(
        last,
        serde_json::json!({
            "number": 1, "at_s": 0.0, "took_s": 1.0, "method": "GET", "route": "/api/v1/healthz",
            "class": "control", "seq_id": null, "status": 200, "bytes": 0, "faulted": true,
            "rule": 1, "rule_name": "slow", "digest": null,
        })
    );
}
