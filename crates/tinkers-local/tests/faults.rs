//! The fault script, each fault through the transport in process.

mod support;

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use support::{Got, World, is_pending, step, world};
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

async fn send(world: &World, model: &str) -> Result<Got, TransportError> {
    let mut request = HttpRequest::new(Method::POST, OPTIM_STEP, RouteClass::Train);
    request.body = step(model, 1).to_string().into();
    world.client.send(request).await.map(Got::of)
}

#[tokio::test]
async fn cut_connections_apply_requests_as_the_fault_says() {
    let world = world();
    let model = world.model().await;
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
        world.faults.add(Rule::on(OPTIM_STEP), fault);
        let error = send(&world, &model).await.unwrap_err();
        assert_eq!((error.kind, error.sent), (kind, sent));
        assert_eq!(world.engine.counts().steps, applied);
    }
    // The retry of what was applied finds it.
    assert_eq!(send(&world, &model).await.unwrap().status, 200);
    assert_eq!(world.engine.counts().steps, 1);
    let entries = world.journal.of(OPTIM_STEP);
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (entry.seq_id, entry.status, entry.faulted))
        .collect();
    assert_eq!(
        seen,
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
async fn answers_of_the_script_come_instead_of_the_servers() {
    let world = world();
    let model = world.model().await;
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
        world.faults.add(Rule::any(), fault);
        let got = send(&world, &model).await.unwrap();
        assert_eq!(got.status, status);
        assert_eq!(
            got.raw.header("content-length"),
            Some(got.raw.body.len().to_string().as_str())
        );
        assert!(std::str::from_utf8(&got.raw.body).unwrap().contains(body));
    }
    assert_eq!(world.engine.counts().steps, 0);
}

#[tokio::test]
async fn every_form_of_hint_says_the_same() {
    let world = world();
    let model = world.model().await;
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
        world
            .faults
            .add(Rule::on(OPTIM_STEP), Fault::rate_limited(hint.clone()));
        let got = send(&world, &model).await.unwrap();
        assert_eq!(
            (got.status, retry_after(&got.raw, wall)),
            (429, expected),
            "{hint:?}"
        );
    }
    // The server's date is the epoch.
    let hint = Hint::DateAfter(Duration::from_millis(1001));
    let limited = Fault::rate_limited(hint);
    world.faults.add(Rule::on(OPTIM_STEP), limited);
    let got = send(&world, &model).await.unwrap();
    assert_eq!(retry_after(&got.raw, SystemTime::UNIX_EPOCH), two);
}

#[tokio::test]
async fn delays_run_on_the_servers_clock() {
    let world = world();
    let model = world.model().await;
    let (second, early) = (Duration::from_secs(1), Duration::from_millis(999));
    for (fault, applied) in [(Fault::delay(second), 0), (Fault::delay_answer(second), 1)] {
        world.faults.add(Rule::on(OPTIM_STEP), fault);
        let mut pending = pin!(send(&world, &model));
        assert!(is_pending(&mut pending).await);
        world.clock.advance(early);
        assert!(is_pending(&mut pending).await);
        assert_eq!(world.engine.counts().steps, applied);
        world.clock.advance(second - early);
        assert_eq!(pending.await.unwrap().status, 200);
        assert_eq!(world.engine.counts().steps, 1);
    }
}

#[tokio::test]
async fn a_copy_of_a_poll_does_not_keep_the_answer() {
    let world = world();
    let model = world.model().await;
    let id = world.post("optim_step", step(&model, 1)).await.id();
    world
        .faults
        .add(Rule::on(RETRIEVE_FUTURE), Fault::duplicate());
    assert!(world.result(&id).await["metrics"].is_object());
}

#[tokio::test]
async fn what_struck_is_counted_and_written_down() {
    let world = world();
    let model = world.model().await;
    let never = Rule::class(RouteClass::Sample).always();
    world.faults.add(never, Fault::gone());
    let steps = Rule::class(RouteClass::Train).times(2).named("steps");
    world.faults.add(steps, Fault::empty_400());
    // Struck by everything, what tells of it is not.
    let all = Rule::any().nth(3).always();
    world.faults.add(all, Fault::gone());
    for expected in [400, 400, 410] {
        assert_eq!(send(&world, &model).await.unwrap().status, expected);
    }
    let counts = world.send(Method::GET, "/faults/counts", "", &[]).await;
    assert_eq!(
        counts.ok(),
        serde_json::json!({ "rules": [
            { "rule": 1, "name": null, "matched": 0, "struck": 0 },
            { "rule": 2, "name": "steps", "matched": 3, "struck": 2 },
            { "rule": 3, "name": null, "matched": 3, "struck": 1 },
        ] })
    );
    let struck: Vec<_> = world
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
    let wrong = world.send(Method::POST, "/faults/counts", "", &[]).await;
    assert_eq!(wrong.status, 405);
}

#[tokio::test]
async fn a_script_runs_from_the_building_of_its_server_on() {
    let world = world();
    let minute = Duration::from_secs(60);
    let window = Rule::on("/api/v1/healthz")
        .always()
        .after(minute)
        .lasting(minute);
    world.faults.add(window, Fault::empty_400());
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(world.get("healthz").await.status);
        world.clock.advance(minute / 2);
    }
    for _ in 0..2 {
        world.clock.advance(minute / 2);
        seen.push(world.get("healthz").await.status);
    }
    assert_eq!(seen, [200, 200, 400, 400, 200, 200]);
}

#[tokio::test]
async fn json_that_ends_too_early_is_half_of_the_servers_answer() {
    let world = world();
    let model = world.model().await;
    world.faults.add(Rule::on(OPTIM_STEP), Fault::truncate());
    let half = send(&world, &model).await.unwrap();
    assert_eq!(world.engine.counts().steps, 1);
    let whole = send(&world, &model).await.unwrap();
    let (half, whole) = (half.raw, whole.raw);
    assert_eq!(half.body, whole.body.slice(..whole.body.len() / 2));
    let length = half.body.len().to_string();
    assert_eq!(half.header("content-length"), Some(length.as_str()));
}

#[tokio::test]
async fn a_reader_is_shown_each_exchange_at_its_end() {
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
        .config(LocalConfig::default().with_api_key("tml-hush"))
        .build()
        .unwrap();
    let client = InProcess::new(server).with_api_key("tml-hush");
    let ask = |path: &str| client.send(HttpRequest::new(Method::GET, path, RouteClass::Control));
    let mut slow = pin!(ask("/api/v1/healthz?hush=1"));
    assert!(is_pending(&mut slow).await);
    assert_eq!(ask("/nowhere").await.unwrap().status, 404);
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
            assert!(!line.contains("hush") && !line.contains('\n'), "{line}");
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
