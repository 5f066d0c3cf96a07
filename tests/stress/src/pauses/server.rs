//! A server on its own thread. It responds at once until [`Server::start_refusing`] is called. Then it
//! refuses one request and delays the responses to the others.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tinkers_core::{BoxFuture, Clock, Spawn, Timestamp};
use tinkers_transport::{DedicatedThread, IoRuntime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{HINT, Scenario};

/// The time for which the server waits before it sends the 429 response, after requests have filled
/// all connections. Requests that are already on the wire arrive within this time.
const DELAY_OF_429: Duration = Duration::from_millis(100);
/// The time from the 429 response to the responses to the other pending requests, which the server
/// delays. It is long enough for the client to read the head of the 429 response first.
const DELAY_AFTER_429: Duration = Duration::from_millis(500);
/// The time from the head of a slow 429 response to the end of its body. It is longer than
/// [`DELAY_AFTER_429`], so that the body arrives after the other responses.
const SLOW_BODY_DELAY: Duration = Duration::from_millis(900);

/// A running server that refuses exactly one request with 429. Dropping it stops the server.
pub(super) struct Server {
    url: String,
    server_state: Arc<ServerState>,
    _thread: DedicatedThread,
}

/// The requests that the server has received since it sent its 429 response.
pub(super) struct RequestsAround429 {
    /// The arrival times of the requests, relative to the sending of the 429 response.
    pub(super) arrivals: Vec<Duration>,
    pub(super) refusals: u64,
}

struct ServerState {
    scenario: Scenario,
    time: Arc<dyn Clock>,
    state: Mutex<State>,
    /// The time at which the server sent the 429 response. `None` if it was not sent yet.
    refused: watch::Sender<Option<Timestamp>>,
}

#[derive(Default)]
struct State {
    is_refusing: bool,
    under_way: usize,
    is_chosen: bool,
    refusals: u64,
    arrivals: Vec<Timestamp>,
}

impl Server {
    pub(super) fn start(scenario: Scenario) -> Self {
        let thread = DedicatedThread::start("stress-server").expect("the system gives a thread");
        let runtime = thread.runtime();
        let server_state = Arc::new(ServerState {
            scenario,
            time: runtime.clock(),
            state: Mutex::default(),
            refused: watch::Sender::default(),
        });
        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let accepting = accept(listener, Arc::clone(&server_state), runtime.clone());
        runtime.spawn(Box::pin(accepting)).detach();
        Self {
            url,
            server_state,
            _thread: thread,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Makes the server delay the responses to all requests from now on. When all connections are
    /// full, the server refuses one of these requests with 429.
    pub(super) fn start_refusing(&self) {
        self.server_state.lock().is_refusing = true;
    }

    pub(super) fn end(self) -> RequestsAround429 {
        let refused = *self.server_state.refused.borrow();
        let state = self.server_state.lock();
        let since = refused.unwrap_or_default();
        let after = state.arrivals.iter().filter(|at| **at >= since);
        RequestsAround429 {
            arrivals: after.map(|at| at.since(since)).collect(),
            refusals: state.refusals,
        }
    }
}

async fn accept(
    listener: std::net::TcpListener,
    server_state: Arc<ServerState>,
    runtime: IoRuntime,
) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let serving = serve(stream, Arc::clone(&server_state));
        runtime.spawn(Box::pin(serving)).detach();
    }
}

async fn serve(stream: TcpStream, server_state: Arc<ServerState>) {
    let _ = stream.set_nodelay(true);
    let (is_http2, streams) = (
        server_state.scenario.is_http2,
        server_state.scenario.streams,
    );
    let service = service_fn(move |request| {
        let server_state = Arc::clone(&server_state);
        async move { Ok::<_, Infallible>(server_state.answer(request).await) }
    });
    let io = TokioIo::new(stream);
    // The client may close the connection at any time, so the result is ignored.
    let _ = if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX));
        builder.serve_connection(io, service).await
    } else {
        http1::Builder::new().serve_connection(io, service).await
    };
}

impl ServerState {
    async fn answer(&self, request: Request<Incoming>) -> Response<ChunkedBody> {
        let is_chosen = self.arrived();
        let _ = request.into_body().collect().await;
        match is_chosen {
            None => accepted(),
            Some(true) => self.refuse().await,
            Some(false) => {
                let mut refused = self.refused.subscribe();
                // This cannot fail, because the sender is a field of `self`.
                let refused = refused.wait_for(Option::is_some).await.map(|at| *at);
                let refused = refused.ok().flatten().unwrap_or_default();
                self.time.sleep_until(refused.after(DELAY_AFTER_429)).await;
                accepted()
            }
        }
    }

    /// Records that a request has arrived. Returns `None` if the server must accept it at once,
    /// `Some(true)` if the server must refuse it with 429 after a delay, and `Some(false)` if it
    /// must accept it after a delay.
    fn arrived(&self) -> Option<bool> {
        let at = self.time.now();
        let has_refused = self.refused.borrow().is_some();
        let mut state = self.lock();
        if !state.is_refusing {
            return None;
        }
        state.arrivals.push(at);
        if has_refused {
            return Some(false);
        }
        state.under_way += 1;
        let is_full = state.under_way >= self.scenario.capacity();
        Some(is_full && !std::mem::replace(&mut state.is_chosen, is_full))
    }

    async fn refuse(&self) -> Response<ChunkedBody> {
        self.time.sleep(DELAY_OF_429).await;
        let mut body = ChunkedBody::of(["{", "}"]);
        if self.scenario.is_body_slow {
            body.pause = Some(self.time.sleep(SLOW_BODY_DELAY));
        }
        self.lock().refusals += 1;
        self.refused.send_replace(Some(self.time.now()));
        let response = Response::builder()
            .status(429)
            .header("retry-after-ms", HINT.as_millis().to_string());
        response.body(body).expect("a valid head")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accepted() -> Response<ChunkedBody> {
    Response::new(ChunkedBody::of(["{}"]))
}

/// A response body that is sent in chunks, with an optional pause after the first chunk, which
/// makes the response slow.
struct ChunkedBody {
    rest: VecDeque<Bytes>,
    is_begun: bool,
    pause: Option<BoxFuture<'static, ()>>,
}

impl ChunkedBody {
    fn of<const N: usize>(chunks: [&'static str; N]) -> Self {
        let chunks = chunks.map(|chunk| Bytes::from_static(chunk.as_bytes()));
        Self {
            rest: chunks.into(),
            is_begun: false,
            pause: None,
        }
    }
}

impl Body for ChunkedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_begun
            && let Some(pause) = &mut self.pause
        {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        self.is_begun = true;
        Poll::Ready(self.rest.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }
}
