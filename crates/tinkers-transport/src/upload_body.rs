//! Request bodies, handed to the connection in chunks, so that the time limits can follow the upload.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tinkers_core::{Clock, Timestamp};

/// The size of a chunk of the request body in bytes: small enough to show the progress of an upload, and large enough for a low overhead.
const CHUNK: usize = 128 * 1024;

/// The progress of the upload of a request body. The task of the connection records the progress, and the task of the request reads it, to
/// detect a stalled upload.
#[derive(Debug)]
pub(crate) struct UploadProgress {
    clock: Arc<dyn Clock>,
    /// The last time at which the connection accepted a chunk of the request body, in nanoseconds since the origin of the clock.
    last: AtomicU64,
    done: AtomicBool,
}

impl UploadProgress {
    /// Creates the progress of an upload that starts at `now`.
    pub(crate) fn new(clock: Arc<dyn Clock>, now: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            clock,
            last: AtomicU64::new(nanos(now)),
            done: AtomicBool::new(false),
        })
    }

    /// Returns the last time at which the connection accepted a chunk of the request body, and whether the upload is complete.
    pub(crate) fn state(&self) -> (Timestamp, bool) {
        // `done` is read first: it is set after `last`, so `true` comes with the time of the last chunk.
        let done = self.done.load(Ordering::Acquire);
        (
            Timestamp::from_origin(Duration::from_nanos(self.last.load(Ordering::Acquire))),
            done,
        )
    }

    fn touch(&self) {
        self.last.store(nanos(self.clock.now()), Ordering::Release);
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

/// The request body in the form that hyper needs.
#[derive(Debug)]
pub(crate) struct UploadBody {
    rest: Bytes,
    progress: Arc<UploadProgress>,
}

impl UploadBody {
    pub(crate) fn new(bytes: Bytes, progress: Arc<UploadProgress>) -> Self {
        if bytes.is_empty() {
            progress.finish();
        }
        Self {
            rest: bytes,
            progress,
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            self.progress.finish();
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(CHUNK);
        let chunk = self.rest.split_to(length);
        if self.rest.is_empty() {
            self.progress.finish();
        } else {
            self.progress.touch();
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Drop for UploadBody {
    fn drop(&mut self) {
        // The connection needs no more of the body, possibly since the server has responded early.
        self.progress.finish();
    }
}

#[cfg(test)]
mod tests {
    use tinkers_core::ManualClock;

    use super::*;

    #[test]
    fn upload_progress_is_the_time_of_the_last_uploaded_chunk() {
        let clock = ManualClock::new();
        let progress = UploadProgress::new(Arc::new(clock.clone()), Timestamp::ORIGIN);
        let body = Bytes::from(vec![7; CHUNK + 1]);
        let mut upload = UploadBody::new(body, Arc::clone(&progress));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut pull = |upload: &mut UploadBody| match Pin::new(upload).poll_frame(&mut cx) {
            Poll::Ready(frame) => {
                frame.map(|frame| frame.expect("infallible").into_data().expect("data").len())
            }
            Poll::Pending => panic!("an upload never waits"),
        };
        assert_eq!(upload.size_hint().exact(), Some(CHUNK as u64 + 1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(pull(&mut upload), Some(CHUNK));
        assert_eq!(
            progress.state(),
            (Timestamp::from_origin(Duration::from_secs(1)), false)
        );
        clock.advance(Duration::from_secs(1));
        assert_eq!(pull(&mut upload), Some(1));
        assert_eq!(
            progress.state(),
            (Timestamp::from_origin(Duration::from_secs(2)), true)
        );
        clock.advance(Duration::from_secs(1));
        assert_eq!(pull(&mut upload), None);
        drop(upload);
        assert_eq!(
            progress.state().0,
            Timestamp::from_origin(Duration::from_secs(2))
        );
    }

    #[test]
    fn empty_upload_is_done_from_the_start() {
        let progress = UploadProgress::new(Arc::new(ManualClock::new()), Timestamp::ORIGIN);
        let upload = UploadBody::new(Bytes::new(), Arc::clone(&progress));
        assert!(upload.is_end_stream() && progress.state().1);
    }
}
