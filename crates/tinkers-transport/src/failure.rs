//! How failures below become the transport's own errors.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Origin, Scheme, Sent, TransportError, TransportErrorKind};

use crate::first_bytes::Spoken;

/// No connection to `place`.
pub(crate) fn unreachable(
    place: &str,
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
        Some(io::ErrorKind::TimedOut) => ": no answer; check the address and the network",
        _ => "; check the host name, the port and the network",
    };
    let message = format!("cannot connect to {place}{hint}");
    TransportError::new(TransportErrorKind::Connect, Sent::NotSent, message).with_source(error)
}

/// TCP to `place` was not set up in time.
pub(crate) fn not_connected(place: &str, limit: Duration) -> TransportError {
    let message = format!(
        "{place} did not take the connection within {limit:?} (the `connect` limit); check the address and the network"
    );
    TransportError::new(TransportErrorKind::Timeout, Sent::NotSent, message)
}

/// TLS with `origin` was not set up. Only what rustls objects to stays so: a peer that is gone in the middle, as a load balancer
/// is that restarts, is a connection that did not come to be.
///
/// `trust` says where the trusted certificates came from, when that was not the system's store.
pub(crate) fn handshake(
    origin: &Origin,
    spoken: Spoken,
    trust: Option<&str>,
    error: io::Error,
) -> TransportError {
    let place = origin.address();
    let without_tls = match spoken {
        Spoken::Http1(_) => Some("HTTP without TLS"),
        Spoken::Tls => None,
        other => other.foreign_name(),
    };
    let (kind, message) = match (without_tls, find::<rustls::Error>(&error)) {
        (Some(protocol), _) => (
            TransportErrorKind::Tls,
            format!(
                "{place} speaks {protocol} and no TLS; {}",
                correction(spoken, Scheme::Https)
            ),
        ),
        (
            None,
            Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)),
        ) => (
            TransportErrorKind::Tls,
            format!(
                "{place} takes none of the versions of HTTP that were offered; do not restrict the protocol"
            ),
        ),
        (None, Some(cause)) => {
            let unknown = matches!(
                cause,
                rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
            );
            let trust = trust.filter(|_| unknown);
            let trust = trust.map_or_else(String::new, |from| {
                format!(" (trusted are those of {from})")
            });
            (
                TransportErrorKind::Tls,
                format!("TLS with {place} failed: {error}{trust}"),
            )
        }
        (None, None) => (
            TransportErrorKind::Connect,
            format!("{place} ended the connection during TLS"),
        ),
    };
    TransportError::new(kind, Sent::NotSent, message).with_source(error)
}

/// What to change where a peer speaks `spoken` in place of what the URL's scheme says.
fn correction(spoken: Spoken, asked: Scheme) -> &'static str {
    match (spoken, asked) {
        (Spoken::Http1(_), Scheme::Https) => "use http:// in the base URL",
        (Spoken::Tls, Scheme::Http) => "use https:// in the base URL",
        (Spoken::Http2, Scheme::Http) => "ask for HTTP/2 without TLS (`http2_prior_knowledge`)",
        _ => "check the port of the base URL",
    }
}

/// `origin` took the connection and did not take part in TLS.
pub(crate) fn no_handshake(origin: &Origin, limit: Duration) -> TransportError {
    let message = format!(
        "{} took the connection and did not answer TLS within {limit:?} (the `connect` limit); does it speak TLS on this port?",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Timeout, Sent::NotSent, message)
}

/// The proxy at `proxy` took the connection and did not answer.
pub(crate) fn no_tunnel(origin: &Origin, proxy: &str, limit: Duration) -> TransportError {
    let message = format!(
        "no connection to {} through the proxy {proxy}: it did not answer CONNECT within {limit:?} (the `connect` limit)",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Timeout, Sent::NotSent, message)
}

/// The proxy at `proxy` opened no tunnel to `origin`.
pub(crate) fn tunnel(
    origin: &Origin,
    proxy: &str,
    spoken: Spoken,
    error: impl Into<Box<dyn StdError + Send + Sync>>,
) -> TransportError {
    let why = match (spoken, spoken.foreign_name()) {
        (Spoken::Http1(Some(407)), _) => {
            "it wants a user name and a password, as in http://user:password@host:port (status 407)"
                .to_owned()
        }
        (Spoken::Http1(Some(status)), _) => format!("it refused the tunnel (status {status})"),
        (_, Some(name)) => format!("it speaks {name}; an HTTP proxy is needed"),
        (Spoken::Nothing, _) => {
            "it closed the connection without an answer; is it an HTTP proxy, and not one of another kind, such as SOCKS?"
                .to_owned()
        }
        _ => "it is no HTTP proxy".to_owned(),
    };
    let message = format!(
        "cannot connect to {} through the proxy {proxy}: {why}",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Connect, Sent::NotSent, message).with_source(error)
}

/// `origin` took the connection and sent no HTTP/2 settings.
pub(crate) fn no_settings(origin: &Origin, spoken: Spoken, limit: Duration) -> TransportError {
    match spoken {
        Spoken::Nothing => {
            let message = format!(
                "{} took the connection and did not answer HTTP/2 within {limit:?} (the `connect` limit); does it speak HTTP/2 on this port?",
                origin.address()
            );
            TransportError::new(TransportErrorKind::Timeout, Sent::NotSent, message)
        }
        spoken => not_http2(origin, spoken, None),
    }
}

