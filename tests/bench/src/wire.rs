//! Connections of hyper, and nothing else.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::record::Template;

/// The server's address.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    authority: String,
    prefix: String,
}

impl Address {
    pub(crate) fn parse(base_url: &str) -> Result<Self> {
        let uri: Uri = base_url.parse().context("--base-url is no URL")?;
        ensure!(
            uri.scheme_str() == Some("http"),
            "--base-url: expected http://, since TLS would be measured with it"
        );
        let authority = uri.authority().context("--base-url names no host")?;
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

/// The sending end of a connection.
pub(crate) enum Sender {
    /// HTTP/1.1, for one request at a time.
    Single(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2; clones share it.
    Shared(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    pub(crate) async fn single(address: &Address) -> Result<Self> {
        let (sender, driver) = http1::handshake(address.connect().await?).await?;
        tokio::spawn(driver);
        Ok(Self::Single(sender))
    }

    pub(crate) async fn shared(address: &Address) -> Result<Self> {
        let (sender, driver) =
            http2::handshake(TokioExecutor::new(), address.connect().await?).await?;
        tokio::spawn(driver);
        Ok(Self::Shared(sender))
    }

    /// Another on the same HTTP/2 connection; `None` on HTTP/1.1.
    pub(crate) fn share(&self) -> Option<Self> {
        match self {
            Self::Single(_) => None,
            Self::Shared(sender) => Some(Self::Shared(sender.clone())),
        }
    }

    /// One exchange: the answer's type and body.
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
            Self::Single(sender) => {
                *request.uri_mut() = path.parse()?;
                let host = HeaderValue::from_str(&address.authority)?;
                request.headers_mut().insert(HOST, host);
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Shared(sender) => {
                *request.uri_mut() = format!("http://{}{path}", address.authority).parse()?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        ensure!(
            head.status == StatusCode::OK,
            "{} was answered {}: {}",
            template.path,
            head.status,
            String::from_utf8_lossy(&body)
        );
        Ok((head.headers.get(CONTENT_TYPE).cloned(), body))
    }
}
