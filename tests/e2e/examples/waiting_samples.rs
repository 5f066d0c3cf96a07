//! Measures the memory that the client needs for a sample in flight, with a shared poll and with
//! individual polls, and for a queued sample.
//!
//! The server is a stub that never finishes a sample. The memory of the process is read from
//! `/proc`, so the example works only on Linux.

#![expect(clippy::print_stdout, reason = "the example prints its measurements")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tinkers::wire::routes;
use tinkers::{ApiFuture, SampleResponse, SamplingClient, ServiceClient};
use tinkers_core::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers_session::SessionOptions;

/// The number of samples that are submitted together. It is below the rate limiter's limit on
/// concurrent submissions, so that the limiter delays no sample.
const WAVE: usize = 200;

/// A transport that imitates a server on which no sample ever finishes. If `accepts` is true, it
/// accepts sample submissions. Otherwise it never responds to them.
#[derive(Debug)]
struct Stub {
    config: &'static str,
    accepts: bool,
    accepted: AtomicU64,
}

impl Stub {
    async fn response(&self, path: &str) -> String {
        match path {
            routes::CLIENT_CONFIG => self.config.to_owned(),
            routes::CREATE_SESSION => r#"{"session_id": "stub"}"#.to_owned(),
            routes::CREATE_SAMPLING_SESSION => {
                r#"{"sampling_session_id": "stub:sample:0"}"#.to_owned()
            }
            routes::ASAMPLE if !self.accepts => std::future::pending().await,
            routes::ASAMPLE => {
                let number = self.accepted.fetch_add(1, Ordering::SeqCst);
                format!(
                    r#"{{"request_id": "req-{number:016x}", "sample_sequence_ids": ["req-{number:016x}-0"]}}"#
                )
            }
            routes::RETRIEVE_FUTURE | routes::RETRIEVE_FUTURES => std::future::pending().await,
            _ => "{}".to_owned(),
        }
    }
}

impl Transport for Stub {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            Ok(HttpResponse {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: Bytes::from(self.response(&request.path).await),
            })
        })
    }
}

/// Returns the resident memory of this process in bytes, or `None` if it cannot be read.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Returns the client memory per pending sample in bytes, or `None` if the memory of the process
/// cannot be read.
async fn measure(scenario: &Scenario) -> Option<u64> {
    let stub = Arc::new(Stub {
        config: scenario.config,
        accepts: scenario.accepts,
        accepted: AtomicU64::new(0),
    });
    let transport: Arc<dyn Transport> = Arc::<Stub>::clone(&stub);
    let session = tinkers_e2e::open(transport, SessionOptions::default()).await;
    let service = ServiceClient::from_session(session.expect("the stub accepts sessions"));
    let sampler = service
        .create_sampling_client("stub")
        .await
        .expect("a sampler");
    let mut pending = Vec::with_capacity((scenario.waves + 1) * WAVE);
    send_wave(&sampler, &stub, &mut pending).await;
    let before = resident_bytes()?;
    for _ in 0..scenario.waves {
        send_wave(&sampler, &stub, &mut pending).await;
    }
    Some(resident_bytes()?.saturating_sub(before) / (scenario.waves * WAVE) as u64)
}

/// Submits [`WAVE`] further samples, and adds their futures to `pending`.
async fn send_wave(
    sampler: &SamplingClient,
    stub: &Stub,
    pending: &mut Vec<ApiFuture<SampleResponse>>,
) {
    for _ in 0..WAVE {
        pending.push(sampler.sample(vec![1; 8]).max_tokens(8).send());
    }
    while stub.accepts && stub.accepted.load(Ordering::SeqCst) < pending.len() as u64 {
        tokio::task::yield_now().await;
    }
    // Gives the client time to process the responses.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// A scenario in which the example measures the memory per pending sample, for example samples that
/// wait to be sent.
struct Scenario {
    name: &'static str,
    description: &'static str,
    /// The body, as JSON, of the stub transport's response to the client's request for its
    /// configuration.
    config: &'static str,
    accepts: bool,
    waves: usize,
}

const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "all",
        description: "waits for its result with a shared poll",
        config: r#"{"sample_use_retrieve_futures": true}"#,
        accepts: true,
        waves: 100,
    },
    Scenario {
        name: "each",
        description: "waits for its result with an individual poll",
        config: r#"{"sample_max_concurrent_requests": 100000}"#,
        accepts: true,
        waves: 15,
    },
    Scenario {
        name: "queued",
        description: "waits to be sent",
        config: r#"{"sample_use_retrieve_futures": true}"#,
        accepts: false,
        waves: 100,
    },
];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Each scenario runs in its own process. In a shared process, a scenario would reuse memory
    // that an earlier one has freed.
    let Some(name) = std::env::args().nth(1) else {
        let program = std::env::current_exe().expect("the path of this program");
        for scenario in &SCENARIOS {
            let status = std::process::Command::new(&program)
                .arg(scenario.name)
                .status();
            assert!(status.expect("this program starts").success());
        }
        return;
    };
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name == name) {
        match measure(scenario).await {
            Some(bytes) => println!(
                "{bytes} bytes per sample that {} ({} samples)",
                scenario.description,
                scenario.waves * WAVE
            ),
            None => println!("the memory of a process is unknown on this system"),
        }
    }
}
