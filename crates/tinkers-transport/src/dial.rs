//! Opens connections: TCP, a proxy's tunnel, TLS, and the first frames of HTTP/2.

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
use tokio::sync::watch;
use tower_service::Service;

use crate::failure;
use crate::first_bytes::{FirstBytes, Observed};
use crate::link::Link;
use crate::proxy::{ProxyConfig, ProxyRoute};
use crate::tls::{Protocol, Tls};

/// An open connection: what sends on it, and what must be polled for it to move.
pub(crate) struct Dialed {
    pub(crate) link: Link,
    pub(crate) driver: Driver,
    /// How many streams the server allows, where the connection carries several.
    pub(crate) allowed: Option<watch::Receiver<usize>>,
}

pub(crate) type Driver = BoxFuture<'static, Result<(), hyper::Error>>;

/// Opens connections to any origin, on the runtime that polls it. Each looks the name up anew, so that one that has moved is
/// found where it is.
#[derive(Debug)]
pub(crate) struct Dialer<R = GaiResolver> {
    tcp: HttpConnector<R>,
    tls: Tls,
    proxy: ProxyConfig,
    protocol: Protocol,
}

/// How long opening one connection may take, all of its steps together.
#[derive(Clone, Copy)]
pub(crate) struct DialLimit<'a> {
    time: &'a dyn Clock,
    length: Duration,
    at: Timestamp,
}

impl<'a> DialLimit<'a> {
    /// A little less than `connect` from now: what is dialled for a request ends before the request's own wait does, and tells
    /// it at which step.
    pub(crate) fn within(connect: Duration, time: &'a dyn Clock) -> Self {
        let length = connect - connect / 20;
        let at = time.now().after(length);
        Self { time, length, at }
    }

    async fn step<F: Future + Send>(
        &self,
        work: F,
        late: impl FnOnce(Duration) -> TransportError,
    ) -> Result<F::Output, TransportError> {
        let done = self.time.deadline(self.at, work).await;
        done.ok_or_else(|| late(self.length))
    }
}

/// A peer that is gone without a word is noticed after this long without traffic, twice; also while nothing is under way.
const SILENCE: Duration = Duration::from_secs(20);
/// One result may be many megabytes; a window that fits them saves a round trip for each 64 KiB.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

impl Dialer {
    pub(crate) fn new(tls: Tls, proxy: ProxyConfig, protocol: Protocol) -> Self {
        Self::over(HttpConnector::new(), tls, proxy, protocol)
    }
}

impl<R> Dialer<R> {
    fn over(mut tcp: HttpConnector<R>, tls: Tls, proxy: ProxyConfig, protocol: Protocol) -> Self {
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(SILENCE));
        tcp.set_keepalive_interval(Some(SILENCE));
        Self {
            tcp,
            tls,
            proxy,
            protocol,
        }
    }

    /// Whether a connection to `origin` may turn out to carry many requests at a time.
    pub(crate) fn may_multiplex(&self, origin: &Origin) -> bool {
        match self.protocol {
            Protocol::Negotiate => origin.scheme() == Scheme::Https,
            Protocol::Http1 => false,
            Protocol::Http2PriorKnowledge => true,
        }
    }
}

