//! The effect of each option of the client builder that concerns the network. The name of a test begins with the name of its option.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{
    ClassConnectionLimits, HttpVersions, ProxyConfig, RetryPolicy, RouteClass,
    ServiceClientBuilder, Timeouts,
};
use tinkers_e2e::training::{datum, model_of, model_with_known_format, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup, SocketServer};
use tinkers_local::{Fault, JournalEntry, LocalConfig, Rule};
use tinkers_session::SessionOptions;

use crate::options_builder::{wait_until, with_timeout};
use crate::tls_front::{Authority, TlsFront};

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Starts a server, and connects a client. `option` sets the builder option under test.
async fn connect_with(
    option: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
) -> (SocketServer, ServiceClient) {
    let server = SocketServer::start(LocalConfig::default());
    let service = option(server.client_builder()).connect();
    let service = service.await.expect("connected");
    (server, service)
}

/// Connects a client with an invalid option, and returns the option name that the error contains.
/// Asserts that the client has sent no request.
async fn rejected_field(
    option: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
) -> Option<String> {
    let server = SocketServer::start(LocalConfig::default());
    let connecting = option(server.client_builder()).connect();
    let error = connecting.await.expect_err("the option is invalid");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(server.journal.entries().is_empty(), "{error}");
    server.stop();
    error.field().map(str::to_owned)
}

/// Returns the values of the header `name` in the requests. The set contains `None` if a request
/// does not have this header.
fn values(entries: &[JournalEntry], name: &str) -> BTreeSet<Option<String>> {
    let value = |entry: &JournalEntry| {
        let value = entry.headers.get(name)?;
        Some(value.to_str().expect("text").to_owned())
    };
    entries.iter().map(value).collect()
}

#[tokio::test]
async fn default_header_is_sent_with_every_request() {
    let with_option = |builder: ServiceClientBuilder| {
        let builder = builder.default_header("x-team", "one");
        builder.heartbeat_period(10 * MILLISECOND)
    };
    let (server, _service) = connect_with(with_option).await;
    wait_until(|| !server.journal.of(routes::SESSION_HEARTBEAT).is_empty()).await;
    let expected = BTreeSet::from([Some("one".to_owned())]);
    assert_eq!(values(&server.journal.entries(), "x-team"), expected);
    server.stop();
}

#[tokio::test]
async fn default_headers_with_names_reserved_for_the_sdk_are_rejected() {
    let (server, service) = connect_with(|builder| builder).await;
    let training = model_of(&service).await;
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    sampler.sample(vec![1]).await.unwrap();
    let entries = server.journal.entries();
    let headers = entries.iter().flat_map(|entry| entry.headers.keys());
    let mut names: BTreeSet<String> = headers.map(|name| name.as_str().to_owned()).collect();
    server.stop();
    // The journal leaves the API key out.
    names.insert("x-api-key".to_owned());
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        let field = rejected_field(|builder| builder.default_header(&name, "x")).await;
        assert_eq!(field, Some(format!("default_headers.{name}")));
    }
}

#[tokio::test]
async fn default_headers_are_sent_but_hidden_in_debug_output() {
    let headers = [("x-one", "hush-1"), ("x-two", "hush-2")];
    let builder = ServiceClient::builder().default_headers(headers);
    let shown = format!("{builder:?}");
    assert!(
        shown.contains("x-two") && !shown.contains("hush"),
        "{shown}"
    );
    let (server, _service) = connect_with(|builder| builder.default_headers(headers)).await;
    for (name, value) in headers {
        let expected = BTreeSet::from([Some(value.to_owned())]);
        assert_eq!(values(&server.journal.entries(), name), expected);
    }
    server.stop();
}

