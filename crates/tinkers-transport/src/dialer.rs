//! Opening of connections: TCP, proxy tunnels, TLS, and the HTTP/2 preface.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper::client::conn::{http1, http2};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tinkers_core::{BoxFuture, Clock, Origin, Scheme, Sent, Timestamp, TransportError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tower_service::Service;

use crate::connection::Connection;
use crate::errors;
use crate::first_bytes::{FirstBytes, ObservedStream};
use crate::proxy::{ProxyConfig, ProxyRoute};
use crate::tls::{HttpVersions, Tls};

/// A connection that has just been opened.
pub(crate) struct NewConnection {
    pub(crate) connection: Connection,
    /// The future that does the I/O of the connection. The caller must poll this future until it ends.
    pub(crate) driver: Driver,
    /// The maximum number of concurrent streams (requests) that the server allows, and its later changes; `None` for HTTP/1.1.
    pub(crate) max_streams: Option<watch::Receiver<usize>>,
}

pub(crate) type Driver = BoxFuture<'static, Result<(), hyper::Error>>;

/// A factory of connections to any origin (scheme, host and port). Each attempt resolves the host name again, so that a host with a new
/// address is found.
#[derive(Debug)]
pub(crate) struct Dialer<R = GaiResolver> {
    tcp: HttpConnector<R>,
    tls: Tls,
    proxy: ProxyConfig,
    versions: HttpVersions,
}

/// The time limit for opening one connection. It covers the TCP connection, the tunnel of a proxy, and the TLS and HTTP/2 handshakes.
#[derive(Clone, Copy)]
pub(crate) struct DialTimeout<'a> {
    clock: &'a dyn Clock,
    timeout: Duration,
    deadline: Timestamp,
}

impl<'a> DialTimeout<'a> {
    /// Starts the time limit for opening one connection. It is 5 % shorter than `connect`, the timeout of the request that waits for the
    /// connection, so that it passes first: its error names the slow step, such as the TLS handshake.
    pub(crate) fn new(connect: Duration, clock: &'a dyn Clock) -> Self {
        let timeout = connect - connect / 20;
        let deadline = clock.now().after(timeout);
        Self {
            clock,
            timeout,
            deadline,
        }
    }

    async fn step<F: Future + Send>(
        &self,
        work: F,
        late: impl FnOnce(Duration) -> TransportError,
    ) -> Result<F::Output, TransportError> {
        let done = self.clock.deadline(self.deadline, work).await;
        done.ok_or_else(|| late(self.timeout))
    }
}

/// The time without traffic after which a keep-alive ping is sent to the peer. Applies to idle connections, too. If the peer does not reply
/// to the ping within the same time, the connection is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The flow-control window of an HTTP/2 stream in bytes. It is larger than the default of 64 KiB, since results may be many megabytes, and
/// each full window costs a round trip.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

impl Dialer {
    pub(crate) fn new(tls: Tls, proxy: ProxyConfig, versions: HttpVersions) -> Self {
        Self::with_connector(HttpConnector::new(), tls, proxy, versions)
    }
}

impl<R> Dialer<R> {
    fn with_connector(
        mut tcp: HttpConnector<R>,
        tls: Tls,
        proxy: ProxyConfig,
        versions: HttpVersions,
    ) -> Self {
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        Self {
            tcp,
            tls,
            proxy,
            versions,
        }
    }

    /// Returns whether a connection to `origin` may turn out to be an HTTP/2 connection, which carries concurrent requests.
    pub(crate) fn may_multiplex(&self, origin: &Origin) -> bool {
        match self.versions {
            HttpVersions::Negotiate => origin.scheme() == Scheme::Https,
            HttpVersions::Http1 => false,
            HttpVersions::Http2PriorKnowledge => true,
        }
    }
}

