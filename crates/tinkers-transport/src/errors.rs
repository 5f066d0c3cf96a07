//! Conversion of I/O, TLS and HTTP errors to transport errors.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Origin, Scheme, Sent, TransportError, TransportErrorKind};

use crate::first_bytes::PeerProtocol;

/// Returns the error for a TCP connection to `address` that failed, for example because the host refused it.
pub(crate) fn unreachable(
    address: &str,
    error: impl Into<Box<dyn StdError + Send + Sync>>,
) -> TransportError {
    let error = error.into();
    let hint = match find::<io::Error>(&*error).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => {
            ": connection refused; is the server running there?"
        }
        Some(_) if is_out_of_files(&*error) => {
            ": too many open files; raise the limit (ulimit -n) or lower `max_connections`"
        }
        Some(io::ErrorKind::TimedOut) => ": no response; check the address and the network",
        _ => "; check the host name, the port and the network",
    };
    let message = format!("cannot connect to {address}{hint}");
    TransportError::new(TransportErrorKind::Connect, Sent::NotSent, message).with_source(error)
}

/// Returns the error of a TCP connection to `address` that was not established within `limit`.
pub(crate) fn not_connected(address: &str, limit: Duration) -> TransportError {
    let message = format!(
        "{address} did not accept the connection within {limit:?} (the `connect` limit); check the address and the network"
    );
    TransportError::new(TransportErrorKind::Timeout, Sent::NotSent, message)
}

/// Returns the error of a failed TLS handshake with `origin`. The kind is `Tls` for errors of rustls and for a peer that does not speak TLS.
/// The kind is `Connect` if the peer closed the connection, as a restarting load balancer does.
///
/// `root_variables` are the environment variables that name the root certificates.
pub(crate) fn handshake(
    origin: &Origin,
    peer_protocol: PeerProtocol,
    root_variables: Option<&str>,
    error: io::Error,
) -> TransportError {
    let address = origin.address();
    let without_tls = match peer_protocol {
        PeerProtocol::Http1(_) => Some("HTTP without TLS"),
        PeerProtocol::Tls => None,
        other => other.foreign_name(),
    };
    let (kind, message) = match (without_tls, find::<rustls::Error>(&error)) {
        (Some(protocol), _) => (
            TransportErrorKind::Tls,
            format!(
                "{address} speaks {protocol} and not TLS; {}",
                correction(peer_protocol, Scheme::Https)
            ),
        ),
        (
            None,
            Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)),
        ) => (
            TransportErrorKind::Tls,
            format!("{address} supports none of the offered HTTP versions; do not restrict them"),
        ),
        (None, Some(cause)) => {
            let is_unknown = matches!(
                cause,
                rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
            );
            let root_variables = root_variables.filter(|_| is_unknown);
            let trusted = root_variables.map_or_else(String::new, |from| {
                format!(" (the root certificates are those of {from})")
            });
            (
                TransportErrorKind::Tls,
                format!("TLS with {address} failed: {error}{trusted}"),
            )
        }
        (None, None) => (
            TransportErrorKind::Connect,
            format!("{address} closed the connection during the TLS handshake"),
        ),
    };
    TransportError::new(kind, Sent::NotSent, message).with_source(error)
}

/// Returns a text that says how the user should correct the URL, if the peer speaks `peer_protocol` and the URL has the scheme `scheme`.
fn correction(peer_protocol: PeerProtocol, scheme: Scheme) -> &'static str {
    match (peer_protocol, scheme) {
        (PeerProtocol::Http1(_), Scheme::Https) => "use http:// in the base URL",
        (PeerProtocol::Tls, Scheme::Http) => "use https:// in the base URL",
        (PeerProtocol::Http2, Scheme::Http) => {
            "require HTTP/2 without TLS (`HttpVersions::Http2PriorKnowledge`)"
        }
        _ => "check the port of the base URL",
    }
}

/// Returns the error for a TLS handshake with `origin` that was not finished within `limit`.
pub(crate) fn no_handshake(origin: &Origin, limit: Duration) -> TransportError {
    let message = format!(
        "{} accepted the connection and did not finish the TLS handshake within {limit:?} (the `connect` limit); does it speak TLS on this port?",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Timeout, Sent::NotSent, message)
}

