//! Test servers on loopback, which run on a runtime of their own and record their requests.
#![expect(dead_code, reason = "each test binary uses a part of this module")]

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tinkers_core::{HttpRequest, HttpResponse, RouteClass, Transport, TransportError};
use tinkers_transport::{HttpTransport, HttpTransportBuilder, HttpVersions, IoRuntime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub(crate) mod frames;
pub(crate) mod secure;

/// The runtime of the test servers, which outlives the runtimes of single tests.
pub(crate) static SERVERS: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("test-server")
        .enable_all()
        .build()
        .expect("a runtime for the servers")
});

pub(crate) type ResponseFuture = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;

/// The header of API keys.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Returns the value of a header with a secret.
pub(crate) fn secret(text: &'static str) -> HeaderValue {
    let mut value = HeaderValue::from_static(text);
    value.set_sensitive(true);
    value
}

/// A request that the test server has received.
#[derive(Debug, Clone)]
pub(crate) struct RecordedRequest {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) connection: usize,
}

impl RecordedRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    journal: Arc<Mutex<Vec<RecordedRequest>>>,
}

#[derive(Clone, Copy)]
pub(crate) enum ServerVersion {
    Http1,
    Http2,
}

impl Server {
    /// Starts a test server that responds to each request with the result of `handler`.
    pub(crate) fn start(
        server_version: ServerVersion,
        handler: impl Fn(RecordedRequest) -> ResponseFuture + Send + Sync + 'static,
    ) -> Self {
        let handler = Arc::new(handler);
        let journal = Arc::new(Mutex::new(Vec::new()));
        let (address, connections) = listen({
            let journal = Arc::clone(&journal);
            move |stream, connection| {
                serve(
                    stream,
                    server_version,
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

    /// Returns the number of connections that the test server has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.journal.lock().expect("no panic").clone()
    }
}

/// Serves the requests of one connection with the handler of the test server.
pub(crate) async fn serve<S>(
    stream: S,
    server_version: ServerVersion,
    connection: usize,
    journal: Arc<Mutex<Vec<RecordedRequest>>>,
    handler: Arc<impl Fn(RecordedRequest) -> ResponseFuture + Send + Sync + 'static>,
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
            let recorded = RecordedRequest {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                body: body.to_bytes(),
                connection,
            };
            journal.lock().expect("no panic").push(recorded.clone());
            Ok(handler(recorded).await)
        }
    });
    let io = TokioIo::new(stream);
    // Clients may close the connection at any time.
    let _ = match server_version {
        ServerVersion::Http1 => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .await
        }
        ServerVersion::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await
        }
    };
}

/// Listens on a free port, accepts connections, and calls `each` with each connection and its index, from 0. Returns the address of the
/// listener, and the counter of accepted connections.
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

/// Reads the head of an HTTP/1.1 request, and no bytes after the head. Returns `None` at the end of the stream.
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

/// Waits until the client closes the connection.
pub(crate) async fn closed(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
}

pub(crate) fn respond_with(body: impl Into<Bytes>) -> ResponseFuture {
    let response = Response::new(Full::new(body.into()));
    Box::pin(async move { response })
}

pub(crate) fn respond(response: Response<Full<Bytes>>) -> ResponseFuture {
    Box::pin(async move { response })
}

/// Returns a builder of a transport to `url` on the shared runtime.
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

/// Yields to other tasks until `condition` returns true. Panics after 50 million attempts.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..TURNS {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the condition is never met");
}

const TURNS: usize = 50_000_000;

/// The two HTTP versions to test, HTTP/1.1 and HTTP/2: each as the setting of the test server and as the setting of the client.
pub(crate) const BOTH: [(ServerVersion, HttpVersions); 2] = [
    (ServerVersion::Http1, HttpVersions::Http1),
    (ServerVersion::Http2, HttpVersions::Http2PriorKnowledge),
];

pub(crate) type Sending = JoinHandle<Result<HttpResponse, TransportError>>;

/// Sends a request in a new task, and returns the handle of the task.
pub(crate) fn spawn(transport: &HttpTransport, request: HttpRequest) -> Sending {
    let transport = transport.clone();
    tokio::spawn(async move { transport.send(request).await })
}

/// Starts a test server that responds to a request for `/held` only when the test adds a permit to the returned semaphore. The server
/// responds to other requests at once.
pub(crate) fn holding_server(server_version: ServerVersion) -> (Server, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let server = Server::start(server_version, {
        let permits = Arc::clone(&permits);
        move |recorded| {
            let permits = Arc::clone(&permits);
            Box::pin(async move {
                if recorded.uri.path() == "/held" {
                    permits.acquire().await.expect("open").forget();
                }
                Response::default()
            })
        }
    });
    (server, permits)
}