impl<R: Sync> Dialer<R>
where
    HttpConnector<R>: Service<Uri, Response = TokioIo<TcpStream>> + Clone + Send + 'static,
    <HttpConnector<R> as Service<Uri>>::Error: std::error::Error + Send + Sync + 'static,
    <HttpConnector<R> as Service<Uri>>::Future: Send,
{
    /// Opens a connection to the origin of the base URL. No part of a request is sent, so the `sent` state of every error is `NotSent`.
    ///
    /// Must run in the context of a tokio runtime.
    pub(crate) async fn dial(
        &self,
        origin: &Origin,
        timeout: DialTimeout<'_>,
    ) -> Result<NewConnection, TransportError> {
        self.open(origin, self.versions, true, timeout).await
    }

    /// Opens a connection to the other origin to which a response redirects. The client certificate is not sent to this origin, and HTTP/2
    /// is not used without negotiation.
    pub(crate) async fn dial_foreign(
        &self,
        origin: &Origin,
        timeout: DialTimeout<'_>,
    ) -> Result<NewConnection, TransportError> {
        let versions = match self.versions {
            HttpVersions::Http2PriorKnowledge => HttpVersions::Negotiate,
            versions => versions,
        };
        self.open(origin, versions, false, timeout).await
    }

    async fn open(
        &self,
        origin: &Origin,
        versions: HttpVersions,
        is_trusted: bool,
        timeout: DialTimeout<'_>,
    ) -> Result<NewConnection, TransportError> {
        let route = self.proxy.route(origin)?;
        let prior_knowledge = versions == HttpVersions::Http2PriorKnowledge;
        match (origin.scheme(), route) {
            (Scheme::Http, Some(route)) if !prior_knowledge => {
                let proxy = route.host_and_port();
                let stream = self.connect(route.address.clone(), &proxy, timeout).await?;
                let first_bytes = stream.first_bytes();
                http1_connection(stream, first_bytes, Some(route), origin).await
            }
            (Scheme::Http, route) => {
                let mut stream = self.stream(origin, route, timeout).await?;
                let first_bytes = stream.restart();
                if prior_knowledge {
                    let drained = stream.drained();
                    http2_connection(drained, stream, first_bytes, origin, timeout).await
                } else {
                    http1_connection(stream, first_bytes, None, origin).await
                }
            }
            (Scheme::Https, route) => {
                let (connector, name) = self.tls.connector(origin, versions, is_trusted)?;
                let mut stream = self.stream(origin, route, timeout).await?;
                let (first_bytes, drained) = (stream.restart(), stream.drained());
                let late = |timeout| errors::no_handshake(origin, timeout);
                let stream = timeout.step(connector.connect(name, stream), late).await?;
                let stream = stream.map_err(|error| {
                    let trust = self.tls.root_variables();
                    errors::handshake(origin, first_bytes.protocol(), trust, error)
                })?;
                // The bytes that follow are encrypted and do not show the protocol.
                let first_bytes = FirstBytes::default();
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if is_http2 || prior_knowledge {
                    http2_connection(drained, stream, first_bytes, origin, timeout).await
                } else {
                    http1_connection(stream, first_bytes, None, origin).await
                }
            }
        }
    }

    /// Opens a TCP connection to `origin`, or a tunnel to it through the proxy if `route` names one.
    async fn stream(
        &self,
        origin: &Origin,
        route: Option<ProxyRoute>,
        timeout: DialTimeout<'_>,
    ) -> Result<ObservedStream<TcpStream>, TransportError> {
        let target = dial_uri(origin)?;
        let Some(route) = route else {
            return self.connect(target, &origin.address(), timeout).await;
        };
        let proxy = route.host_and_port();
        let stream = self.connect(route.address.clone(), &proxy, timeout).await?;
        let first_bytes = stream.first_bytes();
        // `Tunnel` drops the bytes that it reads behind the proxy's response, such as the greeting of a server that speaks first.
        // Bytewise reading prevents that.
        let connector = ReadyConnector(Some(stream.bytewise()));
        let mut tunnel = Tunnel::new(route.address.clone(), connector);
        if let Some(authorization) = route.authorization.clone() {
            tunnel = tunnel.with_auth(authorization);
        }
        let late = |timeout| errors::no_tunnel(origin, &proxy, timeout);
        let stream = timeout.step(tunnel.call(target), late).await?;
        let refused = |error| errors::tunnel(origin, &proxy, first_bytes.protocol(), error);
        Ok(stream.map_err(refused)?.into_inner())
    }

    /// Opens a TCP connection to the host of `uri`. Tries the IP addresses of the host one after the other.
    async fn connect(
        &self,
        uri: Uri,
        address: &str,
        timeout: DialTimeout<'_>,
    ) -> Result<ObservedStream<TcpStream>, TransportError> {
        let mut tcp = self.tcp.clone();
        // Divided among the addresses, so that an unresponsive one leaves time for the next.
        tcp.set_connect_timeout(Some(timeout.timeout));
        let late = |timeout| errors::not_connected(address, timeout);
        let stream = timeout.step(tcp.call(uri), late).await?;
        let stream = stream.map_err(|error| errors::unreachable(address, error))?;
        Ok(ObservedStream::new(stream.into_inner()))
    }
}