/// Returns the error for a proxy that did not respond within `limit` to the `CONNECT` request, which asks for a tunnel to `origin`.
pub(crate) fn no_tunnel(origin: &Origin, proxy: &str, limit: Duration) -> TransportError {
    let message = format!(
        "cannot connect to {} through the proxy {proxy}: it did not respond to CONNECT within {limit:?} (the `connect` limit)",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Timeout, Sent::NotSent, message)
}

/// Returns the error for a proxy that was asked for a tunnel to `origin` and did not open it.
pub(crate) fn tunnel(
    origin: &Origin,
    proxy: &str,
    peer_protocol: PeerProtocol,
    error: impl Into<Box<dyn StdError + Send + Sync>>,
) -> TransportError {
    let why = match (peer_protocol, peer_protocol.foreign_name()) {
        (PeerProtocol::Http1(Some(407)), _) => {
            "it requires a user name and a password, such as http://user:password@host:port (status 407)"
                .to_owned()
        }
        (PeerProtocol::Http1(Some(status)), _) => format!("it refused the tunnel (status {status})"),
        (_, Some(name)) => format!("it speaks {name}; an HTTP proxy is needed"),
        (PeerProtocol::Nothing, _) => {
            "it closed the connection without a response; is it an HTTP proxy, and not another kind, such as SOCKS?"
                .to_owned()
        }
        _ => "it is not an HTTP proxy".to_owned(),
    };
    let message = format!(
        "cannot connect to {} through the proxy {proxy}: {why}",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Connect, Sent::NotSent, message).with_source(error)
}

/// Returns the error for a new HTTP/2 connection on which the server's initial `SETTINGS` frame did not arrive in time.
pub(crate) fn no_settings(
    origin: &Origin,
    peer_protocol: PeerProtocol,
    limit: Duration,
) -> TransportError {
    match peer_protocol {
        PeerProtocol::Nothing => {
            let message = format!(
                "{} accepted the connection and sent no HTTP/2 settings within {limit:?} (the `connect` limit); does it speak HTTP/2 on this port?",
                origin.address()
            );
            TransportError::new(TransportErrorKind::Timeout, Sent::NotSent, message)
        }
        peer_protocol => not_http2(origin, peer_protocol, None),
    }
}

/// Returns the error for a new HTTP/2 connection that ended before the server's initial `SETTINGS` frame arrived.
pub(crate) fn not_http2(
    origin: &Origin,
    peer_protocol: PeerProtocol,
    error: Option<hyper::Error>,
) -> TransportError {
    let address = origin.address();
    let (kind, message) = match (peer_protocol, peer_protocol.foreign_name()) {
        (PeerProtocol::Http1(_), _) => (
            TransportErrorKind::Decode,
            format!(
                "{address} speaks HTTP/1.1 and not HTTP/2; do not require HTTP/2 (`HttpVersions::Http2PriorKnowledge`)"
            ),
        ),
        (PeerProtocol::Http2, _) | (_, None) => (
            TransportErrorKind::Connect,
            format!("{address} closed the connection before HTTP/2 was set up"),
        ),
        (peer_protocol, Some(name)) => (
            foreign(peer_protocol),
            format!(
                "{address} speaks {name} and not HTTP/2; {}",
                correction(peer_protocol, origin.scheme())
            ),
        ),
    };
    let failed = TransportError::new(kind, Sent::NotSent, message);
    match error {
        Some(error) => failed.with_source(error),
        None => failed,
    }
}

/// Returns the error for a peer that should speak HTTP/1.1, but whose first bytes show another protocol.
pub(crate) fn not_http1(
    peer: &str,
    (peer_protocol, name): (PeerProtocol, &str),
    scheme: Scheme,
    sent: Sent,
    error: hyper::Error,
) -> TransportError {
    let correction = if peer.starts_with("the proxy") {
        "an HTTP proxy is needed"
    } else {
        correction(peer_protocol, scheme)
    };
    let message = format!("{peer} speaks {name} and not HTTP/1.1; {correction}");
    // A peer that speaks another protocol has not processed the request.
    let sent = if peer_protocol == PeerProtocol::Unknown {
        sent
    } else {
        Sent::NotSent
    };
    TransportError::new(foreign(peer_protocol), sent, message).with_source(error)
}

