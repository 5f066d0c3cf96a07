//! Plain hyper connections.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::record::Template;

/// The address of the server: host, port and path prefix.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    authority: String,
    prefix: String,
}

impl Address {
    pub(crate) fn parse(base_url: &str) -> Result<Self> {
        let uri: Uri = base_url.parse().context("cannot parse --base-url")?;
        ensure!(
            uri.scheme_str() == Some("http"),
            "--base-url: expected http://, because the benchmark does not measure TLS"
        );
        let authority = uri.authority().context("--base-url has no host")?;
        Ok(Self {
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

/// The sending half of an HTTP connection, for HTTP/1.1 or HTTP/2.
pub(crate) enum Sender {
    /// The sender of an HTTP/1.1 connection. The connection carries one request at a time.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// The sender of an HTTP/2 connection. Clones send on the same connection.
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    pub(crate) async fn http1(address: &Address) -> Result<Self> {
        let (sender, driver) = http1::handshake(address.connect().await?).await?;
        tokio::spawn(driver);
        Ok(Self::Http1(sender))
    }

    pub(crate) async fn http2(address: &Address) -> Result<Self> {
        let (sender, driver) =
            http2::handshake(TokioExecutor::new(), address.connect().await?).await?;
        tokio::spawn(driver);
        Ok(Self::Http2(sender))
    }

    /// Returns another sender for the same HTTP/2 connection. Returns `None` for HTTP/1.1, whose
    /// connections carry one request at a time.
    pub(crate) fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    /// Sends a request and returns the content type and the body of the response.
    pub(crate) async fn exchange(
        &mut self,
        address: &Address,
        template: &Template,
        body: Bytes,
    ) -> Result<(Option<HeaderValue>, Bytes)> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = template.method.clone();
        *request.headers_mut() = template.headers.clone();
        let path = format!("{}{}", address.prefix, template.path);
        let response = match self {
            Self::Http1(sender) => {
                *request.uri_mut() = path.parse()?;
                let host = HeaderValue::from_str(&address.authority)?;
                request.headers_mut().insert(HOST, host);
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                *request.uri_mut() = format!("http://{}{path}", address.authority).parse()?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        ensure!(
            head.status == StatusCode::OK,
            "{} returned {}: {}",
            template.path,
            head.status,
            String::from_utf8_lossy(&body)
        );
        Ok((head.headers.get(CONTENT_TYPE).cloned(), body))
    }
}
