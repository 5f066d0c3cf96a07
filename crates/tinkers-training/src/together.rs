//! Several futures under way at once, whose outputs are taken as they come.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

/// Futures that run together in one task. Dropping it drops those that have not ended.
pub(crate) struct Together<F> {
    running: Vec<(usize, Pin<Box<F>>)>,
}

impl<F: Future + Send> Together<F> {
    /// Runs `futures`; each is known by its place among them.
    pub(crate) fn new(futures: impl IntoIterator<Item = F>) -> Self {
        let running = futures.into_iter().map(Box::pin).enumerate().collect();
        Self { running }
    }

    /// The next output to come, with its future's place; `None` when all have ended.
    ///
    /// # Cancel safety
    /// Dropping the returned future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<(usize, F::Output)> {
        std::future::poll_fn(|cx| {
            if self.running.is_empty() {
                return Poll::Ready(None);
            }
            for at in 0..self.running.len() {
                let (place, future) = &mut self.running[at];
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    let place = *place;
                    self.running.remove(at);
                    return Poll::Ready(Some((place, output)));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};
    use std::time::Duration;
    use tinkers_core::{ManualClock, Time};

    #[test]
    fn outputs_come_as_their_futures_end_and_keep_their_places() {
        let clock = ManualClock::new();
        let sleeps = [3u64, 1, 2].map(|seconds| {
            let time: &dyn Time = &clock;
            time.sleep(Duration::from_secs(seconds))
        });
        let mut together = Together::new(sleeps);
        let mut next = || {
            let mut cx = Context::from_waker(Waker::noop());
            std::pin::pin!(together.next()).poll(&mut cx)
        };
        assert_eq!(next(), Poll::Pending);
        clock.advance(Duration::from_secs(2));
        assert_eq!(next(), Poll::Ready(Some((1, ()))));
        assert_eq!(next(), Poll::Ready(Some((2, ()))));
        assert_eq!(next(), Poll::Pending);
        clock.advance(Duration::from_secs(1));
        assert_eq!(next(), Poll::Ready(Some((0, ()))));
        assert_eq!(next(), Poll::Ready(None));
    }
}
