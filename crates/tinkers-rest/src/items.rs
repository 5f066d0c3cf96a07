//! Streams of the items of a list.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use tinkers_core::Result;

/// A stream of the items of a list, which requests page after page. After an error, the stream ends.
///
/// While the stream is not polled, it requests nothing. Dropping it cancels the request that it waits for.
#[must_use = "a stream requests items only when it is polled"]
pub struct ItemStream<T> {
    inner: BoxStream<'static, Result<T>>,
}

impl<T: Send + 'static> ItemStream<T> {
    pub(crate) fn new(inner: BoxStream<'static, Result<T>>) -> Self {
        Self { inner }
    }

    /// Waits for the next item. Returns `None` at the end of the list.
    ///
    /// # Cancel safety
    /// Cancel safe: no item is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<T>> {
        self.inner.next().await
    }

    /// Collects the items into a list, at most the first `max`. Pages after these are not requested.
    ///
    /// # Errors
    /// The first error of the stream.
    pub async fn collect_up_to(self, max: usize) -> Result<Vec<T>> {
        self.inner.take(max).try_collect().await
    }
}

impl<T> Stream for ItemStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(cx)
    }
}

impl<T> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream").finish_non_exhaustive()
    }
}
