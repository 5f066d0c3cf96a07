//! A request's body, handed to the connection piece by piece, so that time limits know how far it is.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tinkers_core::{Clock, Timestamp};

/// Bytes given to the connection at a time. Large enough to cost nothing, small enough to see an upload move.
const PIECE: usize = 128 * 1024;

/// How far an upload is: written by the connection's task, read by the request's.
#[derive(Debug)]
pub(crate) struct Meter {
    time: Arc<dyn Clock>,
    /// Nanoseconds since the clock's origin of the last piece taken.
    last: AtomicU64,
    done: AtomicBool,
}

impl Meter {
    /// Of an upload that begins at `now`.
    pub(crate) fn new(time: Arc<dyn Clock>, now: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            time,
            last: AtomicU64::new(nanos(now)),
            done: AtomicBool::new(false),
        })
    }

    /// When a piece was last taken, and whether it was the last.
    pub(crate) fn state(&self) -> (Timestamp, bool) {
        // `done` first: it is set after `last`, so a `true` here comes with the moment of the last piece.
        let done = self.done.load(Ordering::Acquire);
        (
            Timestamp::from_origin(Duration::from_nanos(self.last.load(Ordering::Acquire))),
            done,
        )
    }

    fn touch(&self) {
        self.last.store(nanos(self.time.now()), Ordering::Release);
    }

    fn finish(&self) {
        if !self.done.load(Ordering::Relaxed) {
            self.touch();
            self.done.store(true, Ordering::Release);
        }
    }
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX)
}

/// The body that hyper pulls from.
#[derive(Debug)]
pub(crate) struct Upload {
    rest: Bytes,
    meter: Arc<Meter>,
}

impl Upload {
    pub(crate) fn new(bytes: Bytes, meter: Arc<Meter>) -> Self {
        if bytes.is_empty() {
            meter.finish();
        }
        Self { rest: bytes, meter }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            self.meter.finish();
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        if self.rest.is_empty() {
            self.meter.finish();
        } else {
            self.meter.touch();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The connection wants no more of it, whether it took all or the server answered early.
        self.meter.finish();
    }
}

#[cfg(test)]
mod tests {
    use tinkers_core::ManualClock;

    use super::*;

    #[test]
    fn the_meter_follows_the_pieces_and_ends_with_the_last() {
        let clock = ManualClock::new();
        let meter = Meter::new(Arc::new(clock.clone()), Timestamp::ORIGIN);
        let body = Bytes::from(vec![7; PIECE + 1]);
        let mut upload = Upload::new(body, Arc::clone(&meter));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut pull = |upload: &mut Upload| match Pin::new(upload).poll_frame(&mut cx) {
            Poll::Ready(frame) => {
                frame.map(|frame| frame.expect("infallible").into_data().expect("data").len())
            }
            Poll::Pending => panic!("an upload never waits"),
        };
        assert_eq!(upload.size_hint().exact(), Some(PIECE as u64 + 1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(pull(&mut upload), Some(PIECE));
        assert_eq!(
            meter.state(),
            (Timestamp::from_origin(Duration::from_secs(1)), false)
        );
        clock.advance(Duration::from_secs(1));
        assert_eq!(pull(&mut upload), Some(1));
        assert_eq!(
            meter.state(),
            (Timestamp::from_origin(Duration::from_secs(2)), true)
        );
        clock.advance(Duration::from_secs(1));
        assert_eq!(pull(&mut upload), None);
        drop(upload);
        assert_eq!(
            meter.state().0,
            Timestamp::from_origin(Duration::from_secs(2))
        );
    }

    #[test]
    fn an_empty_body_is_handed_over_from_the_start() {
        let meter = Meter::new(Arc::new(ManualClock::new()), Timestamp::ORIGIN);
        let upload = Upload::new(Bytes::new(), Arc::clone(&meter));
        assert!(upload.is_end_stream() && meter.state().1);
    }
}