#[tokio::test]
async fn user_agent_suffix_is_appended_to_the_user_agent_header() {
    let (server, _service) = connect_with(|builder| builder.user_agent_suffix("mine/1.2")).await;
    let agents = values(&server.journal.entries(), "user-agent");
    server.stop();
    assert_eq!(agents.len(), 1, "{agents:?}");
    let agent = agents.first().cloned().flatten().expect("a user agent");
    assert!(
        agent.starts_with("tinkers/") && agent.ends_with(" mine/1.2"),
        "{agent}"
    );
    for invalid in ["", " ", "a\nb", "é"] {
        let field = rejected_field(|builder| builder.user_agent_suffix(invalid)).await;
        assert_eq!(field.as_deref(), Some("user_agent_suffix"), "{invalid:?}");
    }
}

#[tokio::test]
async fn connect_timeout_limits_the_handshake() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let authority = Authority::new();
    let builder = ServiceClient::builder().without_environment().base_url(url);
    let connecting = builder
        .root_certificate_pem(authority.pem())
        .connect_timeout(20 * MILLISECOND)
        .connect();
    let error = with_timeout(connecting).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("(the `connect` limit)"), "{text}");
    // The handshake gets a little less than the limit, so that its error names the step.
    assert!(
        ["19ms", "20ms"].iter().any(|limit| text.contains(limit)),
        "{text}"
    );
    let field = rejected_field(|builder| builder.connect_timeout(Duration::ZERO)).await;
    assert_eq!(field.as_deref(), Some("timeouts.sample.connect"));
}

/// Returns the error of a sample submission that gets no response from the server.
async fn error_of_a_sample(
    option: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
    fault: Fault,
) -> (Error, usize) {
    let (server, service) = connect_with(option).await;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    server.faults.add(Rule::on(routes::ASAMPLE).always(), fault);
    let error = with_timeout(sampler.sample(vec![1]).send()).await;
    let requests = server.journal.of(routes::ASAMPLE).len();
    server.stop();
    (error.unwrap_err(), requests)
}

#[tokio::test]
async fn timeouts_apply_to_requests_of_their_route_class() {
    let limits = Timeouts::of(RouteClass::Sample).with_first_byte(30 * MILLISECOND);
    let with_option = |builder: ServiceClientBuilder| {
        let builder = builder.timeouts(RouteClass::Sample, limits);
        builder.retry_policy(RetryPolicy::none())
    };
    let (error, _) = error_of_a_sample(with_option, Fault::delay(HOUR)).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(
        error
            .to_string()
            .contains("within 30ms (the `first_byte` limit)"),
        "{error}"
    );
    let none = Timeouts::of(RouteClass::Train).with_idle(Duration::ZERO);
    let field = rejected_field(|builder| builder.timeouts(RouteClass::Train, none)).await;
    assert_eq!(field.as_deref(), Some("timeouts.train.idle"));
}

#[tokio::test]
async fn retry_policy_limits_the_attempts() {
    let three = RetryPolicy::new()
        .with_max_attempts(3)
        .with_backoff(MILLISECOND, 2 * MILLISECOND);
    for (policy, attempts) in [(RetryPolicy::none(), 1), (three, 3)] {
        let unavailable = Fault::status(StatusCode::SERVICE_UNAVAILABLE, "later");
        let with_option = |builder: ServiceClientBuilder| builder.retry_policy(policy);
        let (error, requests) = error_of_a_sample(with_option, unavailable).await;
        assert_eq!(error.kind(), ErrorKind::Server, "{error}");
        assert_eq!(requests, attempts, "{policy:?}");
    }
}

