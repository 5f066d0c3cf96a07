//! The body of a response on a socket, complete or cut in the middle.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::exchange::Delivery;
use crate::http::Response;

/// The size in bytes of the pieces in which the server sends the first half of a response body before a fault cuts the connection.
const PIECE: usize = 16 << 10;

/// The body of an HTTP response on a socket: complete, or only its first half.
pub(super) enum ResponseBody {
    Complete(Full<Bytes>),
    Half(Half),
}

/// The first half of a response body, sent before a fault cuts the connection. The response header declares the full length.
pub(super) struct Half {
    length: u64,
    rest: Bytes,
    /// Whether to wait once before the next piece of the body, so that the connection can write the previous piece. After the error
    /// that ends the body, the connection writes nothing more.
    yields: bool,
}

/// An error that makes hyper cut the connection in the middle of a response.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a fault cut the connection in the middle of a response")]
pub(super) struct CutInBody;

/// Converts a response to the response type of hyper, the HTTP library.
pub(super) fn to_hyper(delivery: Delivery) -> hyper::Response<ResponseBody> {
    let (head, body) = match delivery {
        Delivery::Complete(response) => {
            parts(response, |body| ResponseBody::Complete(Full::new(body)))
        }
        Delivery::Half(response) => parts(response, |body| ResponseBody::Half(Half::of(&body))),
    };
    hyper::Response::from_parts(head, body)
}

fn parts(
    response: Response,
    wrap: impl FnOnce(Bytes) -> ResponseBody,
) -> (http::response::Parts, ResponseBody) {
    let (mut head, ()) = hyper::Response::new(()).into_parts();
    head.status = response.status;
    head.headers = response.headers;
    (head, wrap(response.body))
}

impl Half {
    fn of(body: &Bytes) -> Self {
        Self {
            length: body.len() as u64,
            rest: body.slice(..body.len() / 2),
            yields: true,
        }
    }

    fn next(&mut self, cx: &Context<'_>) -> Poll<Result<Bytes, CutInBody>> {
        if std::mem::take(&mut self.yields) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            return Poll::Ready(Err(CutInBody));
        }
        self.yields = true;
        Poll::Ready(Ok(self.rest.split_to(self.rest.len().min(PIECE))))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CutInBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutInBody>>> {
        match self.get_mut() {
            Self::Complete(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Self::Half(half) => half.next(cx).map(|piece| Some(piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Complete(body) => body.is_end_stream(),
            Self::Half(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Complete(body) => body.size_hint(),
            // The length in the head is that of the complete body.
            Self::Half(half) => SizeHint::with_exact(half.length),
        }
    }
}
