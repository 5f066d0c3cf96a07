//! Fault scripts in TOML: the effect of each field, and the errors of invalid scripts.

#![cfg(feature = "script")]

mod support;

use std::pin::pin;
use std::time::Duration;

use http::Method;
use support::{Response, is_pending};
use tinkers_core::{HttpRequest, RouteClass, Transport, TransportError};
use tinkers_local::{Faults, InProcess, LocalServer, ScriptedEngine, TokioSpawn};

/// Starts a server with a fault script in TOML. Returns the clock of the server and a client for it.
fn server_with_script(script: &str) -> (tinkers_core::ManualClock, InProcess) {
    let clock = tinkers_core::ManualClock::new();
    let spawn = std::sync::Arc::new(TokioSpawn::new(tokio::runtime::Handle::current()));
    let time = std::sync::Arc::new(clock.clone());
    let server = LocalServer::builder(std::sync::Arc::new(ScriptedEngine::default()), time, spawn)
        .faults(Faults::from_script(script).expect("a script"))
        .build()
        .expect("the scripted engine opens");
    (clock, InProcess::new(server))
}

async fn health(client: &InProcess) -> Result<Response, TransportError> {
    let request = HttpRequest::new(Method::GET, "/api/v1/healthz", RouteClass::Control);
    client.send(request).await.map(Response::new)
}

#[tokio::test]
async fn faults_with_a_response_return_the_response_of_the_script() {
    for (fault, status, header, body) in [
        (
            "fault = 'answer'\nstatus = 503\nbody = 'away'\ncontent_type = 'text/plain'",
            503,
            ("content-type", "text/plain"),
            "away",
        ),
        (
            "fault = 'answer'\nstatus = 200",
            200,
            ("content-type", "application/json"),
            "",
        ),
        (
            "fault = 'rate_limited'",
            429,
            ("retry-after-ms", "1000"),
            "too many",
        ),
        (
            "fault = 'rate_limited'\nretry_after_s = 0.25",
            429,
            ("retry-after-ms", "250"),
            "too many",
        ),
        (
            "fault = 'rate_limited'\nhint = 'seconds'\nretry_after_s = 7",
            429,
            ("retry-after", "7"),
            "",
        ),
        (
            "fault = 'rate_limited'\nhint = 'date'\nretry_after_s = 1.5",
            429,
            ("retry-after", "Thu, 01 Jan 1970 00:00:02 GMT"),
            "",
        ),
        (
            "fault = 'rate_limited'\nhint = 'body'\nretry_after_s = 2",
            429,
            ("content-type", "application/json"),
            "\"retry_after_ms\":2000",
        ),
        (
            "fault = 'rate_limited'\nhint = 'text'\ntext = 'soon'",
            429,
            ("retry-after", "soon"),
            "",
        ),
        ("fault = 'empty_400'", 400, ("content-length", "0"), ""),
        (
            "fault = 'payment_required'",
            402,
            ("content-type", "application/json"),
            "billing",
        ),
        (
            "fault = 'gone'",
            410,
            ("content-type", "application/json"),
            "no longer",
        ),
        (
            "fault = 'html'",
            502,
            ("content-type", "text/html; charset=utf-8"),
            "<html>",
        ),
        (
            "fault = 'html'\nstatus = 504",
            504,
            ("content-type", "text/html; charset=utf-8"),
            "504",
        ),
        (
            "fault = 'poll_timeout'",
            408,
            ("content-type", "application/json"),
            "paused_capacity",
        ),
        (
            "fault = 'poll_timeout'\nqueue_state = 'active'\nreason = 'x'",
            408,
            ("content-type", "application/json"),
            "\"active\"",
        ),
        (
            "fault = 'unknown_queue_state'",
            200,
            ("content-type", "application/json"),
            "newer_server",
        ),
        (
            "fault = 'truncate'",
            200,
            ("content-length", "7"),
            "{\"statu",
        ),
        (
            "fault = 'duplicate'",
            200,
            ("content-length", "15"),
            "{\"status\":\"ok\"}",
        ),
        (
            "fault = 'pause_capacity'\npause_s = 5",
            200,
            ("content-length", "15"),
            "",
        ),
        (
            "fault = 'expire_sessions'",
            200,
            ("content-length", "15"),
            "",
        ),
        ("fault = 'revoke_tokens'", 200, ("content-length", "15"), ""),
        ("fault = 'revoke_key'", 200, ("content-length", "15"), ""),
    ] {
        let (_, client) = server_with_script(&format!("[[rule]]\non = 'control'\n{fault}\n"));
        let response = health(&client).await.expect("a response");
        assert_eq!(response.status, status, "{fault}");
        assert_eq!(response.raw.header(header.0), Some(header.1), "{fault}");
        let text = String::from_utf8_lossy(&response.raw.body);
        assert!(text.contains(body), "{fault}: {text}");
    }
    let none = "[[rule]]\non = '*'\nfault = 'rate_limited'\nhint = 'none'\n";
    let response = health(&server_with_script(none).1)
        .await
        .expect("a response");
    let headers = ["retry-after", "retry-after-ms"].map(|name| response.raw.header(name));
    assert_eq!((response.status, headers), (429, [None, None]));
}

