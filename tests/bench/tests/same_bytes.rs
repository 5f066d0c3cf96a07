//! Tests that the benchmark loop sends the same requests as the client.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use tinkers_bench::bare::{self, Load};
use tinkers_local::{
    BlockingServer, Journal, JournalEntry, LocalConfig, LocalServer, ScriptedEngine, TokioSpawn,
};
use tinkers_transport::TokioClock;

/// The headers whose values differ between otherwise equal requests. The test compares only the
/// length of their values.
const VARIABLE_HEADERS: [&str; 1] = ["x-idempotency-key"];

/// The API key that the server requires.
const KEY: &str = "tml-hush-hush";

fn serve(journal: Journal) -> BlockingServer {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    BlockingServer::start(address, NonZeroUsize::MIN, |handle| {
        let time = Arc::new(TokioClock::new(handle.clone()));
        let spawn = Arc::new(TokioSpawn::new(handle.clone()));
        LocalServer::builder(Arc::new(ScriptedEngine::default()), time, spawn)
            .config(LocalConfig::default().with_api_key(KEY))
            .journal(journal)
            .build()
    })
    .unwrap()
}

/// Returns the properties in which the requests of the client library and of the benchmark must
/// agree: the size of the body and the headers. The value of a header in [`VARIABLE_HEADERS`] is
/// replaced by its length.
fn shape(entry: &JournalEntry) -> (usize, BTreeMap<String, String>) {
    let headers = entry.headers.iter().map(|(name, value)| {
        let value = if VARIABLE_HEADERS.contains(&name.as_str()) {
            format!("{} bytes", value.len())
        } else {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        (name.to_string(), value)
    });
    (entry.body_bytes, headers.collect())
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

#[test]
fn hyper_benchmark_sends_the_same_requests_as_the_client() {
    for http2 in [false, true] {
        let journal = Journal::new();
        let server = serve(journal.clone());
        let load = Load {
            base_url: server.url(),
            api_key: KEY.to_owned(),
            requests: 4,
            concurrency: 2,
            prompt_len: 256,
            max_tokens: 256,
            http2,
        };
        let report = block_on(bare::run(load)).unwrap();
        assert_eq!(report["requests"], 4);
        assert_eq!(report["connections"], if http2 { 2 } else { 4 });
        // Each of the four results has 256 tokens and 256 log-probabilities of four bytes each.
        assert!(
            report["result_bytes"].as_u64().unwrap() > 4 * 256 * 8,
            "{report}"
        );
        for route in ["/api/v1/asample", "/api/v1/retrieve_future"] {
            let seen = journal.of(route);
            // The client sent the first request, and the benchmark loop sent the rest.
            assert_eq!(seen.len(), 5, "{route}");
            for entry in &seen[1..] {
                assert_eq!(entry.status, Some(200));
                assert_eq!(shape(entry), shape(&seen[0]), "{route}");
            }
        }
        let numbers: Vec<_> = journal
            .of("/api/v1/asample")
            .iter()
            .map(|e| e.seq_id)
            .collect();
        let mut sorted = numbers.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 5, "{numbers:?}");
    }
}