/// Returns the kind of the error for a peer that does not speak HTTP/1.1. If the peer speaks a known protocol, the error is permanent.
/// Unknown bytes may come from a truncated stream, so a retry may help.
const fn foreign(peer_protocol: PeerProtocol) -> TransportErrorKind {
    match peer_protocol {
        PeerProtocol::Unknown => TransportErrorKind::Broken,
        _ => TransportErrorKind::Decode,
    }
}

/// Returns the error for a connection that was not opened because the task that opens it panicked or the runtime has ended.
pub(crate) fn not_opened(origin: &Origin) -> TransportError {
    let message = format!(
        "cannot connect to {}: the task that opens the connection was aborted",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Connect, Sent::NotSent, message)
}

/// Returns the error for a request whose task panicked or whose runtime ended. `sent` says whether the request may have been sent.
pub(crate) fn aborted(origin: &Origin, sent: Sent) -> TransportError {
    let message = match sent {
        Sent::NotSent => format!(
            "cannot send to {}: the I/O runtime has ended; keep it alive while its clients are in use",
            origin.address()
        ),
        _ => format!(
            "a request to {} was aborted: it panicked, or the I/O runtime has ended",
            origin.address()
        ),
    };
    TransportError::new(TransportErrorKind::Aborted, sent, message)
}

/// Returns the error of a request whose timeout has passed. `phase` names the timeout by its field in `Timeouts`, such as `idle`.
pub(crate) fn timed_out(
    origin: &Origin,
    phase: &str,
    limit: Duration,
    sent: Sent,
) -> TransportError {
    let what = match phase {
        "connect" => "no connection to",
        "first_byte" => "no response from",
        "idle" => "no progress with",
        _ => "request not done with",
    };
    let message = format!(
        "{what} {} within {limit:?} (the `{phase}` limit)",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Timeout, sent, message)
}

/// Returns the error for a request whose connection broke. `sent` says whether the request may have been sent.
pub(crate) fn broken(origin: &Origin, sent: Sent, error: hyper::Error) -> TransportError {
    let message = match sent {
        Sent::NotSent => format!(
            "the connection to {} closed before the request was sent",
            origin.address()
        ),
        _ => format!(
            "the connection to {} broke before the response was complete",
            origin.address()
        ),
    };
    TransportError::new(TransportErrorKind::Broken, sent, message).with_source(error)
}

/// Returns the error for a request that the rate limiter has admitted but that must not be sent any more, because another request has
/// meanwhile received a rate-limited response (429).
pub(crate) fn held(origin: &Origin) -> TransportError {
    let message = format!(
        "the request to {} was held back by the rate limit",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Held, Sent::NotSent, message)
}

/// Returns the error of a request that is not valid HTTP.
pub(crate) fn invalid(message: impl Into<String>) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, Sent::NotSent, message)
}

/// Returns the error of a request on a transport that was closed.
pub(crate) fn closed() -> TransportError {
    TransportError::new(
        TransportErrorKind::Closed,
        Sent::NotSent,
        "the transport is closed; connect a new client",
    )
}

/// Returns whether an HTTP/2 server stated that it did not process the request: it refused the stream, or sent a `GOAWAY` with a lower last
/// stream id (RFC 9113, 8.7). h2 reports a `GOAWAY` as the error of a request only in this case.
pub(crate) fn is_unprocessed(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(|error| {
        error.is_remote()
            && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// Returns a function that creates copies of `error`. If a connection cannot be opened, each request that waited for it gets a copy.
pub(crate) fn copies(error: TransportError) -> impl Fn() -> TransportError {
    let source: Option<Arc<dyn StdError + Send + Sync>> = error.source.map(Arc::from);
    move || {
        let copy = TransportError::new(error.kind, error.sent, error.message.clone());
        match &source {
            Some(source) => copy.with_source(SharedSource(Arc::clone(source))),
            None => copy,
        }
    }
}

struct SharedSource(Arc<dyn StdError + Send + Sync>);

impl fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for SharedSource {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Returns the first error of type `E` in the chain of sources that begins with `error`.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>() {
            // `io::Error::source` skips the wrapped error itself.
            Some(wrapper) => wrapper
                .get_ref()
                .map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
    .find_map(|error| error.downcast_ref())
}

fn is_out_of_files(error: &(dyn StdError + 'static)) -> bool {
    // EMFILE and ENFILE, which have no stable `ErrorKind`.
    cfg!(unix)
        && find::<io::Error>(error)
            .is_some_and(|error| matches!(error.raw_os_error(), Some(23 | 24)))
}
