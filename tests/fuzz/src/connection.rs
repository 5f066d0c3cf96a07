//! The embedded server on a connection, under any bytes: hyper reads the heads, and bodies are collected by the server. It answers
//! whatever arrives whole, with no 5xx, and ends with the connection.

use tinkers_local::serve_stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{LONG, World, names_ids, run, settle};

/// What a connection holds in one direction, in bytes.
const PIPE: usize = 16 << 10;
/// The time is moved so often before a connection counts as one that hangs.
const PATIENCE: usize = 50;

pub(crate) fn any_bytes(bytes: &[u8]) {
    let _ = replies(bytes);
}

/// What came back over a connection that took `bytes`, and how many requests were answered in it.
pub(crate) fn replies(bytes: &[u8]) -> (Vec<u8>, usize) {
    run(async {
        let world = World::new("tinker");
        if names_ids(bytes) {
            world.furnish().await;
        }
        let furnished = world.journal.entries().len();
        let (near, far) = tokio::io::duplex(PIPE);
        let (mut from, mut to) = tokio::io::split(near);
        let send = async {
            // The server may have ended the connection before it has read all.
            let _ = to.write_all(bytes).await;
            // The end of what is sent is a disconnect, so what can be answered is answered first.
            for _ in 0..3 {
                settle().await;
                world.clock.advance(LONG);
            }
            settle().await;
            let _ = to.shutdown().await;
        };
        let receive = async {
            let mut received = Vec::new();
            let _ = from.read_to_end(&mut received).await;
            received
        };
        let served = serve_stream(world.server.clone(), far);
        let work = async { tokio::join!(served, send, receive) };
        let hangs = async {
            for _ in 0..PATIENCE {
                for _ in 0..bytes.len() / 1024 + 20 {
                    settle().await;
                }
                world.clock.advance(LONG);
            }
        };
        let received = tokio::select! {
            biased;
            ((), (), received) = work => received,
            () = hangs => panic!("the connection hangs"),
        };
        let entries = world.journal.entries();
        let entries = &entries[furnished..];
        for entry in entries {
            let (route, status) = (&entry.route, entry.status);
            assert!(
                status.is_none_or(|status| status < 500),
                "{route:.200}: {status:?}"
            );
        }
        // Some are refused by hyper.
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
    use crate::furniture::whole;
    use crate::requests::http_2;

    #[test]
    fn each_whole_request_on_a_connection_has_a_reply() {
        // Those that end a session come last.
        let routes = Route::ALL
            .iter()
            .filter(|route| **route != Route::FinishSession);
        let all = routes.map(|route| whole(*route, "tinker"));
        let all: Vec<Vec<u8>> = all.collect();
        let (received, answered) = replies(&all.concat());
        assert_eq!(answered, all.len());
        let heads = received.windows(9).filter(|part| *part == b"HTTP/1.1 ");
        assert_eq!(heads.count(), all.len());
    }

    #[test]
    fn http_2_is_spoken_where_it_is_begun_with() {
        let [first, ..] = http_2();
        let (received, answered) = replies(&first);
        assert_eq!(answered, 1, "{received:?}");
    }
}
