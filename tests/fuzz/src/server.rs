//! The embedded server under any request.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tinkers_core::{BoxFuture, ManualClock, Spawn, Task};
use tinkers_local::{LocalConfig, LocalServer, Request, ScriptedEngine};
use tinkers_wire::routes;

/// A server lives through so many requests, so that one finds what others left behind.
const LIFE: u32 = 500;
/// The most that a body may come to.
pub(crate) const MAX_BODY: usize = 1 << 20;

thread_local! {
    static SERVER: RefCell<Option<(LocalServer, u32)>> = const { RefCell::new(None) };
}

/// Timers do nothing: no time passes.
#[derive(Debug)]
struct Nowhere;

impl Spawn for Nowhere {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        drop(work);
        Task::new(|| ())
    }
}

/// The first bytes choose the route and the headers, the rest is the body.
pub(crate) fn any_request(bytes: &[u8]) {
    let server = SERVER.with_borrow_mut(|slot| {
        let (server, left) = match slot.take() {
            Some((server, left)) if left > 0 => (server, left),
            _ => (start(), LIFE),
        };
        *slot = Some((server.clone(), left - 1));
        server
    });
    let (head, body) = bytes.split_at(bytes.len().min(3));
    let byte = |i: usize| head.get(i).copied().unwrap_or_default();
    let route = routes::ALL[usize::from(byte(0)) % routes::ALL.len()];
    let method = match byte(1) >> 6 {
        0 => Method::GET,
        1 => Method::DELETE,
        _ => Method::POST,
    };
    let mut headers = HeaderMap::new();
    let kinds = ["application/json", "application/x-protobuf", "text/plain"];
    if let Some(kind) = kinds.get(usize::from(byte(1) & 3)) {
        let name = HeaderName::from_static("content-type");
        headers.insert(name, HeaderValue::from_static(kind));
    }
    if let Some(coding) = ["zstd", "gzip", "br"].get(usize::from(byte(2) & 7)) {
        let name = HeaderName::from_static("content-encoding");
        headers.insert(name, HeaderValue::from_static(coding));
    }
    let request = Request {
        method,
        path: route.to_owned(),
        headers,
        body: Bytes::copy_from_slice(body),
    };
    let mut exchange = pin!(server.exchange(request));
    // What is held, such as a poll, is given up.
    match exchange
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(Ok(response)) => {
            assert!(
                !response.status.is_server_error(),
                "{route} answered {} to {}",
                response.status,
                String::from_utf8_lossy(body)
            );
        }
        Poll::Ready(Err(_)) | Poll::Pending => {}
    }
}

fn start() -> LocalServer {
    let mut config = LocalConfig::default();
    config.max_body = MAX_BODY;
    LocalServer::builder(
        Arc::new(ScriptedEngine::default()),
        Arc::new(ManualClock::new()),
        Arc::new(Nowhere),
    )
    .config(config)
    .build()
    .expect("an engine without checkpoints")
}
