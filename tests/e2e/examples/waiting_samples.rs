//! How much memory a sample takes up while it is waited for, with the session's poll and without it, and while it waits to be
//! sent.
//!
//! The server is a stub that accepts every sample, or none, and finishes none, so that what grows is the client. Linux tells how large a
//! process is; elsewhere nothing is measured.

#![expect(clippy::print_stdout, reason = "an example shows what it found")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tinkers::wire::routes;
use tinkers::{ApiFuture, SampleResponse, SamplingClient, ServiceClient};
use tinkers_core::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers_session::SessionOptions;

/// Samples that are submitted before the next are begun: fewer than may be submitted at once, so that none waits for that.
const WAVE: usize = 200;

/// Accepts samples and finishes none.
#[derive(Debug)]
struct Stub {
    config: &'static str,
    accepts: bool,
    accepted: AtomicU64,
}

impl Stub {
    async fn answer(&self, path: &str) -> String {
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
                body: Bytes::from(self.answer(&request.path).await),
            })
        })
    }
}

/// The memory of this process, in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

async fn measure(kind: &Kind) -> Option<u64> {
    let stub = Arc::new(Stub {
        config: kind.config,
        accepts: kind.accepts,
        accepted: AtomicU64::new(0),
    });
    let transport: Arc<dyn Transport> = Arc::<Stub>::clone(&stub);
    let session = tinkers_e2e::open(transport, SessionOptions::default()).await;
    let service = ServiceClient::over(session.expect("the stub takes everybody"));
    let sampler = service.sampling("stub").create().await.expect("a sampler");
    let mut waiting = Vec::with_capacity((kind.waves + 1) * WAVE);
    wave(&sampler, &stub, &mut waiting).await;
    let before = resident()?;
    for _ in 0..kind.waves {
        wave(&sampler, &stub, &mut waiting).await;
    }
    Some(resident()?.saturating_sub(before) / (kind.waves * WAVE) as u64)
}

/// So many more samples that wait for their results.
async fn wave(sampler: &SamplingClient, stub: &Stub, waiting: &mut Vec<ApiFuture<SampleResponse>>) {
    for _ in 0..WAVE {
        waiting.push(sampler.sample(vec![1; 8]).max_tokens(8).send());
    }
    while stub.accepts && stub.accepted.load(Ordering::SeqCst) < waiting.len() as u64 {
        tokio::task::yield_now().await;
    }
    // What was answered is taken in.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// What is measured.
struct Kind {
    name: &'static str,
    about: &'static str,
    /// The server's flags.
    config: &'static str,
    accepts: bool,
    waves: usize,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "all",
        about: "waits for its result, one poll for all",
        config: r#"{"sample_use_retrieve_futures": true}"#,
        accepts: true,
        waves: 100,
    },
    Kind {
        name: "each",
        about: "waits for its result, one poll for each",
        config: r#"{"sample_max_concurrent_requests": 100000}"#,
        accepts: true,
        waves: 15,
    },
    Kind {
        name: "queued",
        about: "waits to be sent",
        config: r#"{"sample_use_retrieve_futures": true}"#,
        accepts: false,
        waves: 100,
    },
];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Each kind in a process of its own, since memory that one has freed would be the other's.
    let Some(wanted) = std::env::args().nth(1) else {
        let own = std::env::current_exe().expect("a program has a place");
        for kind in &KINDS {
            let ended = std::process::Command::new(&own).arg(kind.name).status();
            assert!(ended.expect("the same program runs again").success());
        }
        return;
    };
    for kind in KINDS.iter().filter(|kind| kind.name == wanted) {
        match measure(kind).await {
            Some(bytes) => println!(
                "{bytes} bytes for each sample that {}, {} samples",
                kind.about,
                kind.waves * WAVE
            ),
            None => println!("this system does not tell how large a process is"),
        }
    }
}
