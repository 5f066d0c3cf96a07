//! A connection: HTTP/1.1, or HTTP/2 with prior knowledge. The first bytes decide which.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http::header::{CONNECTION, HOST};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};

use super::exchange::{Delivery, SCAN_LIMIT_FACTOR};
use super::response_body::{ResponseBody, to_hyper};
use super::{Cut, LocalServer};
use crate::http::Request;
use crate::quirks::Quirk;
use crate::read::{NumberScan, check_key, too_large};

/// Serves the requests of a connection until the connection ends. `watcher` ends it at a graceful shutdown.
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

/// Serves the requests of a connection over any byte stream instead of a socket, for fuzz tests.
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
) -> Result<hyper::Response<ResponseBody>, Failure> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = head.headers;
    // HTTP/2 has no Host header.
    if let Some(host) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(host.as_str())
    {
        headers.insert(HOST, host);
    }
    let mut request = Request {
        method: head.method,
        path: path.to_owned(),
        headers,
        body: Bytes::new(),
    };
    let limit = server.config().max_body;
    // The body of a request without a valid key is not kept in memory, since it will be refused.
    let caller = check_key(server.config(), &request).ok();
    let body_limit = if caller.is_some() { limit } else { 0 };
    let mut scan = match body_limit {
        0 => NumberScan::None,
        _ => NumberScan::of(&request),
    };
    // The rest of a body that is too long is still received, since most clients read no response before they have sent the whole
    // body.
    match collect(
        body,
        body_limit,
        limit.saturating_mul(SCAN_LIMIT_FACTOR),
        &mut scan,
    )
    .await?
    {
        Some(body) => request.body = body,
        None if body_limit == limit => {
            if let (Some(caller), Some(numbered)) = (caller, scan.found()) {
                server.number_refused(&caller.grant.owner, &numbered);
            }
            let refused = too_large(limit).into_response().encode();
            return Ok(to_hyper(Delivery::Complete(refused)));
        }
        None => {}
    }
    let mut response = to_hyper(server.deliver(request).await?);
    if server.shared.quirks.has(Quirk::Http10) {
        *response.version_mut() = hyper::Version::HTTP_10;
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response)
}

/// Receives the body of a request. If the body is longer than `limit` bytes, does not store it and returns `None`, but passes its
/// bytes to `scan`, which searches them for a sequence number. Receives at most `discard` bytes in total, so that most clients can
/// finish sending before they read the response.
async fn collect(
    mut body: Incoming,
    limit: usize,
    discard: usize,
    scan: &mut NumberScan,
) -> Result<Option<Bytes>, Failure> {
    let mut all = BytesMut::new();
    let mut length = 0usize;
    // The declared length may be false, so at most `limit` is reserved for it.
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
    all.reserve(declared.min(limit).min(1 << 20));
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

/// An error because of which the server ends a connection (in HTTP/2: a stream) without a response.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the request's body broke off")]
    Body(#[from] hyper::Error),
    #[error(transparent)]
    Cut(#[from] Cut),
}