#[tokio::test]
async fn retry_policy_with_invalid_values_is_rejected() {
    let never = RetryPolicy::new().with_max_attempts(0);
    let shrinking = RetryPolicy::new().with_backoff(HOUR, MILLISECOND);
    for (policy, expected) in [
        (never, "retry_policy.max_attempts"),
        (shrinking, "retry_policy.backoff"),
    ] {
        let field = rejected_field(|builder| builder.retry_policy(policy)).await;
        assert_eq!(field.as_deref(), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn retry_policy_never_applies_a_gradient_twice() {
    let eager = RetryPolicy::new()
        .with_max_attempts(1000)
        .with_window(24 * HOUR)
        .with_backoff(MILLISECOND, MILLISECOND)
        .without_budget();
    for retry_policy in [RetryPolicy::new(), RetryPolicy::none(), eager] {
        let mut config = LocalConfig::default();
        config.announces_deduplication = false;
        let options = SessionOptions {
            retry_policy,
            ..SessionOptions::default()
        };
        let harness = Harness::with(Setup {
            config,
            options,
            ..Setup::default()
        })
        .await;
        let training = model_with_known_format(&harness).await;
        let lost = Rule::on(routes::FORWARD_BACKWARD);
        harness.faults.add(lost, Fault::cut_after());
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        let error = pass.await.expect_err("the reply is lost");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{retry_policy:?}");
        assert_eq!(harness.engine.counts().backwards, 1, "{retry_policy:?}");
        // The model accepts no further call.
        step(&training).await.expect_err("an unknown gradient");
        assert_eq!(harness.engine.counts().steps, 0, "{retry_policy:?}");
    }
}

#[tokio::test]
async fn connection_limits_restrict_concurrent_requests() {
    let one = ClassConnectionLimits::of(RouteClass::Sample).with_max_connections(1);
    let (server, service) =
        connect_with(|builder| builder.connection_limits(RouteClass::Sample, one)).await;
    let slow = Fault::delay_answer(10 * MILLISECOND);
    server.faults.add(Rule::on(routes::ASAMPLE).always(), slow);
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    let samples: Vec<_> = (0..4).map(|_| sampler.sample(vec![1]).send()).collect();
    for sample in samples {
        with_timeout(sample).await.unwrap();
    }
    let entries = server.journal.of(routes::ASAMPLE);
    assert_eq!(entries.len(), 4);
    for pair in entries.windows(2) {
        let end = pair[0].ended_at.expect("the response was sent");
        assert!(end <= pair[1].at, "two requests on one connection overlap");
    }
    server.stop();
    let none = one.with_max_connections(0);
    let field = rejected_field(|builder| builder.connection_limits(RouteClass::Sample, none)).await;
    assert_eq!(
        field.as_deref(),
        Some("connection_limits.sample.max_connections")
    );
}

/// Starts a server behind TLS, and connects a client. `option` sets the builder option under test.
async fn connect_with_tls(
    front: &TlsFront,
    option: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
) -> Result<ServiceClient, Error> {
    let builder = ServiceClient::builder()
        .without_environment()
        .base_url(&front.url);
    with_timeout(option(builder).connect()).await
}

#[tokio::test]
async fn http_versions_restrict_the_protocol_negotiation_of_tls() {
    let authority = Authority::new();
    for (versions, protocol) in [
        (HttpVersions::Negotiate, "h2"),
        (HttpVersions::Http1, "http/1.1"),
    ] {
        let server = SocketServer::start(LocalConfig::default());
        let front = TlsFront::start(&server.url, &authority, None).await;
        let with_option = |builder: ServiceClientBuilder| {
            let builder = builder.root_certificate_pem(authority.pem());
            builder.http_versions(versions)
        };
        let service = connect_with_tls(&front, with_option).await;
        service.expect("connected");
        let negotiated = front.protocols();
        assert_eq!(negotiated, BTreeSet::from([protocol.to_owned()]));
        server.stop();
    }
}

#[tokio::test]
async fn root_certificate_pem_is_trusted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = SocketServer::start(LocalConfig::default());
    let front = TlsFront::start(&server.url, &authority, None).await;
    let trusting = |pem: String| |builder: ServiceClientBuilder| builder.root_certificate_pem(pem);
    let service = connect_with_tls(&front, trusting(authority.pem())).await;
    service.expect("trusted");
    let error = connect_with_tls(&front, trusting(stranger.pem())).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Connection);
    server.stop();
}

#[tokio::test]
async fn client_certificate_pem_authenticates_the_client() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let server = SocketServer::start(LocalConfig::default());
    let front = TlsFront::start(&server.url, &authority, Some(&clients)).await;
    let (chain, key) = clients.issue("client");
    let with_certificate = |builder: ServiceClientBuilder| {
        let builder = builder.root_certificate_pem(authority.pem());
        builder.client_certificate_pem(chain.clone(), key.clone())
    };
    let service = connect_with_tls(&front, with_certificate).await;
    service.expect("authenticated");
    let without = |builder: ServiceClientBuilder| builder.root_certificate_pem(authority.pem());
    connect_with_tls(&front, without)
        .await
        .expect_err("no certificate");
    server.stop();
    let (_, other_key) = clients.issue("client");
    let field = rejected_field(|builder| builder.client_certificate_pem(chain, other_key)).await;
    assert_eq!(field.as_deref(), Some("client_certificate"));
}