/// The connection to `origin` ended before its HTTP/2 settings were there.
pub(crate) fn not_http2(
    origin: &Origin,
    spoken: Spoken,
    error: Option<hyper::Error>,
) -> TransportError {
    let place = origin.address();
    let (kind, message) = match (spoken, spoken.foreign_name()) {
        (Spoken::Http1(_), _) => (
            TransportErrorKind::Decode,
            format!(
                "{place} speaks HTTP/1.1 and no HTTP/2; do not ask for HTTP/2 (`http2_prior_knowledge`)"
            ),
        ),
        (Spoken::Http2, _) | (_, None) => (
            TransportErrorKind::Connect,
            format!("{place} ended the connection before HTTP/2 was set up"),
        ),
        (spoken, Some(name)) => (
            foreign(spoken),
            format!(
                "{place} speaks {name} and no HTTP/2; {}",
                correction(spoken, origin.scheme())
            ),
        ),
    };
    let failed = TransportError::new(kind, Sent::NotSent, message);
    match error {
        Some(error) => failed.with_source(error),
        None => failed,
    }
}

/// What answered a request at `peer` over HTTP/1.1 speaks another protocol.
pub(crate) fn not_http1(
    peer: &str,
    (spoken, name): (Spoken, &str),
    asked: Scheme,
    sent: Sent,
    error: hyper::Error,
) -> TransportError {
    let correction = if peer.starts_with("the proxy") {
        "an HTTP proxy is needed"
    } else {
        correction(spoken, asked)
    };
    let message = format!("{peer} speaks {name} and no HTTP/1.1; {correction}");
    // What speaks a known protocol did nothing with the request.
    let sent = if spoken == Spoken::Unknown {
        sent
    } else {
        Sent::NotSent
    };
    TransportError::new(foreign(spoken), sent, message).with_source(error)
}

/// A peer that speaks another protocol will go on to; one that sent what nobody knows may have been cut in the middle.
const fn foreign(spoken: Spoken) -> TransportErrorKind {
    match spoken {
        Spoken::Unknown => TransportErrorKind::Broken,
        _ => TransportErrorKind::Decode,
    }
}

/// The task that was to open a connection to `origin` was cut off: it panicked, or its runtime is ending.
pub(crate) fn not_opened(origin: &Origin) -> TransportError {
    let message = format!(
        "the connection to {} was not opened: its task was aborted",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Connect, Sent::NotSent, message)
}

/// The task of a request to `origin` was cut off.
pub(crate) fn aborted(origin: &Origin, sent: Sent) -> TransportError {
    let message = match sent {
        Sent::NotSent => format!(
            "nothing was sent to {}: the I/O runtime has ended; keep it alive for as long as its clients",
            origin.address()
        ),
        _ => format!(
            "a request to {} was cut off: the I/O runtime has ended, or its task panicked",
            origin.address()
        ),
    };
    TransportError::new(TransportErrorKind::Aborted, sent, message)
}

/// A limit passed. `phase` is the name of the field of `Timeouts`.
pub(crate) fn timed_out(
    origin: &Origin,
    phase: &str,
    limit: Duration,
    sent: Sent,
) -> TransportError {
    let what = match phase {
        "connect" => "no connection to",
        "first_byte" => "no answer from",
        "idle" => "no progress with",
        _ => "not done with",
    };
    let message = format!(
        "{what} {} within {limit:?} (the `{phase}` limit)",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Timeout, sent, message)
}

/// The connection to `origin` broke.
pub(crate) fn broken(origin: &Origin, sent: Sent, error: hyper::Error) -> TransportError {
    let message = match sent {
        Sent::NotSent => format!(
            "the connection to {} closed before the request was sent",
            origin.address()
        ),
        _ => format!(
            "the connection to {} broke before the answer was complete",
            origin.address()
        ),
    };
    TransportError::new(TransportErrorKind::Broken, sent, message).with_source(error)
}

/// The rate limit does not let a request to `origin` leave that it had admitted before.
pub(crate) fn held(origin: &Origin) -> TransportError {
    let message = format!(
        "the request to {} was held back before it left",
        origin.address()
    );
    TransportError::new(TransportErrorKind::Held, Sent::NotSent, message)
}

/// The request cannot be written down as HTTP.
pub(crate) fn invalid(message: impl Into<String>) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, Sent::NotSent, message)
}

/// The transport is closed.
pub(crate) fn closed() -> TransportError {
    TransportError::new(
        TransportErrorKind::Closed,
        Sent::NotSent,
        "the transport is closed; connect a new client",
    )
}

/// Whether the server said, in the words of HTTP/2, that it did nothing with the request: a refused stream, or one beyond
/// the last that a `GOAWAY` names (RFC 9113, 8.7). h2 gives that error to those streams alone.
pub(crate) fn is_unprocessed(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(|error| {
        error.is_remote()
            && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// The same failure for each of several requests that waited for one connection.
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

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>() {
            // The source of an I/O error is the source of what it wraps, and not that itself.
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
