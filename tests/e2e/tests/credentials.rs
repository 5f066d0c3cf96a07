//! Credentials of whole clients over sockets, with a recorded log: no secret may occur in it.

#[path = "recorder.rs"]
#[expect(dead_code, reason = "only the bodies of requests are searched")]
mod recorder;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tinkers::ServiceClientBuilder;
use tinkers::auth::{Credential, check_tinker_accessible, tinker_has_credentials, tinker_token};
use tinkers::prelude::*;
use tinkers::transport::Transport;
use tinkers::wire::routes;
use tinkers_core::Clock;
use tinkers_e2e::training::datum;
use tinkers_e2e::{LogBuffer, SCRIPTED, SocketServer, TEST_TIMEOUT};
use tinkers_local::{AccessControl, AccessKey, Fault, LocalConfig, Rule};
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

use self::recorder::Recorder;

const KEY: &str = "tml-hush-first";
const SECOND_KEY: &str = "tml-hush-second";
const OWNER: &str = "alice";
/// The first characters of each token.
const TOKEN: &str = "eyJ";

/// All that the process has logged, at all levels and on all threads.
static LOG: LazyLock<LogBuffer> = LazyLock::new(|| {
    let log = LogBuffer::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    log
});

/// A server that exchanges API keys for tokens.
struct Fixture {
    server: SocketServer,
    access: AccessControl,
    /// The requests of the clients, among them the reports of telemetry.
    recorder: Recorder,
    /// The errors that the test has seen.
    shown: String,
}

impl Fixture {
    fn start() -> Self {
        LazyLock::force(&LOG);
        let access = AccessControl::default()
            .with_access_key(AccessKey::new(KEY, OWNER))
            .with_token_exchange(Duration::from_secs(3600));
        let mut config = LocalConfig::default();
        config.access = access.clone();
        Self {
            server: SocketServer::start(config),
            access,
            recorder: Recorder::default(),
            shown: String::new(),
        }
    }

    fn builder(&self) -> ServiceClientBuilder {
        let recorder = self.recorder.clone();
        let layer = move |inner| -> Arc<dyn Transport> { Arc::new(recorder.wrap(inner)) };
        let builder = self.server.client_builder().telemetry(true);
        builder.layer_transport(layer)
    }

    async fn connect(&self) -> ServiceClient {
        let builder = self.builder().api_key(KEY);
        builder.connect().await.expect("connected")
    }

    /// Sends a request with this credential, as a program that has stolen it does. Returns the response with its head.
    fn send(&self, method: &str, path: &str, credential: &str) -> String {
        let address = self.server.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {credential}\r\n\
             content-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// Returns a token of the owner, as another program obtains it that has read the memory or the traffic of the owner.
    fn steal_token(&self) -> String {
        let response = self.send("POST", "auth/token", KEY);
        let (_, token) = response.split_once("{\"jwt\":\"").expect("a token");
        token.trim_end_matches("\"}").to_owned()
    }

    /// Returns the kind of an error, and keeps its texts for the search for secrets.
    fn see(&mut self, error: &Error) -> ErrorKind {
        self.shown.push_str(&format!("{error} {error:?} {error:#}"));
        self.shown.push_str(&String::from_utf8_lossy(error.body()));
        error.kind()
    }

    /// Stops the server, and searches the log, the journal and the errors for the keys and for tokens.
    fn stop(self) {
        let journal = format!("{:?}", self.server.journal.entries());
        let requests = self.recorder.requests().into_iter();
        let sent = requests.map(|request| format!("{} {:?}\n", request.path, request.body));
        let sent: String = sent.collect();
        self.server.stop();
        let log = LOG.text();
        assert!(log.contains("auth/token"), "the exchange is logged");
        for (place, text) in [
            ("log", &log),
            ("journal", &journal),
            ("errors", &self.shown),
            ("requests and telemetry", &sent),
        ] {
            for secret in [KEY, SECOND_KEY, TOKEN] {
                let found = text.lines().find(|line| line.contains(secret));
                assert_eq!(found, None, "{secret} in the {place}");
            }
        }
    }
}

async fn in_time<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
    let at = time.now().after(TEST_TIMEOUT);
    time.deadline(at, work).await.expect("ends in time")
}

#[tokio::test]
async fn client_trains_and_samples_with_an_exchanged_token() {
    let fixture = Fixture::start();
    let service = fixture.connect().await;
    let training = service.create_lora_training_client(SCRIPTED).await.unwrap();
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    in_time(pass).await.unwrap();
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    in_time(sampler.sample(vec![1]).send()).await.unwrap();
    assert_eq!(fixture.access.exchanges(), 1);
    let user = service.whoami().expect("the token names the user");
    assert_eq!(user.org_urn, "tml:organization:local");
    fixture.stop();
}

