//! The request side of an HTTP/1.1 or HTTP/2 connection.

use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Request, Uri};
use hyper::client::conn::{http1, http2};
use tinkers_core::{Origin, TransportError};
use tokio::sync::watch;

use crate::errors;
use crate::first_bytes::{FirstBytes, PeerProtocol};
use crate::pool::connection_table::PooledConnection;
use crate::proxy::ProxyRoute;
use crate::target::Target;
use crate::upload_body::UploadBody;

/// A handle that sends requests on one open connection. An HTTP/1.1 connection carries one request at a time. HTTP/2 handles can be cloned,
/// so that requests share the connection.
pub(crate) enum Connection {
    Http1 {
        sender: http1::SendRequest<UploadBody>,
        /// The proxy that receives the requests of this connection, if requests are sent to a proxy without a tunnel. The proxy needs the
        /// absolute URL in each request.
        proxy: Option<ProxyRoute>,
        first_bytes: FirstBytes,
    },
    Http2 {
        sender: http2::SendRequest<UploadBody>,
        /// The maximum number of concurrent streams (requests) that the server allows on the connection.
        max_streams: watch::Receiver<usize>,
    },
}

impl Connection {
    pub(crate) fn http1(
        sender: http1::SendRequest<UploadBody>,
        first_bytes: FirstBytes,
        proxy: Option<ProxyRoute>,
    ) -> Self {
        Self::Http1 {
            sender,
            proxy,
            first_bytes,
        }
    }

    pub(crate) fn http2(
        sender: http2::SendRequest<UploadBody>,
        max_streams: watch::Receiver<usize>,
    ) -> Self {
        Self::Http2 {
            sender,
            max_streams,
        }
    }

    /// Returns the protocol of the peer and its name if this is an HTTP/1.1 connection, but the first bytes from the peer show another
    /// protocol.
    pub(crate) fn foreign_protocol(&self) -> Option<(PeerProtocol, &'static str)> {
        match self {
            Self::Http1 { first_bytes, .. } => {
                let protocol = first_bytes.protocol();
                protocol.foreign_name().map(|name| (protocol, name))
            }
            Self::Http2 { .. } => None,
        }
    }

    /// Returns the name of the peer for error messages: the address of `origin`, or the address of the proxy if requests are sent to a
    /// proxy.
    pub(crate) fn peer(&self, origin: &Origin) -> String {
        match self {
            Self::Http1 {
                proxy: Some(route), ..
            } => format!("the proxy {}", route.host_and_port()),
            _ => origin.address(),
        }
    }

    /// Builds the request for this connection: with a URI in absolute form for HTTP/2 and proxies, and a `Host` header for HTTP/1.1.
    pub(crate) fn request(
        &self,
        target: &Target,
        method: Method,
        mut headers: HeaderMap,
        body: UploadBody,
    ) -> Result<Request<UploadBody>, TransportError> {
        let absolute = || {
            target
                .absolute()
                .ok_or_else(|| errors::invalid("the path does not fit into a URL"))
        };
        let uri = match self {
            Self::Http2 { .. } => {
                headers.remove(HOST);
                absolute()?
            }
            Self::Http1 { proxy, .. } => {
                headers.insert(HOST, target.host().clone());
                match proxy {
                    None => Uri::from(target.path.clone()),
                    Some(route) => {
                        if let Some(authorization) = &route.authorization {
                            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
                        }
                        absolute()?
                    }
                }
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Waits until the connection accepts a request, so that no request waits in a queue inside hyper. Fails if the connection has ended.
    pub(crate) async fn ready(&mut self) -> Result<(), hyper::Error> {
        match self {
            Self::Http1 { sender, .. } => sender.ready().await,
            Self::Http2 { sender, .. } => sender.ready().await,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Http1 { sender, .. } => sender.is_ready(),
            Self::Http2 { sender, .. } => sender.is_ready(),
        }
    }
}

impl PooledConnection for Connection {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1 { sender, .. } => sender.is_closed(),
            Self::Http2 { sender, .. } => sender.is_closed(),
        }
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::Http1 { .. } => None,
            Self::Http2 {
                sender,
                max_streams,
            } => Some(Self::http2(sender.clone(), max_streams.clone())),
        }
    }

    fn max_requests(&self) -> usize {
        match self {
            Self::Http1 { .. } => 1,
            Self::Http2 { max_streams, .. } => *max_streams.borrow(),
        }
    }
}