impl<R> Dialer<R>
where
    HttpConnector<R>: Service<Uri, Response = TokioIo<TcpStream>> + Clone + Send + 'static,
    <HttpConnector<R> as Service<Uri>>::Error: std::error::Error + Send + Sync + 'static,
    <HttpConnector<R> as Service<Uri>>::Future: Send,
{
    /// Opens a connection to `origin`, of which the settings speak. No byte of any request is sent, so every failure is
    /// `NotSent`.
    pub(crate) async fn dial(
        &self,
        origin: &Origin,
        limit: DialLimit<'_>,
    ) -> Result<Dialed, TransportError> {
        self.open(origin, self.protocol, limit).await
    }

    /// The same to an origin that a redirect leads to. What is known of the own one says nothing of it.
    pub(crate) async fn dial_foreign(
        &self,
        origin: &Origin,
        limit: DialLimit<'_>,
    ) -> Result<Dialed, TransportError> {
        let protocol = match self.protocol {
            Protocol::Http2PriorKnowledge => Protocol::Negotiate,
            protocol => protocol,
        };
        self.open(origin, protocol, limit).await
    }

    async fn open(
        &self,
        origin: &Origin,
        protocol: Protocol,
        limit: DialLimit<'_>,
    ) -> Result<Dialed, TransportError> {
        let route = self.proxy.route(origin)?;
        let multiplexed = protocol == Protocol::Http2PriorKnowledge;
        match (origin.scheme(), route) {
            (Scheme::Http, Some(route)) if !multiplexed => {
                let stream = self
                    .connect(route.address.clone(), &route.place(), limit)
                    .await?;
                let first = stream.first();
                let mut dialed = single(stream, first, origin).await?;
                dialed.link.through(route);
                Ok(dialed)
            }
            (Scheme::Http, route) => {
                let mut stream = self.stream(origin, route, limit).await?;
                let first = stream.restart();
                if multiplexed {
                    shared(stream.drained(), stream, first, origin, limit).await
                } else {
                    single(stream, first, origin).await
                }
            }
            (Scheme::Https, route) => {
                let (connector, name) = self.tls.connector(origin, protocol)?;
                let mut stream = self.stream(origin, route, limit).await?;
                let (first, drained) = (stream.restart(), stream.drained());
                let late = |length| failure::no_handshake(origin, length);
                let stream = limit.step(connector.connect(name, stream), late).await?;
                let stream = stream.map_err(|error| {
                    let trust = self.tls.trust();
                    failure::handshake(origin, first.protocol(), trust, error)
                })?;
                // What comes from here on is encrypted and says nothing.
                let first = FirstBytes::default();
                let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if agreed || multiplexed {
                    shared(drained, stream, first, origin, limit).await
                } else {
                    single(stream, first, origin).await
                }
            }
        }
    }

    /// Bytes to and from `origin`, through a tunnel where there is a proxy.
    async fn stream(
        &self,
        origin: &Origin,
        route: Option<ProxyRoute>,
        limit: DialLimit<'_>,
    ) -> Result<Observed<TcpStream>, TransportError> {
        let target = dial_uri(origin)?;
        let Some(route) = route else {
            return self.connect(target, &origin.address(), limit).await;
        };
        let place = route.place();
        let stream = self.connect(route.address.clone(), &place, limit).await?;
        let first = stream.first();
        // The connection is open already: all that is left to the tunnel is to ask for it. It would read on behind the proxy's
        // answer, and so drop the first words of a server that speaks first.
        let opened = Opened(Some(stream.bytewise()));
        let mut tunnel = Tunnel::new(route.address.clone(), opened);
        if let Some(authorization) = route.authorization.clone() {
            tunnel = tunnel.with_auth(authorization);
        }
        let late = |length| failure::no_tunnel(origin, &place, length);
        let stream = limit.step(tunnel.call(target), late).await?;
        let refused = |error| failure::tunnel(origin, &place, first.protocol(), error);
        Ok(stream.map_err(refused)?.into_inner())
    }

    /// TCP, to each address of the host in turn until one takes the connection, within the limit.
    async fn connect(
        &self,
        uri: Uri,
        place: &str,
        limit: DialLimit<'_>,
    ) -> Result<Observed<TcpStream>, TransportError> {
        let mut tcp = self.tcp.clone();
        // Shared among the addresses, so that one which swallows all packets leaves time for the next.
        tcp.set_connect_timeout(Some(limit.length));
        let late = |length| failure::not_connected(place, length);
        let stream = limit.step(tcp.call(uri), late).await?;
        let stream = stream.map_err(|error| failure::unreachable(place, error))?;
        Ok(Observed::new(stream.into_inner()))
    }
}

/// A connector that gives the connection that it holds, once.
struct Opened(Option<Observed<TcpStream>>);

impl Service<Uri> for Opened {
    type Response = TokioIo<Observed<TcpStream>>;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let taken = std::io::Error::other("the connection is taken");
        std::future::ready(self.0.take().map(TokioIo::new).ok_or(taken))
    }
}

fn dial_uri(origin: &Origin) -> Result<Uri, TransportError> {
    // Always with its port, which the connector and the tunnel would otherwise guess.
    format!("{}://{}/", origin.scheme().name(), origin.address())
        .parse()
        .map_err(|error: http::uri::InvalidUri| failure::unreachable(&origin.address(), error))
}

async fn single<T>(io: T, first: FirstBytes, origin: &Origin) -> Result<Dialed, TransportError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| failure::broken(origin, Sent::NotSent, error))?;
    Ok(Dialed {
        link: Link::single(sender, first),
        driver: Box::pin(connection),
        allowed: None,
    })
}

