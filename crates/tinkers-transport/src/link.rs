//! The sending end of one connection, of either version of HTTP.

use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Request, Uri};
use hyper::client::conn::{http1, http2};
use tinkers_core::{Origin, TransportError};
use tokio::sync::watch;

use crate::failure;
use crate::first_bytes::{FirstBytes, Spoken};
use crate::pool::table::Slot;
use crate::proxy::ProxyRoute;
use crate::target::Target;
use crate::upload::Upload;

/// One connection's sending end. An HTTP/1.1 one is owned by one request at a time; an HTTP/2 one is shared by clones.
pub(crate) enum Link {
    Single {
        sender: http1::SendRequest<Upload>,
        /// The connection ends at this proxy, which wants the whole address.
        proxy: Option<ProxyRoute>,
        /// What the peer sent first.
        first: FirstBytes,
    },
    Shared {
        sender: http2::SendRequest<Upload>,
        /// Streams that the server allows.
        allowed: watch::Receiver<usize>,
    },
}

impl Link {
    pub(crate) fn single(sender: http1::SendRequest<Upload>, first: FirstBytes) -> Self {
        Self::Single {
            sender,
            proxy: None,
            first,
        }
    }

    pub(crate) fn shared(
        sender: http2::SendRequest<Upload>,
        allowed: watch::Receiver<usize>,
    ) -> Self {
        Self::Shared { sender, allowed }
    }

    /// What the peer speaks, and its name, where its first bytes tell that it is not HTTP.
    pub(crate) fn foreign_protocol(&self) -> Option<(Spoken, &'static str)> {
        match self {
            Self::Single { first, .. } => {
                let spoken = first.protocol();
                spoken.foreign_name().map(|name| (spoken, name))
            }
            Self::Shared { .. } => None,
        }
    }

    /// Where the connection ends, for messages: at `origin` or at a proxy.
    pub(crate) fn peer(&self, origin: &Origin) -> String {
        match self {
            Self::Single {
                proxy: Some(route), ..
            } => format!("the proxy {}", route.place()),
            _ => origin.address(),
        }
    }

    pub(crate) fn through(&mut self, route: ProxyRoute) {
        if let Self::Single { proxy, .. } = self {
            *proxy = Some(route);
        }
    }

    /// The request in the form that this connection needs.
    pub(crate) fn request(
        &self,
        target: &Target,
        method: Method,
        mut headers: HeaderMap,
        body: Upload,
    ) -> Result<Request<Upload>, TransportError> {
        let absolute = || {
            target
                .absolute()
                .ok_or_else(|| failure::invalid("the path does not fit into a URL"))
        };
        let uri = match self {
            Self::Shared { .. } => {
                headers.remove(HOST);
                absolute()?
            }
            Self::Single { proxy, .. } => {
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

    /// Waits until the connection takes a request, so that none lies in hyper's own queue; fails when it never will.
    pub(crate) async fn ready(&mut self) -> Result<(), hyper::Error> {
        match self {
            Self::Single { sender, .. } => sender.ready().await,
            Self::Shared { sender, .. } => sender.ready().await,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Single { sender, .. } => sender.is_ready(),
            Self::Shared { sender, .. } => sender.is_ready(),
        }
    }
}

impl Slot for Link {
    fn is_closed(&self) -> bool {
        match self {
            Self::Single { sender, .. } => sender.is_closed(),
            Self::Shared { sender, .. } => sender.is_closed(),
        }
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::Single { .. } => None,
            Self::Shared { sender, allowed } => Some(Self::Shared {
                sender: sender.clone(),
                allowed: allowed.clone(),
            }),
        }
    }

    fn allowed(&self) -> usize {
        match self {
            Self::Single { .. } => 1,
            Self::Shared { allowed, .. } => *allowed.borrow(),
        }
    }
}