/// A connector that returns a connection that is already open. The proxy tunnel needs it, since it accepts only a connector and not a
/// connection.
struct ReadyConnector(Option<ObservedStream<TcpStream>>);

impl Service<Uri> for ReadyConnector {
    type Response = TokioIo<ObservedStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let used = std::io::Error::other("the connection is already in use");
        std::future::ready(self.0.take().map(TokioIo::new).ok_or(used))
    }
}

fn dial_uri(origin: &Origin) -> Result<Uri, TransportError> {
    // With the port, which the connector and the tunnel would otherwise guess.
    format!("{}://{}/", origin.scheme().name(), origin.address())
        .parse()
        .map_err(|error: http::uri::InvalidUri| errors::unreachable(&origin.address(), error))
}

async fn http1_connection<T>(
    io: T,
    first_bytes: FirstBytes,
    proxy: Option<ProxyRoute>,
    origin: &Origin,
) -> Result<NewConnection, TransportError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| errors::broken(origin, Sent::NotSent, error))?;
    Ok(NewConnection {
        connection: Connection::http1(sender, first_bytes, proxy),
        driver: Box::pin(driver),
        max_streams: None,
    })
}

/// Sets up HTTP/2 and waits for the settings of the server. Until then the stream limit of the server is unknown, and requests beyond the
/// limit would wait inside h2.
async fn http2_connection<T>(
    drained: Arc<Notify>,
    io: T,
    first_bytes: FirstBytes,
    origin: &Origin,
    timeout: DialTimeout<'_>,
) -> Result<NewConnection, TransportError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, mut http2) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        // Detects a lost peer before the next request is lost on the connection.
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Until the settings of the server arrive.
        .initial_max_send_streams(0)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| errors::broken(origin, Sent::NotSent, error))?;
    let (set_max_streams, mut max_streams) = watch::channel(0);
    let connection = Connection::http2(sender, max_streams.clone());
    let mut driver: Driver = Box::pin(async move {
        loop {
            tokio::select! {
                biased;
                done = &mut http2 => return done,
                // hyper has no event for settings: they are in force when all received bytes were read.
                () = drained.notified() => {
                    let current = http2.current_max_send_streams();
                    set_max_streams.send_if_modified(|known| std::mem::replace(known, current) != current);
                }
            }
        }
    });
    let ready = async {
        tokio::select! {
            biased;
            // The sender lives in the driver.
            changed = max_streams.changed() => changed.map_err(|_| None),
            ended = &mut driver => Err(ended.err()),
        }
    };
    let late = |timeout| errors::no_settings(origin, first_bytes.protocol(), timeout);
    let ready = timeout.step(ready, late).await?;
    ready.map_err(|error| errors::not_http2(origin, first_bytes.protocol(), error))?;
    Ok(NewConnection {
        connection,
        driver,
        max_streams: Some(max_streams),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use hyper_util::client::legacy::connect::dns::Name;
    use tinkers_core::{BaseUrl, TransportErrorKind};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::io_runtime::IoRuntime;

    /// A fake resolver of host names. Each lookup returns the next of the given address lists. When only one list is left, every further
    /// lookup returns this list.
    #[derive(Clone)]
    struct FakeResolver {
        results: Arc<Mutex<Vec<Vec<SocketAddr>>>>,
        lookups: Arc<AtomicUsize>,
    }

    impl FakeResolver {
        fn new(results: impl Into<Vec<Vec<SocketAddr>>>) -> Self {
            Self {
                results: Arc::new(Mutex::new(results.into())),
                lookups: Arc::default(),
            }
        }
    }

    impl Service<Name> for FakeResolver {
        type Response = std::vec::IntoIter<SocketAddr>;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Name) -> Self::Future {
            self.lookups.fetch_add(1, Ordering::SeqCst);
            let mut results = self.results.lock().unwrap();
            let addresses = if results.len() > 1 {
                results.remove(0)
            } else {
                results[0].clone()
            };
            std::future::ready(Ok(addresses.into_iter()))
        }
    }

    async fn dial(
        resolver: &FakeResolver,
        connect: Duration,
    ) -> Result<NewConnection, TransportError> {
        let tcp = HttpConnector::new_with_resolver(resolver.clone());
        let (tls, proxy) = (Tls::default(), ProxyConfig::none());
        let dialer = Dialer::with_connector(tcp, tls, proxy, HttpVersions::Http1);
        // The port of the URL is dialled, so all listeners share it.
        let port = resolver.results.lock().unwrap()[0][0].port();
        let url = BaseUrl::parse(&format!("http://moved.test:{port}")).expect("valid");
        dialer
            .dial(url.origin(), DialTimeout::new(connect, &*clock()))
            .await
    }

    /// Listens on the same port of two loopback addresses. Connections to the first address are never accepted, since its queue of pending
    /// connections (backlog) is full. The second address accepts connections.
    async fn dead_and_live() -> (SocketAddr, SocketAddr, Backlog, TcpListener) {
        let live = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let live_at = live.local_addr().unwrap();
        let dead_at = SocketAddr::from(([127, 0, 0, 1], live_at.port()));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(dead_at).unwrap();
        let dead = socket.listen(1).unwrap();
        // A connection attempt that takes long shows that the backlog is full.
        let mut backlog = Vec::new();
        let clock = clock();
        loop {
            let deadline = clock.now().after(Duration::from_millis(200));
            match clock.deadline(deadline, TcpStream::connect(dead_at)).await {
                Some(stream) => backlog.push(stream.unwrap()),
                None => break,
            }
        }
        (dead_at, live_at, (dead, backlog), live)
    }

    /// A listener that accepts no connections, and the open connections that fill its queue of pending connections (backlog).
    type Backlog = (TcpListener, Vec<TcpStream>);

    fn clock() -> Arc<dyn Clock> {
        IoRuntime::from_handle(tokio::runtime::Handle::current()).clock()
    }

    #[tokio::test]
    async fn next_address_is_tried_in_time_if_the_first_does_not_respond() {
        let (dead, live, _backlog, listener) = dead_and_live().await;
        let resolver = FakeResolver::new([vec![dead, live]]);
        let dialed = dial(&resolver, Duration::from_secs(2)).await;
        dialed.map(|_| ()).expect("the second address serves");
        let (_, _) = listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn connection_to_an_unresponsive_address_is_a_connect_error() {
        let (dead, _, _backlog, _listener) = dead_and_live().await;
        let resolver = FakeResolver::new([vec![dead]]);
        let error = match dial(&resolver, Duration::from_millis(400)).await {
            Ok(_) => panic!("the backlog is full"),
            Err(error) => error,
        };
        assert_eq!(error.sent, Sent::NotSent);
        assert!(
            matches!(
                error.kind,
                TransportErrorKind::Timeout | TransportErrorKind::Connect
            ),
            "{error}"
        );
        assert!(error.to_string().contains("moved.test"), "{error}");
    }

    #[tokio::test]
    async fn each_new_connection_resolves_the_host_again() {
        let live = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let live_at = live.local_addr().unwrap();
        // There is no listener on this port of the first address.
        let unused = SocketAddr::from(([127, 0, 0, 3], live_at.port()));
        let resolver = FakeResolver::new([vec![unused], vec![live_at]]);
        let limit = Duration::from_secs(5);
        assert!(dial(&resolver, limit).await.is_err());
        dial(&resolver, limit)
            .await
            .map(|_| ())
            .expect("the new address serves");
        assert_eq!(resolver.lookups.load(Ordering::SeqCst), 2);
    }
}
