//! The bare loop sends what the client sends, as the server sees it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use tinkers_bench::bare::{self, Load};
use tinkers_local::{
    BlockingServer, Entry, Journal, LocalConfig, LocalServer, ScriptedEngine, TokioSpawn,
};
use tinkers_transport::TokioTime;

/// Differs from request to request by its nature.
const OWN: [&str; 1] = ["x-idempotency-key"];

/// The one that the server takes.
const KEY: &str = "tml-hush-hush";

fn serve(journal: Journal) -> BlockingServer {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    BlockingServer::start(address, NonZeroUsize::MIN, |handle| {
        let time = Arc::new(TokioTime::new(handle.clone()));
        let spawn = Arc::new(TokioSpawn::new(handle.clone()));
        LocalServer::builder(Arc::new(ScriptedEngine::default()), time, spawn)
            .config(LocalConfig::default().with_api_key(KEY))
            .journal(journal)
            .build()
    })
    .unwrap()
}

/// Everything but the numbers: how long the body is, and the headers with the length of their values.
fn shape(entry: &Entry) -> (usize, BTreeMap<String, String>) {
    let headers = entry.headers.iter().map(|(name, value)| {
        let value = if OWN.contains(&name.as_str()) {
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
fn the_bare_loop_and_the_client_cannot_be_told_apart() {
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
        let told = block_on(bare::run(load)).unwrap();
        assert_eq!(told["requests"], 4);
        assert_eq!(told["connections"], if http2 { 2 } else { 4 });
        // 256 tokens and as many log-probabilities, four bytes each, for each of four.
        assert!(
            told["result_bytes"].as_u64().unwrap() > 4 * 256 * 8,
            "{told}"
        );
        for route in ["/api/v1/asample", "/api/v1/retrieve_future"] {
            let seen = journal.of(route);
            // The first is the client's.
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