/// Waits for the server's settings: before they are there nobody knows how many streams it allows, and what is sent beyond
/// that would wait inside of h2.
async fn shared<T>(
    drained: std::sync::Arc<tokio::sync::Notify>,
    io: T,
    first: FirstBytes,
    origin: &Origin,
    limit: DialLimit<'_>,
) -> Result<Dialed, TransportError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        // A peer that went away while nothing was under way is noticed before the next request is lost on the connection.
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Until the server's settings say more.
        .initial_max_send_streams(0)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| failure::broken(origin, Sent::NotSent, error))?;
    let (tell, mut allowed) = watch::channel(0);
    let link = Link::shared(sender, allowed.clone());
    let mut driver: Driver = Box::pin(async move {
        loop {
            tokio::select! {
                biased;
                done = &mut connection => return done,
                // The settings are no event of their own: they are in force when all that has come was read.
                () = drained.notified() => {
                    let now = connection.current_max_send_streams();
                    tell.send_if_modified(|known| std::mem::replace(known, now) != now);
                }
            }
        }
    });
    let ready = async {
        tokio::select! {
            biased;
            // Its sender lives in the driver.
            changed = allowed.changed() => changed.map_err(|_| None),
            ended = &mut driver => Err(ended.err()),
        }
    };
    let late = |length| failure::no_settings(origin, first.protocol(), length);
    let ready = limit.step(ready, late).await?;
    ready.map_err(|error| failure::not_http2(origin, first.protocol(), error))?;
    Ok(Dialed {
        link,
        driver,
        allowed: Some(allowed),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll};

    use hyper_util::client::legacy::connect::dns::Name;
    use tinkers_core::{BaseUrl, TransportErrorKind};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::runtime::IoRuntime;

    /// Answers each look-up with the next list of addresses, the last one over and over.
    #[derive(Clone)]
    struct Names {
        answers: Arc<Mutex<Vec<Vec<SocketAddr>>>>,
        asked: Arc<AtomicUsize>,
    }

    impl Names {
        fn new(answers: impl Into<Vec<Vec<SocketAddr>>>) -> Self {
            Self {
                answers: Arc::new(Mutex::new(answers.into())),
                asked: Arc::default(),
            }
        }
    }

    impl Service<Name> for Names {
        type Response = std::vec::IntoIter<SocketAddr>;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Name) -> Self::Future {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let mut answers = self.answers.lock().unwrap();
            let answer = if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers[0].clone()
            };
            std::future::ready(Ok(answer.into_iter()))
        }
    }

    async fn dial(names: &Names, connect: Duration) -> Result<Dialed, TransportError> {
        let tcp = HttpConnector::new_with_resolver(names.clone());
        let dialer = Dialer::over(tcp, Tls::default(), ProxyConfig::none(), Protocol::Http1);
        // The port of the URL is what is dialled: all listeners share it.
        let port = names.answers.lock().unwrap()[0][0].port();
        let url = BaseUrl::parse(&format!("http://moved.test:{port}")).expect("valid");
        dialer
            .dial(url.origin(), DialLimit::within(connect, &*time()))
            .await
    }

    /// A port on two loopback addresses: nobody takes connections on the first, whose backlog is full, and the second serves.
    async fn dead_and_live() -> (SocketAddr, SocketAddr, Kept, TcpListener) {
        let live = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let live_at = live.local_addr().unwrap();
        let dead_at = SocketAddr::from(([127, 0, 0, 1], live_at.port()));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(dead_at).unwrap();
        let dead = socket.listen(1).unwrap();
        // As many as its backlog takes; the first that is not taken within a moment shows that it is full.
        let mut kept = Vec::new();
        let time = time();
        loop {
            let moment = time.now().after(Duration::from_millis(200));
            match time.deadline(moment, TcpStream::connect(dead_at)).await {
                Some(stream) => kept.push(stream.unwrap()),
                None => break,
            }
        }
        (dead_at, live_at, (dead, kept), live)
    }

    /// What keeps a backlog full.
    type Kept = (TcpListener, Vec<TcpStream>);

    fn time() -> Arc<dyn Clock> {
        IoRuntime::from_handle(tokio::runtime::Handle::current()).time()
    }

    #[tokio::test]
    async fn a_dead_first_address_leaves_time_for_the_second() {
        let (dead, live, _kept, listener) = dead_and_live().await;
        let names = Names::new([vec![dead, live]]);
        let dialed = dial(&names, Duration::from_secs(2)).await;
        dialed.map(|_| ()).expect("the second address serves");
        let (_, _) = listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_answers_nothing_is_named_with_its_step() {
        let (dead, _, _kept, _listener) = dead_and_live().await;
        let names = Names::new([vec![dead]]);
        let error = match dial(&names, Duration::from_millis(400)).await {
            Ok(_) => panic!("nobody takes connections there"),
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
    async fn each_dial_looks_the_name_up_anew() {
        let live = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let live_at = live.local_addr().unwrap();
        // Nobody listens on this port of the first address.
        let gone = SocketAddr::from(([127, 0, 0, 3], live_at.port()));
        let names = Names::new([vec![gone], vec![live_at]]);
        let limit = Duration::from_secs(5);
        assert!(dial(&names, limit).await.is_err());
        dial(&names, limit).await.map(|_| ()).expect("it has moved");
        assert_eq!(names.asked.load(Ordering::SeqCst), 2);
    }
}
