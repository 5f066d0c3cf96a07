//! Answers on their way to a socket, whole or cut half way.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::exchange::Delivery;
use crate::http::Response;

/// So much of a body that is to be cut goes out at once.
const PIECE: usize = 16 << 10;

/// The body of an answer.
pub(super) enum Outgoing {
    Whole(Full<Bytes>),
    Half(Half),
}

/// The first half of a body, in the place of the whole.
pub(super) struct Half {
    length: u64,
    rest: Bytes,
    /// The connection is first given time to write what it has: one that fails writes nothing more.
    waits: bool,
}

/// The connection ends in the middle of an answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the connection is cut within an answer, as the fault script says")]
pub(super) struct CutWithin;

/// The answer as hyper takes it.
pub(super) fn outgoing(delivery: Delivery) -> hyper::Response<Outgoing> {
    let (head, body) = match delivery {
        Delivery::Whole(response) => parts(response, |body| Outgoing::Whole(Full::new(body))),
        Delivery::Half(response) => parts(response, |body| Outgoing::Half(Half::of(&body))),
    };
    hyper::Response::from_parts(head, body)
}

fn parts(
    response: Response,
    wrap: impl FnOnce(Bytes) -> Outgoing,
) -> (http::response::Parts, Outgoing) {
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
            waits: true,
        }
    }

    fn next(&mut self, cx: &Context<'_>) -> Poll<Result<Bytes, CutWithin>> {
        if std::mem::take(&mut self.waits) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            return Poll::Ready(Err(CutWithin));
        }
        self.waits = true;
        Poll::Ready(Ok(self.rest.split_to(self.rest.len().min(PIECE))))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = CutWithin;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutWithin>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Self::Half(half) => half.next(cx).map(|piece| Some(piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Half(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            // That of the whole, as the head says.
            Self::Half(half) => SizeHint::with_exact(half.length),
        }
    }
}