#[tokio::test]
async fn stolen_token_that_the_server_invalidates_is_replaced() {
    let fixture = Fixture::start();
    let service = fixture.connect().await;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    fixture.access.revoke_tokens();
    let calls = (0..32).map(|_| sampler.sample(vec![1]).send());
    for call in calls.collect::<Vec<_>>() {
        in_time(call).await.unwrap();
    }
    assert_eq!(fixture.access.exchanges(), 2, "one exchange for all calls");
    fixture.stop();
}

#[tokio::test]
async fn stolen_token_is_useless_once_its_owner_revokes_it() {
    let mut fixture = Fixture::start();
    let service = fixture.connect().await;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    let stolen = fixture.steal_token();
    let seen = fixture.send("GET", "sessions", &stolen);
    assert!(seen.contains(service.session_id()), "{seen}");
    // The owner revokes only the stolen token, while calls of its client are in flight.
    let call = sampler.sample(vec![1]).send();
    assert!(fixture.access.revoke_token(&stolen));
    in_time(call).await.unwrap();
    in_time(sampler.sample(vec![1]).send()).await.unwrap();
    assert_eq!(
        fixture.access.exchanges(),
        2,
        "the owner needs no new token"
    );
    let refused = fixture.send("GET", "sessions", &stolen);
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(refused.contains("error=\"invalid_token\""), "{refused}");
    assert!(!refused.contains(service.session_id()), "{refused}");
    // A token is no key: it cannot be exchanged for a new token.
    let thief = fixture.builder().api_key(stolen).connect().await;
    let error = thief.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    fixture.stop();
}

#[tokio::test]
async fn expired_token_is_replaced_and_no_call_fails() {
    let fixture = Fixture::start();
    let service = fixture.connect().await;
    let training = service.create_lora_training_client(SCRIPTED).await.unwrap();
    fixture.access.expire_tokens();
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    in_time(pass).await.unwrap();
    assert_eq!(fixture.access.exchanges(), 2);
    let user = service.whoami().expect("the token names the user");
    assert_eq!(user.user_urn, "tml:user:alice");
    fixture.stop();
}

#[tokio::test]
async fn token_revoked_by_each_request_fails_after_one_replay() {
    let mut fixture = Fixture::start();
    let service = fixture.connect().await;
    let rule = Rule::on("/api/v1/get_server_capabilities").always();
    fixture.server.faults.add(rule, Fault::revoke_tokens());
    let error = in_time(service.capabilities()).await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    let requests = fixture.server.journal.of("/api/v1/get_server_capabilities");
    assert_eq!(requests.len(), 2, "the request and one replay");
    assert_eq!(fixture.access.exchanges(), 2);
    fixture.stop();
}

#[tokio::test]
async fn key_revoked_during_a_call_fails_it_with_authentication() {
    let mut fixture = Fixture::start();
    let service = fixture.connect().await;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    fixture
        .server
        .faults
        .add(Rule::on(routes::ASAMPLE), Fault::revoke_key());
    let error = in_time(sampler.sample(vec![1]).send()).await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    assert!(error.to_string().contains("API key"), "{error}");
    fixture.stop();
}

#[tokio::test]
async fn owner_with_revoked_keys_continues_with_a_new_key() {
    let mut fixture = Fixture::start();
    let service = fixture.connect().await;
    let training = service.create_lora_training_client(SCRIPTED).await.unwrap();
    let saved = in_time(training.save_state("a").send()).await.unwrap();
    assert_eq!(fixture.access.revoke_owner(OWNER), 1);
    let error = in_time(service.capabilities()).await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    let new = AccessKey::new(SECOND_KEY, OWNER);
    fixture.access.add_access_key(new);
    let builder = fixture.builder().api_key(SECOND_KEY);
    let service = builder.connect().await.expect("connected");
    let resumed = service.create_training_client_from_state(&saved.path);
    in_time(resumed.send()).await.unwrap();
    fixture.stop();
}

#[tokio::test]
async fn rotated_key_fails_calls_of_clients_with_the_old_key() {
    let mut fixture = Fixture::start();
    let service = fixture.connect().await;
    assert!(fixture.access.rotate_key(KEY, SECOND_KEY));
    let error = in_time(service.capabilities()).await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    let builder = fixture.builder().api_key(SECOND_KEY);
    let service = builder.connect().await.expect("connected");
    let user = service.whoami().expect("the token names the user");
    assert_eq!(user.user_urn, "tml:user:alice", "the owner is the same");
    fixture.stop();
}

