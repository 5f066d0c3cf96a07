//! Opens connections: TCP, a proxy's tunnel, TLS, and the first words of HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Uri;
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tinkers_core::{BoxFuture, Origin, Scheme, Sent, TransportError};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::failure;
use crate::link::Link;
use crate::proxy::{ProxyConfig, ProxyRoute};
use crate::tls::{Protocol, Tls};

/// An open connection: what sends on it, and what must be polled for it to move.
pub(crate) struct Dialed {
    pub(crate) link: Link,
    pub(crate) driver: BoxFuture<'static, Result<(), hyper::Error>>,
}

/// Opens connections to any origin, on the runtime that polls it.
#[derive(Debug)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    tls: Tls,
    proxy: ProxyConfig,
    protocol: Protocol,
}

/// A peer that is gone without a word is noticed after this long without traffic, twice.
const SILENCE: Duration = Duration::from_secs(20);
/// One result may be many megabytes; a window that fits them saves a round trip for each 64 KiB.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

impl Dialer {
    pub(crate) fn new(tls: Tls, proxy: ProxyConfig, protocol: Protocol) -> Self {
        let mut tcp = HttpConnector::new();
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

    /// Opens a connection to `origin`, of which the settings speak. No byte of any request is sent, so every failure is
    /// `NotSent`.
    pub(crate) async fn dial(&self, origin: &Origin) -> Result<Dialed, TransportError> {
        self.open(origin, self.protocol).await
    }

    /// The same to an origin that a redirect leads to. What is known of the own one says nothing of it.
    pub(crate) async fn dial_foreign(&self, origin: &Origin) -> Result<Dialed, TransportError> {
        let protocol = match self.protocol {
            Protocol::Http2PriorKnowledge => Protocol::Negotiate,
            protocol => protocol,
        };
        self.open(origin, protocol).await
    }

    async fn open(&self, origin: &Origin, protocol: Protocol) -> Result<Dialed, TransportError> {
        let route = self.proxy.route(origin);
        let multiplexed = protocol == Protocol::Http2PriorKnowledge;
        match (origin.scheme(), route) {
            (Scheme::Http, Some(route)) if !multiplexed => {
                let stream = self.connect(route.address.clone(), &route.place()).await?;
                let mut dialed = single(TokioIo::new(stream), origin).await?;
                dialed.link.through(route);
                Ok(dialed)
            }
            (Scheme::Http, route) => {
                let stream = self.stream(origin, route).await?;
                if multiplexed {
                    shared(TokioIo::new(stream), origin).await
                } else {
                    single(TokioIo::new(stream), origin).await
                }
            }
            (Scheme::Https, route) => {
                let (connector, name) = self.tls.connector(origin, protocol)?;
                let stream = self.stream(origin, route).await?;
                let stream = connector.connect(name, stream).await;
                let stream = stream.map_err(|error| failure::handshake(origin, error))?;
                let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if agreed || multiplexed {
                    shared(TokioIo::new(stream), origin).await
                } else {
                    single(TokioIo::new(stream), origin).await
                }
            }
        }
    }

    /// Bytes to and from `origin`, through a tunnel where there is a proxy.
    async fn stream(
        &self,
        origin: &Origin,
        route: Option<ProxyRoute>,
    ) -> Result<TcpStream, TransportError> {
        let target = dial_uri(origin)?;
        let Some(route) = route else {
            return self.connect(target, &origin.address()).await;
        };
        let mut tunnel = Tunnel::new(route.address.clone(), self.tcp.clone());
        if let Some(authorization) = route.authorization.clone() {
            tunnel = tunnel.with_auth(authorization);
        }
        let place = format!("{} through the proxy {}", origin.address(), route.place());
        let stream = tunnel.call(target).await;
        Ok(stream
            .map_err(|error| failure::unreachable(&place, error))?
            .into_inner())
    }

    async fn connect(&self, uri: Uri, place: &str) -> Result<TcpStream, TransportError> {
        let stream = self.tcp.clone().call(uri).await;
        Ok(stream
            .map_err(|error| failure::unreachable(place, error))?
            .into_inner())
    }
}

fn dial_uri(origin: &Origin) -> Result<Uri, TransportError> {
    // Always with its port, which the connector and the tunnel would otherwise guess.
    format!("{}://{}/", origin.scheme().name(), origin.address())
        .parse()
        .map_err(|error: http::uri::InvalidUri| failure::unreachable(&origin.address(), error))
}

async fn single<T>(io: T, origin: &Origin) -> Result<Dialed, TransportError>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io)
        .await
        .map_err(|error| failure::broken(origin, Sent::NotSent, error))?;
    Ok(Dialed {
        link: Link::single(sender),
        driver: Box::pin(connection),
    })
}

async fn shared<T>(io: T, origin: &Origin) -> Result<Dialed, TransportError>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(io)
        .await
        .map_err(|error| failure::broken(origin, Sent::NotSent, error))?;
    // The server's own limit arrives with its settings, and may change.
    let allowed = Arc::new(AtomicUsize::new(usize::MAX));
    let link = Link::shared(sender, Arc::clone(&allowed));
    let driver = std::future::poll_fn(move |cx| {
        let done = std::pin::Pin::new(&mut connection).poll(cx);
        allowed.store(connection.current_max_send_streams(), Ordering::Relaxed);
        done
    });
    Ok(Dialed {
        link,
        driver: Box::pin(driver),
    })
}
