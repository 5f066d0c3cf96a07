//! Credentials of whole clients over sockets, with a recorded log: no secret may occur in it.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tinkers::auth::Credential;
use tinkers::prelude::*;
use tinkers_core::Clock;
use tinkers_e2e::training::datum;
use tinkers_e2e::{LogBuffer, SCRIPTED, SocketServer, TEST_TIMEOUT};
use tinkers_local::{AccessControl, LocalConfig};
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

const KEY: &str = "tml-hush-first";
const SECOND_KEY: &str = "tml-hush-second";
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
    /// The errors that the test has seen.
    shown: String,
}

impl Fixture {
    fn start() -> Self {
        LazyLock::force(&LOG);
        let access = AccessControl::default()
            .with_key(KEY)
            .with_token_exchange(Duration::from_secs(3600));
        let mut config = LocalConfig::default();
        config.access = access.clone();
        Self {
            server: SocketServer::start(config),
            access,
            shown: String::new(),
        }
    }

    async fn connect(&self) -> ServiceClient {
        let builder = self.server.client_builder().api_key(KEY);
        builder.connect().await.expect("connected")
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
        self.server.stop();
        let log = LOG.text();
        assert!(log.contains("auth/token"), "the exchange is logged");
        for (place, text) in [
            ("log", &log),
            ("journal", &journal),
            ("errors", &self.shown),
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
async fn revoked_key_fails_calls_with_authentication() {
    let mut fixture = Fixture::start();
    let service = fixture.connect().await;
    assert!(fixture.access.revoke_key(KEY));
    let error = in_time(service.capabilities()).await.unwrap_err();
    assert_eq!(fixture.see(&error), ErrorKind::Authentication);
    let error = fixture
        .server
        .client_builder()
        .api_key(KEY)
        .connect()
        .await
        .unwrap_err();
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
    let builder = fixture.server.client_builder().credential(command);
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