#[tokio::test]
async fn cut_faults_fail_requests_and_delay_faults_postpone_them() {
    for fault in ["refuse", "cut_before", "cut_after", "cut_body", "restart"] {
        let (_, client) =
            server_with_script(&format!("[[rule]]\non = '/api/v1/*'\nfault = '{fault}'\n"));
        assert!(health(&client).await.is_err(), "{fault}");
        assert_eq!(
            health(&client).await.expect("a response").status,
            200,
            "{fault}"
        );
    }
    for fault in ["delay", "delay_answer"] {
        let (clock, client) = server_with_script(&format!(
            "[[rule]]\non = '*'\nfault = '{fault}'\ndelay_s = 2\n"
        ));
        let mut pending = pin!(health(&client));
        assert!(is_pending(&mut pending).await);
        clock.advance(Duration::from_secs(2));
        assert_eq!(pending.await.expect("a response").status, 200);
    }
}

#[tokio::test]
async fn fault_rules_select_requests_by_count_and_time() {
    let script = "
        [[rule]]
        name = 'window'
        on = 'control'
        after_s = 1
        for_s = 1.5
        nth = 2
        times = 'always'
        fault = 'gone'

        [[rule]]
        on = '/api/v1/healthz'
        nth = 7
        times = 2
        fault = 'empty_400'
    ";
    let (clock, client) = server_with_script(script);
    let mut seen = Vec::new();
    for _ in 0..9 {
        seen.push(health(&client).await.expect("a response").status);
        clock.advance(Duration::from_millis(500));
    }
    assert_eq!(seen, [200, 200, 200, 410, 410, 200, 400, 400, 200]);
}

#[tokio::test]
async fn fault_probabilities_are_reproducible_by_seed() {
    let script = |seed| {
        format!(
            "seed = {seed}
            [[rule]]
            on = 'control'
            probability = 0.3
            fault = 'gone'
            [[rule]]
            on = '*'
            probability = 0.2
            times = 5
            fault = 'cut_after'
            "
        )
    };
    let run = async |seed| {
        let (_, client) = server_with_script(&script(seed));
        let mut seen = Vec::new();
        for _ in 0..100 {
            seen.push(health(&client).await.map_or(0, |response| response.status));
        }
        seen
    };
    let first = run(1).await;
    assert_eq!(first, run(1).await);
    assert_ne!(first, run(2).await);
    let of = |status| first.iter().filter(|seen| **seen == status).count();
    assert!(
        (15..=45).contains(&of(410)) && (1..=5).contains(&of(0)),
        "{first:?}"
    );
}

#[test]
fn fault_script_errors_state_line_and_column_of_the_field() {
    for (script, expected) in [
        (
            "[[rule]]\non = '*'\nfault = 'gone'\ntimse = 3\n",
            "line 4, column 1: rule 1, field timse: ",
        ),
        (
            "[[rule]]\non = '*'\nfault = 'gone'\n\n[[rule]]\non = '*'\n  fualt = 'gone'\n",
            "line 7, column 3: rule 2, field fault: ",
        ),
        (
            "[[rule]]\non = '*'\nfault = 'gone'\n[[rule]]\nfault = 'gone'\n",
            "line 4, column 1: rule 2, field on: ",
        ),
        (
            "rule = [{ on = '*', fault = 'gnoe' }]\n",
            "line 1, column 21: rule 1, field fault: ",
        ),
        (
            "# é\nspeed = 1\n[[rule]]\non = '*'\nfault = 'gone'\n",
            "line 2, column 1: field speed: ",
        ),
        ("seed = 1\n", "line 1, column 1: field rule: "),
    ] {
        let error = Faults::from_script(script).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{script}: {error}");
    }
}

