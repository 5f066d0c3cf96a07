//! One connection: HTTP/1.1 or HTTP/2 with prior knowledge, told apart by its first bytes.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};

use super::exchange::{Delivery, SCANNED};
use super::outgoing::{Outgoing, outgoing};
use super::{Cut, LocalServer};
use crate::http::Request;
use crate::read::{NumberScan, check_key, too_large};

/// Serves a connection to its end.
pub(super) async fn connection<S>(server: LocalServer, stream: S, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { respond(&server, request).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().keep_alive(true);
    builder.http2().max_concurrent_streams(1024);
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Serves one connection over any stream, for the tests that give foreign bytes to whatever reads them.
#[cfg(feature = "fuzz")]
pub async fn serve_stream<S>(server: LocalServer, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    connection(server, stream, graceful.watcher()).await;
}

async fn respond(
    server: &LocalServer,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Outgoing>, Failure> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request {
        method: head.method,
        path: path.to_owned(),
        headers: head.headers,
        body: Bytes::new(),
    };
    let limit = server.config().max_body;
    // Nothing is kept in memory for who has no key: the request is then refused without its body.
    let kept = match check_key(server.config(), &request) {
        Ok(()) => limit,
        Err(_) => 0,
    };
    let mut scan = match kept {
        0 => NumberScan::None,
        _ => NumberScan::of(&request),
    };
    // A body that is too long is still read, since most clients read no answer before they have sent everything.
    match collect(body, kept, limit.saturating_mul(SCANNED), &mut scan).await? {
        Some(body) => request.body = body,
        None if kept == limit => {
            if let Some(numbered) = scan.found() {
                server.number_refused(&numbered);
            }
            let refused = too_large(limit).into_answer().into_response();
            return Ok(outgoing(Delivery::Whole(refused)));
        }
        None => {}
    }
    Ok(outgoing(server.deliver(request).await?))
}

/// The whole body; `None` when it is longer than `limit`. Then it is read up to `discard` bytes, shown to `scan`, and none is
/// kept.
async fn collect(
    mut body: Incoming,
    limit: usize,
    discard: usize,
    scan: &mut NumberScan,
) -> Result<Option<Bytes>, Failure> {
    let mut all = BytesMut::new();
    let mut length = 0usize;
    // What the sender announces is a hint for the buffer, and no more than the limit is set aside on its word.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
    all.reserve(announced.min(limit).min(1 << 20));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length > discard {
            return Ok(None);
        }
        if length <= limit {
            all.extend_from_slice(&data);
        } else {
            scan.push(&std::mem::take(&mut all));
            scan.push(&data);
        }
    }
    Ok((length <= limit).then(|| all.freeze()))
}

/// Ends the connection (of HTTP/2: the stream) without an answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the request's body broke off")]
    Body(#[from] hyper::Error),
    #[error(transparent)]
    Cut(#[from] Cut),
}
