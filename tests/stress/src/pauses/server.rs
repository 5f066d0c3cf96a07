//! A server on a thread of its own that answers at once, until it is told to refuse one request and to hold the others.

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

use super::{HINT, Scene};

/// From the moment when all connections are full to the refusal: what else there is to come has come by then.
const QUIET: Duration = Duration::from_millis(100);
/// From the refusal to the answers of the others: long enough for the client to read the refusal's head, on a busy machine too.
const OTHERS: Duration = Duration::from_millis(500);
/// From the head of a slow refusal to the end of its body: longer than that.
const SLOW: Duration = Duration::from_millis(900);

pub(super) struct Server {
    url: String,
    desk: Arc<Desk>,
    /// Ends with this.
    _thread: DedicatedThread,
}

/// What was seen of the pause.
pub(super) struct Pause {
    /// When requests arrived after the refusal's head.
    pub(super) arrivals: Vec<Duration>,
    pub(super) refusals: u64,
}

struct Desk {
    scene: Scene,
    time: Arc<dyn Clock>,
    state: Mutex<State>,
    /// When the refusal left, once it did.
    refused: watch::Sender<Option<Timestamp>>,
}

#[derive(Default)]
struct State {
    is_closing_in: bool,
    under_way: usize,
    is_chosen: bool,
    refusals: u64,
    arrivals: Vec<Timestamp>,
}

impl Server {
    pub(super) fn start(scene: Scene) -> Self {
        let thread = DedicatedThread::start("stress-server").expect("the system gives a thread");
        let runtime = thread.runtime();
        let desk = Arc::new(Desk {
            scene,
            time: runtime.time(),
            state: Mutex::default(),
            refused: watch::Sender::default(),
        });
        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let accepting = accept(listener, Arc::clone(&desk), runtime.clone());
        runtime.spawn(Box::pin(accepting)).detach();
        Self {
            url,
            desk,
            _thread: thread,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// From now on requests are held, and one is refused when all connections are full.
    pub(super) fn close_in(&self) {
        self.desk.lock().is_closing_in = true;
    }

    pub(super) fn end(self) -> Pause {
        let refused = *self.desk.refused.borrow();
        let state = self.desk.lock();
        let since = refused.unwrap_or_default();
        let after = state.arrivals.iter().filter(|at| **at >= since);
        Pause {
            arrivals: after.map(|at| at.since(since)).collect(),
            refusals: state.refusals,
        }
    }
}

async fn accept(listener: std::net::TcpListener, desk: Arc<Desk>, runtime: IoRuntime) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let serving = serve(stream, Arc::clone(&desk));
        runtime.spawn(Box::pin(serving)).detach();
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    let _ = stream.set_nodelay(true);
    let (is_http2, streams) = (desk.scene.is_http2, desk.scene.streams);
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let io = TokioIo::new(stream);
    // The client leaves as it likes.
    let _ = if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX));
        builder.serve_connection(io, service).await
    } else {
        http1::Builder::new().serve_connection(io, service).await
    };
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Pieces> {
        let is_chosen = self.arrived();
        let _ = request.into_body().collect().await;
        match is_chosen {
            None => accepted(),
            Some(true) => self.refuse().await,
            Some(false) => {
                let mut refused = self.refused.subscribe();
                // The sender lives as long as this.
                let refused = refused.wait_for(Option::is_some).await.map(|at| *at);
                let refused = refused.ok().flatten().unwrap_or_default();
                self.time.sleep_until(refused.after(OTHERS)).await;
                accepted()
            }
        }
    }

    /// Writes down that a request has come: `None` when it is to be answered at once, otherwise whether it is to be refused.
    fn arrived(&self) -> Option<bool> {
        let at = self.time.now();
        let has_refused = self.refused.borrow().is_some();
        let mut state = self.lock();
        if !state.is_closing_in {
            return None;
        }
        state.arrivals.push(at);
        if has_refused {
            return Some(false);
        }
        state.under_way += 1;
        let is_full = state.under_way >= self.scene.capacity();
        Some(is_full && !std::mem::replace(&mut state.is_chosen, is_full))
    }

    async fn refuse(&self) -> Response<Pieces> {
        self.time.sleep(QUIET).await;
        let mut body = Pieces::of(["{", "}"]);
        if self.scene.is_body_slow {
            body.pause = Some(self.time.sleep(SLOW));
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

fn accepted() -> Response<Pieces> {
    Response::new(Pieces::of(["{}"]))
}

/// A body in pieces, with a pause behind the first where there is one.
struct Pieces {
    rest: VecDeque<Bytes>,
    is_begun: bool,
    pause: Option<BoxFuture<'static, ()>>,
}

impl Pieces {
    fn of<const N: usize>(pieces: [&'static str; N]) -> Self {
        let pieces = pieces.map(|piece| Bytes::from_static(piece.as_bytes()));
        Self {
            rest: pieces.into(),
            is_begun: false,
            pause: None,
        }
    }
}

impl Body for Pieces {
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
        Poll::Ready(self.rest.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}
