//! Servers on loopback for the tests, on a runtime of their own, and what they saw.
#![expect(dead_code, reason = "each test binary uses its part")]

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tinkers_core::{HttpRequest, RouteClass};
use tinkers_transport::{HttpTransport, HttpTransportBuilder, IoRuntime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

pub(crate) mod frames;
pub(crate) mod secure;

/// Servers live here, whatever becomes of a test's own runtime.
pub(crate) static SERVERS: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("test-server")
        .enable_all()
        .build()
        .expect("a runtime for the servers")
});

pub(crate) type Answer = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;

/// A request as the server saw it, its body read.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    journal: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Speak {
    Http1,
    Http2,
}

impl Server {
    /// Answers each request with what `handler` makes of it.
    pub(crate) fn start(
        speak: Speak,
        handler: impl Fn(Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let handler = Arc::new(handler);
        let journal = Arc::new(Mutex::new(Vec::new()));
        let (address, connections) = listen({
            let journal = Arc::clone(&journal);
            move |stream, connection| {
                serve(
                    stream,
                    speak,
                    connection,
                    Arc::clone(&journal),
                    Arc::clone(&handler),
                )
            }
        });
        Self {
            address,
            connections,
            journal,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.journal.lock().expect("no panic").clone()
    }
}

/// Serves one connection, of any kind of stream.
pub(crate) async fn serve<S>(
    stream: S,
    speak: Speak,
    connection: usize,
    journal: Arc<Mutex<Vec<Seen>>>,
    handler: Arc<impl Fn(Seen) -> Answer + Send + Sync + 'static>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (journal, handler) = (Arc::clone(&journal), Arc::clone(&handler));
        async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await else {
                return Ok::<_, Infallible>(Response::new(Full::default()));
            };
            let seen = Seen {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                body: body.to_bytes(),
                connection,
            };
            journal.lock().expect("no panic").push(seen.clone());
            Ok(handler(seen).await)
        }
    });
    let io = TokioIo::new(stream);
    // Clients leave as they like; that is no failure of the server's.
    let _ = match speak {
        Speak::Http1 => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .await
        }
        Speak::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await
        }
    };
}

/// Accepts connections and runs `each` on them, with their number from 0.
pub(crate) fn listen<F>(
    each: impl Fn(TcpStream, usize) -> F + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("non-blocking");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicUsize::new(0));
    let connections = Arc::clone(&count);
    SERVERS.spawn(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        while let Ok((stream, _)) = listener.accept().await {
            let number = count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(each(stream, number));
        }
    });
    (address, connections)
}

/// Reads the head of an HTTP/1.1 request, byte by byte, so that nothing behind it is lost; `None` at the end of the stream.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).expect("text"))
}

pub(crate) async fn write(stream: &mut TcpStream, text: &str) {
    stream
        .write_all(text.as_bytes())
        .await
        .expect("the client reads");
}

/// Waits for the client to close its end.
pub(crate) async fn closed(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
}

pub(crate) fn answer(body: impl Into<Bytes>) -> Answer {
    let response = Response::new(Full::new(body.into()));
    Box::pin(async move { response })
}

pub(crate) fn respond(response: Response<Full<Bytes>>) -> Answer {
    Box::pin(async move { response })
}

/// A builder on the shared runtime.
pub(crate) fn client(url: &str) -> HttpTransportBuilder {
    HttpTransport::builder(url).runtime(IoRuntime::shared().expect("a runtime"))
}

pub(crate) fn get(path: &str, class: RouteClass) -> HttpRequest {
    HttpRequest::new(Method::GET, path, class)
}

pub(crate) fn post(path: &str, class: RouteClass, body: impl Into<Bytes>) -> HttpRequest {
    let mut request = HttpRequest::new(Method::POST, path, class);
    request.body = body.into();
    request
}

/// Lets others run until `condition` holds; panics when it does not come true in so many turns that it never will.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..TURNS {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("what was waited for does not happen");
}

const TURNS: usize = 50_000_000;
