//! Tokens over their lifetime, with the embedded server in virtual time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tinkers_auth::{Auth, AuthTransport, Credential, Sources};
use tinkers_core::{
    BaseUrl, BoxFuture, Clock, ErrorKind, FixedJitter, HttpRequest, HttpResponse, RecoveredError,
    RecoveredErrors, RouteClass, Transport, TransportError, TransportErrorKind,
};
use tinkers_local::{
    AccessControl, Fault, Faults, Hint, InProcess, Journal, LocalConfig, LocalServer, Rule,
    ScriptedEngine, TokioSpawn,
};
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

const KEY: &str = "tml-secret-key";
const LIFETIME: Duration = Duration::from_secs(600);
const EXCHANGE: &str = "/api/v1/auth/token";
const CAPABILITIES: &str = "/api/v1/get_server_capabilities";

/// A server that exchanges keys for tokens, and an authenticated client of it.
struct Fixture {
    access: AccessControl,
    faults: Faults,
    journal: Journal,
    auth: Arc<Auth>,
    client: Arc<AuthTransport>,
    clock: Arc<dyn Clock>,
    server: InProcess,
    recovered_errors: Arc<RecoveredErrors>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Credential::api_key(KEY))
    }

    fn with(credential: Credential) -> Self {
        let access = AccessControl::default()
            .with_key(KEY)
            .with_token_exchange(LIFETIME);
        let mut config = LocalConfig::default();
        config.access = access.clone();
        let handle = Handle::current();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new(handle.clone()));
        let (faults, journal) = (Faults::new(), Journal::new());
        let spawn = Arc::new(TokioSpawn::new(handle));
        let server = LocalServer::builder(
            Arc::new(ScriptedEngine::default()),
            Arc::clone(&clock),
            spawn,
        )
        .config(config)
        .faults(faults.clone())
        .journal(journal.clone())
        .build()
        .expect("a server");
        let server = InProcess::new(server);
        let mut sources = Sources::default();
        sources.given = Some(credential);
        let address = BaseUrl::parse("http://in-process").expect("valid");
        let resolved = sources.resolve(&address, false).expect("a credential");
        let recovered_errors = Arc::<RecoveredErrors>::default();
        let auth = Auth::new(
            sources,
            resolved,
            address,
            Arc::new(server.clone()),
            Arc::clone(&clock),
            Arc::new(FixedJitter(0.5)),
            Arc::clone(&recovered_errors),
        )
        .expect("valid");
        let client = AuthTransport::new(Arc::new(server.clone()), Arc::clone(&auth));
        Self {
            access,
            faults,
            journal,
            auth,
            client: Arc::new(client),
            clock,
            server,
            recovered_errors,
        }
    }

    /// Exchanges the key, without the background refresh.
    async fn exchanged(self) -> Self {
        drop(self.auth.start_exchange(false).await.expect("a token"));
        assert_eq!(self.access.exchanges(), 1);
        self
    }

    async fn send(&self) -> Result<StatusCode, TransportError> {
        Ok(self.client.send(get()).await?.status)
    }

    async fn pass(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    fn failed_refreshes(&self) -> u64 {
        let counts = self.recovered_errors.snapshot();
        counts.of(RecoveredError::TokenRefresh)
    }

    fn attempts(&self) -> usize {
        self.journal.of(EXCHANGE).len()
    }
}

fn get() -> HttpRequest {
    HttpRequest::new(Method::GET, CAPABILITIES, RouteClass::Rest)
}

fn unavailable() -> Fault {
    Fault::status(StatusCode::SERVICE_UNAVAILABLE, "restarting")
}