/// Makes the server demand that clients get their credential from a command.
fn demand_command(fixture: &Fixture) {
    let config = serde_json::json!({
        "pjwt_auth_enabled": true, "credential_default_source": "credential_cmd",
    });
    let fault = Fault::json(http::StatusCode::OK, &config);
    let rule = Rule::on(routes::CLIENT_CONFIG).always();
    fixture.server.faults.add(rule, fault);
}

#[cfg(unix)]
#[tokio::test]
async fn server_can_demand_a_credential_from_a_command() {
    let mut fixture = Fixture::start();
    demand_command(&fixture);
    let command = Credential::command(format!("printf ' %s\\n' {KEY}"));
    let builder = fixture.builder().credential(command);
    let service = builder.connect().await.expect("connected");
    in_time(service.capabilities()).await.unwrap();
    assert_eq!(fixture.access.exchanges(), 1);
    let error = fixture.builder().api_key(KEY).connect().await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    assert!(
        format!("{error:#}").contains("TINKER_CREDENTIAL_CMD"),
        "{error:#}"
    );
    assert_eq!(fixture.access.exchanges(), 1, "the key is not exchanged");
    fixture.stop();
}

#[tokio::test]
async fn failed_token_refresh_that_is_retried_is_counted() {
    let fixture = Fixture::start();
    let rule = Rule::on(routes::AUTH_TOKEN).times(2);
    let fault = Fault::status(http::StatusCode::SERVICE_UNAVAILABLE, "restarting");
    fixture.server.faults.add(rule, fault);
    let service = fixture.connect().await;
    let counts = service.recovered_errors();
    assert_eq!(counts.of(RecoveredError::TokenRefresh), 2);
    fixture.stop();
}

#[tokio::test]
async fn revoked_key_fails_calls_with_authentication() {
    let mut fixture = Fixture::start();
    let service = fixture.connect().await;
    assert!(fixture.access.revoke_key(KEY));
    let error = in_time(service.capabilities()).await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    let error = fixture.builder().api_key(KEY).connect().await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    fixture.stop();
}

#[cfg(unix)]
#[tokio::test]
async fn rotated_key_is_found_by_the_credential_command() {
    let fixture = Fixture::start();
    let directory = std::env::temp_dir().join(format!("tinkers-key-{}", std::process::id()));
    std::fs::write(&directory, KEY).unwrap();
    let command = Credential::command(format!("cat {}", directory.display()));
    let builder = fixture.builder().credential(command);
    let service = builder.connect().await.expect("connected");
    assert!(fixture.access.rotate_key(KEY, SECOND_KEY));
    std::fs::write(&directory, SECOND_KEY).unwrap();
    in_time(service.capabilities()).await.unwrap();
    std::fs::remove_file(&directory).unwrap();
    fixture.stop();
}

#[tokio::test]
async fn exchange_without_a_key_is_an_authentication_error() {
    let mut fixture = Fixture::start();
    let error = fixture.server.client().await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    // The server logs the exchange of another client.
    drop(fixture.connect().await);
    fixture.stop();
}

/// The argument that marks a process as the child process of the test. The test runner ignores it.
const CHILD: &str = "child-process-of-the-test";

/// Prints what the functions of `tinkers::auth` find in the environment. The test runs this
/// function in a child process, so that it can set the variables.
#[expect(clippy::print_stdout, reason = "the parent process reads the output")]
fn print_credential() {
    let has_credential = tinker_has_credentials().unwrap();
    let has_token = tinker_token().unwrap().is_some();
    let access = tinkers::block_on(check_tinker_accessible()).map_err(|error| error.kind());
    println!("found {has_credential} {has_token} {access:?}");
}

#[test]
fn auth_functions_find_the_credential_of_the_environment() {
    if std::env::args().any(|argument| argument == CHILD) {
        return print_credential();
    }
    let fixture = Fixture::start();
    for (key, expected) in [
        (KEY, "found true true Ok(())"),
        (SECOND_KEY, "found true true Err(Authentication)"),
        ("", "found false false Err(Authentication)"),
    ] {
        let test_name = "auth_functions_find_the_credential_of_the_environment";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test_name, "--nocapture", "--skip", CHILD])
            .env_clear()
            // There is no stored key in this directory.
            .env("HOME", "no-such-directory")
            .env("TINKER_BASE_URL", &fixture.server.url)
            .env("TINKER_API_KEY", key)
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(output.contains(expected), "{output}");
        let errors = String::from_utf8_lossy(&child.stderr);
        assert!(
            !format!("{output}{errors}").contains("hush"),
            "{output}{errors}"
        );
    }
    fixture.server.stop();
}