#[test]
fn fault_script_errors_name_the_rule_and_the_field() {
    let rule = |text: &str| format!("[[rule]]\non = '*'\nfault = 'gone'\n[[rule]]\n{text}\n");
    for (text, expected) in [
        (
            "fault = 'gone'",
            "rule 2, field on: expected sample, train, poll, rest, control, a path of the API such as /api/v1/asample, or *, got nothing",
        ),
        (
            "on = 'samples'\nfault = 'gone'",
            "got \"samples\"; did you mean sample?",
        ),
        (
            "on = '/api/v1/asmaple'\nfault = 'gone'",
            "got \"/api/v1/asmaple\"; did you mean /api/v1/asample?",
        ),
        (
            "on = 3\nfault = 'gone'",
            "rule 2, field on: expected a text in quotes, got 3",
        ),
        (
            "on = '*'",
            "rule 2, field fault: expected one of answer, rate_limited, ",
        ),
        ("on = '*'\nfault = 'explode'", "restart, got \"explode\""),
        (
            "on = '*'\nfault = 'rate_limit'",
            "got \"rate_limit\"; did you mean rate_limited?",
        ),
        (
            "on = '*'\nfualt = 'gone'",
            "field fault: expected one of answer, ",
        ),
        (
            "on = '*'\nfualt = 'gone'",
            "got nothing; is \"fualt\" a misspelling of it?",
        ),
        (
            "on = '*'\nfault = 'delay'\ndelay = 1",
            "got nothing; is \"delay\" a misspelling of it?",
        ),
        (
            "on = '*'\nfault = 'gone'\ntime = 3",
            "times, fault; did you mean times?",
        ),
        (
            "on = '*'\nfault = 'gone'\nprobabilty = 0.1",
            "rule 2, field probabilty: expected no such field: a rule with fault = \"gone\" has on, name, after_s, for_s, nth, seed, probability, times, fault; did you mean probability?",
        ),
        (
            "on = '*'\nfault = 'gone'\ndelay_s = 1",
            "rule 2, field delay_s: expected no such field",
        ),
        (
            "on = '*'\nfault = 'gone'\nprobability = 1.5",
            "rule 2, field probability: expected a number from 0 to 1, got 1.5",
        ),
        (
            "on = '*'\nfault = 'gone'\nprobability = nan",
            "rule 2, field probability: expected a number, got NaN",
        ),
        (
            "on = '*'\nfault = 'gone'\nprobability = '10%'",
            "expected a number, got \"10%\"",
        ),
        (
            "on = '*'\nfault = 'gone'\nseed = 3",
            "rule 2, field seed: expected a probability beside it, got 3",
        ),
        (
            "on = '*'\nfault = 'gone'\nnth = 0",
            "rule 2, field nth: expected a whole number from 1, got 0",
        ),
        (
            "on = '*'\nfault = 'gone'\nnth = 1.5",
            "rule 2, field nth: expected a whole number from 1, got 1.5",
        ),
        (
            "on = '*'\nfault = 'gone'\ntimes = -1",
            "rule 2, field times: expected a whole number from 1, got -1",
        ),
        (
            "on = '*'\nfault = 'gone'\ntimes = 'often'",
            "rule 2, field times: expected a number from 1, or \"always\", got \"often\"",
        ),
        (
            "on = '*'\nfault = 'gone'\nafter_s = -1",
            "rule 2, field after_s: expected a number of seconds from 0, got -1",
        ),
        (
            "on = '*'\nfault = 'gone'\nafter_s = 1e300",
            "rule 2, field after_s: expected a number of seconds from 0",
        ),
        (
            "on = '*'\nfault = 'gone'\nfor_s = 0",
            "rule 2, field for_s: expected seconds above 0, got 0",
        ),
        (
            "on = '*'\nfault = 'delay'",
            "rule 2, field delay_s: expected a number of seconds from 0, got nothing",
        ),
        (
            "on = '*'\nfault = 'pause_capacity'\npause_s = true",
            "rule 2, field pause_s: expected a number, got true",
        ),
        (
            "on = '*'\nfault = 'answer'",
            "rule 2, field status: expected an HTTP status from 200 to 599, got nothing",
        ),
        (
            "on = '*'\nfault = 'answer'\nstatus = 600",
            "rule 2, field status: expected an HTTP status from 200 to 599, got 600",
        ),
        (
            "on = '*'\nfault = 'answer'\nstatus = 100",
            "rule 2, field status: expected a whole number from 200, got 100",
        ),
        (
            "on = '*'\nfault = 'answer'\nstatus = 200\ncontent_type = \"a\\nb\"",
            "rule 2, field content_type: expected a type",
        ),
        (
            "on = '*'\nfault = 'rate_limited'\nhint = 'minutes'",
            "rule 2, field hint: expected ms, seconds, date, body, none or text, got \"minutes\"",
        ),
        (
            "on = '*'\nfault = 'rate_limited'\nhint = 'seconds'\nretry_after_s = 0.5",
            "rule 2, field retry_after_s: expected a whole number from 0, got 0.5",
        ),
        (
            "on = '*'\nfault = 'rate_limited'\nhint = 'none'\nretry_after_s = 1",
            "rule 2, field retry_after_s: expected no such field",
        ),
        (
            "on = '*'\nfault = 'rate_limited'\nhint = 'text'",
            "rule 2, field text: expected a text that a header can carry, got nothing",
        ),
    ] {
        let error = Faults::from_script(&rule(text)).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for (text, expected) in [
        (
            "",
            "field rule: expected at least one [[rule]], got nothing",
        ),
        (
            "rule = []",
            "field rule: expected at least one [[rule]], got an array",
        ),
        (
            "rule = [3]",
            "field rule: expected tables, each opened by [[rule]]",
        ),
        (
            "seed = -1",
            "field seed: expected a whole number from 0, got -1",
        ),
        (
            "[[rules]]\non = '*'",
            "at least one [[rule]], got nothing; is \"rules\" a misspelling of it?",
        ),
        (
            "speed = 1\n[[rule]]\non = '*'\nfault = 'gone'",
            "field speed: expected no such field: a script has seed, rule",
        ),
        (
            "[[rule]\n",
            "the script is not TOML: TOML parse error at line 1",
        ),
        ("[[rule]]\non = '*'\non = '*'\n", "duplicate key"),
    ] {
        let error = Faults::from_script(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