#[tokio::test(start_paused = true)]
async fn expired_token_is_exchanged_once_for_256_calls() {
    let fixture = Fixture::new().exchanged().await;
    fixture.pass(LIFETIME).await;
    // The exchange takes time, so that all calls wait for it.
    fixture
        .faults
        .add(Rule::on(EXCHANGE), Fault::delay(Duration::from_secs(1)));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..256 {
        let client = Arc::clone(&fixture.client);
        calls.spawn(async move { client.send(get()).await.expect("a response").status });
    }
    let statuses = calls.join_all().await;
    assert_eq!(statuses, [StatusCode::OK; 256]);
    assert_eq!(fixture.access.exchanges(), 2);
    assert_eq!(fixture.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn failed_exchange_fails_all_waiters_at_once() {
    let fixture = Fixture::new().exchanged().await;
    fixture.pass(LIFETIME).await;
    assert!(fixture.access.revoke_key(KEY));
    // The exchange takes time, so that all calls wait for it.
    fixture
        .faults
        .add(Rule::on(EXCHANGE), Fault::delay(Duration::from_secs(1)));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..256 {
        let client = Arc::clone(&fixture.client);
        calls.spawn(async move { client.send(get()).await.expect_err("no token").kind });
    }
    let kinds = calls.join_all().await;
    assert_eq!(kinds, [TransportErrorKind::Credential; 256]);
    assert_eq!(fixture.attempts(), 2, "one exchange for all waiters");
}

#[tokio::test(start_paused = true)]
async fn dropped_leader_of_an_exchange_strands_no_waiter() {
    let fixture = Fixture::new().exchanged().await;
    fixture.pass(LIFETIME).await;
    fixture
        .faults
        .add(Rule::on(EXCHANGE), Fault::delay(Duration::from_secs(10)));
    let mut leader = Box::pin(fixture.client.send(get()));
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(leader.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    let waiters = (0..8).map(|_| {
        let client = Arc::clone(&fixture.client);
        tokio::spawn(async move { client.send(get()).await.map(|response| response.status) })
    });
    let waiters: Vec<_> = waiters.collect();
    fixture.pass(Duration::from_secs(1)).await;
    drop(leader);
    for waiter in waiters {
        let status = waiter.await.expect("no panic").expect("a response");
        assert_eq!(status, StatusCode::OK);
    }
    // The server saw the exchange of the dropped leader, and one more.
    assert_eq!(fixture.attempts(), 3);
}

#[tokio::test(start_paused = true)]
async fn revoked_token_is_replaced_and_its_request_sent_once_more() {
    let fixture = Fixture::new().exchanged().await;
    fixture.access.revoke_tokens();
    assert_eq!(fixture.send().await.expect("a response"), StatusCode::OK);
    assert_eq!(fixture.access.exchanges(), 2);
    let statuses: Vec<_> = fixture
        .journal
        .of(CAPABILITIES)
        .iter()
        .map(|entry| entry.status)
        .collect();
    assert_eq!(statuses, [Some(401), Some(200)]);
}

#[tokio::test(start_paused = true)]
async fn request_is_sent_at_most_once_more_for_an_invalid_token() {
    let fixture = Fixture::new().exchanged().await;
    let rejected = Fault::status(StatusCode::UNAUTHORIZED, "no").with_header(
        http::header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"x\", error=\"invalid_token\""),
    );
    fixture
        .faults
        .add(Rule::on(CAPABILITIES).times(9), rejected);
    assert_eq!(
        fixture.send().await.expect("a response"),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(fixture.journal.of(CAPABILITIES).len(), 2);
    assert_eq!(fixture.access.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn other_401_responses_are_final() {
    let fixture = Fixture::new().exchanged().await;
    let rejected = Fault::status(StatusCode::UNAUTHORIZED, "no");
    fixture.faults.add(Rule::on(CAPABILITIES), rejected);
    assert_eq!(
        fixture.send().await.expect("a response"),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(fixture.journal.of(CAPABILITIES).len(), 1);
    assert_eq!(fixture.access.exchanges(), 1);
}

#[tokio::test(start_paused = true)]
async fn revoked_key_fails_without_repetition() {
    let fixture = Fixture::new().exchanged().await;
    assert!(fixture.access.revoke_key(KEY));
    let error = fixture.send().await.expect_err("the key is revoked");
    assert_eq!(error.kind, TransportErrorKind::Credential);
    assert!(error.message.contains("check the API key"), "{error}");
    assert_eq!(fixture.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn token_is_used_while_more_than_a_minute_is_left() {
    let fixture = Fixture::new().exchanged().await;
    fixture.pass(LIFETIME - Duration::from_secs(61)).await;
    assert_eq!(fixture.send().await.expect("a response"), StatusCode::OK);
    assert_eq!(fixture.access.exchanges(), 1);
    fixture.pass(Duration::from_secs(1)).await;
    assert_eq!(fixture.send().await.expect("a response"), StatusCode::OK);
    assert_eq!(fixture.access.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn token_stays_in_use_while_the_exchange_is_unavailable() {
    let fixture = Fixture::new().exchanged().await;
    fixture.pass(LIFETIME - Duration::from_secs(30)).await;
    fixture
        .faults
        .add(Rule::on(EXCHANGE).times(9), unavailable());
    assert_eq!(fixture.send().await.expect("a response"), StatusCode::OK);
    assert_eq!(fixture.attempts(), 2, "one attempt while the token works");
    fixture.pass(Duration::from_secs(30)).await;
    let error = fixture.send().await.expect_err("the token has expired");
    assert_eq!(error.kind, TransportErrorKind::Broken);
    assert_eq!(fixture.attempts(), 7, "five attempts without a token");
}

#[tokio::test(start_paused = true)]
async fn retry_delay_of_the_exchange_is_never_undercut() {
    let fixture = Fixture::new();
    let hint = Duration::from_secs(20);
    fixture.faults.add(
        Rule::on(EXCHANGE).times(1),
        Fault::rate_limited(Hint::Seconds(hint.as_secs())),
    );
    let began = fixture.clock.now();
    drop(fixture.auth.start_exchange(false).await.expect("a token"));
    assert!(fixture.clock.now().since(began) >= hint);
    assert_eq!(fixture.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn background_refresh_renews_the_token_at_half_its_lifetime() {
    let fixture = Fixture::new();
    let refresh = fixture.auth.start_exchange(false).await.expect("a token");
    let task = tokio::spawn(refresh);
    fixture.pass(LIFETIME / 2 - Duration::from_secs(1)).await;
    assert_eq!(fixture.access.exchanges(), 1);
    fixture.pass(Duration::from_secs(2)).await;
    assert_eq!(fixture.access.exchanges(), 2);
    // Requests find a token without a wait.
    fixture.pass(10 * LIFETIME).await;
    assert_eq!(fixture.send().await.expect("a response"), StatusCode::OK);
    assert_eq!(fixture.access.exchanges(), 22);
    task.abort();
    let _ = task.await;
    fixture.pass(LIFETIME).await;
    assert_eq!(
        fixture.access.exchanges(),
        22,
        "the refresh ends with its task"
    );
}

#[tokio::test(start_paused = true)]
async fn failed_refresh_is_repeated_after_a_minute() {
    let fixture = Fixture::new();
    let refresh = fixture.auth.start_exchange(false).await.expect("a token");
    let _task = tokio::spawn(refresh);
    fixture
        .faults
        .add(Rule::on(EXCHANGE).times(2), unavailable());
    fixture.pass(LIFETIME / 2 + Duration::from_secs(1)).await;
    assert_eq!(fixture.attempts(), 2);
    fixture.pass(Duration::from_secs(60)).await;
    assert_eq!(fixture.attempts(), 3);
    fixture.pass(Duration::from_secs(60)).await;
    assert_eq!((fixture.attempts(), fixture.access.exchanges()), (4, 2));
    assert_eq!(fixture.failed_refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn refresh_stops_for_a_rejected_key_until_a_request_succeeds() {
    let fixture = Fixture::new();
    let refresh = fixture.auth.start_exchange(false).await.expect("a token");
    let _task = tokio::spawn(refresh);
    assert!(fixture.access.rotate_key(KEY, "tml-second"));
    fixture.pass(LIFETIME).await;
    let attempts = fixture.attempts();
    fixture.pass(10 * LIFETIME).await;
    assert_eq!(fixture.attempts(), attempts, "no attempts after the expiry");
    assert!(fixture.access.rotate_key("tml-second", KEY));
    assert_eq!(fixture.send().await.expect("a response"), StatusCode::OK);
    assert_eq!(fixture.access.exchanges(), 2);
    fixture.pass(LIFETIME / 2 + Duration::from_secs(1)).await;
    assert_eq!(fixture.access.exchanges(), 3, "the refresh runs again");
}

/// A transport whose exchange returns tokens that are issued an hour in the future of the client.
#[derive(Debug)]
struct WrongClock {
    tokens: AtomicU64,
    headers: Mutex<Vec<HeaderMap>>,
    is_silent: AtomicBool,
}

impl Transport for WrongClock {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let is_exchange = request.path == EXCHANGE;
        self.headers.lock().expect("no panic").push(request.headers);
        let is_silent = self.is_silent.load(Ordering::SeqCst);
        let number = self
            .tokens
            .fetch_add(u64::from(is_exchange), Ordering::SeqCst);
        Box::pin(async move {
            if is_silent {
                std::future::pending::<()>().await;
            }
            // {"iat":1,"exp":601}: long expired for the client.
            let token = format!("eyJ9.eyJpYXQiOjEsImV4cCI6NjAxfQ.{number}");
            Ok(HttpResponse {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: format!("{{\"jwt\": \"{token}\"}}").into(),
            })
        })
    }
}

fn wrong_clock() -> (Arc<WrongClock>, Arc<Auth>, AuthTransport) {
    let server = Arc::new(WrongClock {
        tokens: AtomicU64::new(0),
        headers: Mutex::default(),
        is_silent: AtomicBool::new(false),
    });
    let mut sources = Sources::default();
    sources.given = Some(Credential::api_key(KEY));
    let address = BaseUrl::parse("http://far").expect("valid");
    let resolved = sources.resolve(&address, false).expect("valid");
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
    let shared: Arc<dyn Transport> = Arc::<WrongClock>::clone(&server);
    let jitter = Arc::new(FixedJitter(0.0));
    let auth = Auth::new(
        sources,
        resolved,
        address,
        Arc::clone(&shared),
        clock,
        jitter,
        Arc::default(),
    );
    let auth = auth.expect("valid");
    let client = AuthTransport::new(shared, Arc::clone(&auth));
    (server, auth, client)
}

#[tokio::test(start_paused = true)]
async fn wrong_date_of_the_client_causes_no_additional_exchange() {
    let (server, auth, client) = wrong_clock();
    drop(auth.start_exchange(false).await.expect("a token"));
    for _ in 0..3 {
        client.send(get()).await.expect("a response");
    }
    assert_eq!(server.tokens.load(Ordering::SeqCst), 1);
    let headers = server.headers.lock().expect("no panic");
    assert_eq!(headers[0]["x-api-key"], KEY);
    assert!(
        headers[1..]
            .iter()
            .all(|headers| headers["x-api-key"] != KEY)
    );
    let is_sensitive = |headers: &HeaderMap| headers["x-api-key"].is_sensitive();
    assert!(headers.iter().all(is_sensitive));
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_token_counts_towards_the_time_limit_of_a_request() {
    let (server, auth, client) = wrong_clock();
    drop(auth.start_exchange(false).await.expect("a token"));
    tokio::time::advance(LIFETIME).await;
    server.is_silent.store(true, Ordering::SeqCst);
    let mut request = get();
    request.timeouts = request.timeouts.with_total(Duration::from_secs(10));
    let error = client.send(request).await.expect_err("no token");
    assert_eq!(error.kind, TransportErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn expired_static_token_is_not_sent() {
    // {"exp":1}: expired at any date of this test.
    let fixture = Fixture::with(Credential::api_key("eyJ9.eyJleHAiOjF9.c2ln"));
    let error = fixture.send().await.expect_err("expired");
    assert_eq!(error.kind, TransportErrorKind::Credential);
    assert!(error.message.contains("expired"), "{error}");
    assert_eq!(fixture.journal.entries().len(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn command_runs_for_each_exchange_so_a_rotated_key_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key");
    std::fs::write(&path, KEY).expect("written");
    let fixture = Fixture::with(Credential::command(format!("cat {}", path.display())));
    let fixture = fixture.exchanged().await;
    assert!(fixture.access.rotate_key(KEY, "tml-second"));
    std::fs::write(&path, "tml-second\n").expect("written");
    assert_eq!(fixture.send().await.expect("a response"), StatusCode::OK);
    assert_eq!(fixture.access.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn rotated_key_of_the_program_fails_with_authentication() {
    let fixture = Fixture::new().exchanged().await;
    assert!(fixture.access.rotate_key(KEY, "tml-second"));
    let error = fixture.send().await.expect_err("the key is replaced");
    assert_eq!(
        tinkers_core::Error::from(error).kind(),
        ErrorKind::Authentication
    );
    // Without the exchange, the key is sent as it is.
    let direct = fixture.server.clone().with_api_key("tml-second");
    let described = HttpRequest::new(Method::GET, "/api/v1/auth/apikey/me", RouteClass::Control);
    assert_eq!(
        direct.send(described).await.expect("a response").status,
        StatusCode::OK
    );
}