#[tokio::test]
async fn proxy_receives_the_requests() {
    let server = SocketServer::start(LocalConfig::default());
    // The embedded server accepts requests in absolute form, as a proxy does.
    let connect = |proxy: ProxyConfig| {
        let builder = ServiceClient::builder()
            .without_environment()
            .base_url("http://tinker.invalid");
        with_timeout(builder.proxy(proxy).connect())
    };
    connect(ProxyConfig::all(&server.url))
        .await
        .expect("proxied");
    assert_eq!(server.journal.of(routes::CREATE_SESSION).len(), 1);
    let direct = connect(ProxyConfig::all(&server.url).no_proxy("tinker.invalid")).await;
    assert_eq!(direct.unwrap_err().kind(), ErrorKind::Connection);
    server.stop();
    let socks = ProxyConfig::all("socks5://user:hush@host:1");
    let builder = ServiceClient::builder().proxy(socks.clone());
    assert!(!format!("{builder:?}").contains("hush"), "{builder:?}");
    let field = rejected_field(|builder| builder.proxy(socks)).await;
    assert_eq!(field.as_deref(), Some("proxy"));
}

/// The environment variable with the URL of the server, in the child process of a test.
const SERVER_URL: &str = "TINKERS_TEST_SERVER_URL";

/// Connects to the server of the parent process, with and without trust in the certificates of the
/// file `SSL_CERT_FILE`, and prints whether each attempt succeeded. The file contains the
/// certificate authority of the server.
#[expect(clippy::print_stdout, reason = "the parent process reads the output")]
fn print_whether_connected(url: &str) {
    let stranger = Authority::new();
    for has_system_roots in [true, false] {
        let mut builder = ServiceClient::builder().base_url(url);
        builder = builder.root_certificate_pem(stranger.pem());
        if !has_system_roots {
            builder = builder.without_system_root_certificates();
        }
        let is_connected = tinkers::block_on(builder.connect()).is_ok();
        println!("connected {has_system_roots} {is_connected}");
    }
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "tells the child process from its parent, and waits for it"
)]
async fn without_system_root_certificates_only_added_roots_are_trusted() {
    if let Ok(url) = std::env::var(SERVER_URL) {
        return std::thread::spawn(move || print_whether_connected(&url))
            .join()
            .unwrap();
    }
    let field = rejected_field(ServiceClientBuilder::without_system_root_certificates).await;
    assert_eq!(field.as_deref(), Some("root_certificate"));
    let authority = Authority::new();
    let server = SocketServer::start(LocalConfig::default());
    let front = TlsFront::start(&server.url, &authority, None).await;
    let name = format!("tinkers-roots-{}.pem", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, authority.pem()).unwrap();
    let test_name =
        "options_network::without_system_root_certificates_only_added_roots_are_trusted";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", test_name, "--nocapture"])
        .env(SERVER_URL, &front.url)
        .env("SSL_CERT_FILE", &file);
    let output = tokio::task::spawn_blocking(move || child.output());
    let output = output.await.unwrap().unwrap();
    std::fs::remove_file(&file).unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("connected true true"), "{output}");
    assert!(output.contains("connected false false"), "{output}");
    server.stop();
}
