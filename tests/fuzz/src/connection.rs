//! The fuzz target `server-connection`: sends the input as the bytes of a connection to the
//! embedded server, through hyper. The server must answer every complete request with a status
//! below 500, and must end when the connection ends.

use tinkers_local::serve_stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{LONGEST_POLL, TestServer, mentions_fixture_ids, run, run_ready_tasks};

/// The buffer size of the simulated connection in each direction, in bytes.
const PIPE: usize = 16 << 10;
/// The maximum number of times that the fuzz target advances the virtual time while it waits for
/// the end of the connection. Then it reports that the connection hangs.
const MAX_TIME_STEPS: usize = 50;

pub(crate) fn run_connection(bytes: &[u8]) {
    let _ = replies(bytes);
}

/// Sends `bytes` to a new server over a simulated connection. Returns the bytes that the server
/// sent, and the number of requests to which it responded.
pub(crate) fn replies(bytes: &[u8]) -> (Vec<u8>, usize) {
    run(async {
        let test_server = TestServer::new("tinker");
        if mentions_fixture_ids(bytes) {
            test_server.create_fixtures().await;
        }
        let setup_entries = test_server.journal.entries().len();
        let (near, far) = tokio::io::duplex(PIPE);
        let (mut from, mut to) = tokio::io::split(near);
        let send = async {
            // The server may close the connection before it has read everything.
            let _ = to.write_all(bytes).await;
            // The server treats a closed write side as a disconnect, so it gets time to respond
            // before.
            for _ in 0..3 {
                run_ready_tasks().await;
                test_server.clock.advance(LONGEST_POLL);
            }
            run_ready_tasks().await;
            let _ = to.shutdown().await;
        };
        let receive = async {
            let mut received = Vec::new();
            let _ = from.read_to_end(&mut received).await;
            received
        };
        let served = serve_stream(test_server.server.clone(), far);
        let work = async { tokio::join!(served, send, receive) };
        let hangs = async {
            for _ in 0..MAX_TIME_STEPS {
                for _ in 0..bytes.len() / 1024 + 20 {
                    run_ready_tasks().await;
                }
                test_server.clock.advance(LONGEST_POLL);
            }
        };
        let received = tokio::select! {
            biased;
            ((), (), received) = work => received,
            () = hangs => panic!("the connection hangs"),
        };
        let entries = test_server.journal.entries();
        let entries = &entries[setup_entries..];
        for entry in entries {
            let (route, status) = (&entry.route, entry.status);
            assert!(
                status.is_none_or(|status| status < 500),
                "{route:.200}: {status:?}"
            );
        }
        // The journal does not contain responses that hyper itself sends.
        let first = received.strip_prefix(b"HTTP/1.1 ").and_then(<[u8]>::first);
        assert!(
            first.is_none_or(|digit| *digit < b'5'),
            "{:.60}",
            String::from_utf8_lossy(&received)
        );
        let answered = entries.iter().filter(|entry| entry.status.is_some());
        let answered = answered.count();
        (received, answered)
    })
}

#[cfg(test)]
mod tests {
    use tinkers_local::Route;

    use super::*;
    use crate::fixtures::client_request;
    use crate::request_seeds::http_2;

    #[test]
    fn every_complete_request_on_a_connection_gets_a_response() {
        // The test sends a request to each route except the one that closes the session.
        let routes = Route::ALL
            .iter()
            .filter(|route| **route != Route::FinishSession);
        let all = routes.map(|route| client_request(*route, "tinker"));
        let all: Vec<Vec<u8>> = all.collect();
        let (received, answered) = replies(&all.concat());
        assert_eq!(answered, all.len());
        let heads = received.windows(9).filter(|part| *part == b"HTTP/1.1 ");
        assert_eq!(heads.count(), all.len());
    }

    #[test]
    fn connection_with_an_http2_preface_uses_http2() {
        let [first, ..] = http_2();
        let (received, answered) = replies(&first);
        assert_eq!(answered, 1, "{received:?}");
    }
}
