//! How failures below become the transport's own errors.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Origin, Sent, TransportError, TransportErrorKind};

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

/// TLS with `origin` was not set up. Only what rustls objects to stays so: a peer that is gone in the middle, as a load balancer
/// is that restarts, is a connection that did not come to be.
pub(crate) fn handshake(origin: &Origin, error: io::Error) -> TransportError {
    let (kind, message) = if find::<rustls::Error>(&error).is_some() {
        let message = format!("TLS with {} failed: {error}", origin.address());
        (TransportErrorKind::Tls, message)
    } else {
        let message = format!("{} ended the connection during TLS", origin.address());
        (TransportErrorKind::Connect, message)
    };
    TransportError::new(kind, Sent::NotSent, message).with_source(error)
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
