//! Waiting for several futures at once, without a runtime.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

/// Waits for all, and gives their outputs in order. Dropping it drops all.
pub async fn join_all<F: Future + Send>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F::Output: Send,
{
    enum Slot<F: Future> {
        Running(Pin<Box<F>>),
        Done(Option<F::Output>),
    }
    let mut slots: Vec<Slot<F>> = futures
        .into_iter()
        .map(|future| Slot::Running(Box::pin(future)))
        .collect();
    std::future::poll_fn(|cx| {
        let mut running = false;
        for slot in &mut slots {
            if let Slot::Running(future) = slot {
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => *slot = Slot::Done(Some(output)),
                    Poll::Pending => running = true,
                }
            }
        }
        if running {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    let output = |slot| match slot {
        Slot::Done(output) => output,
        Slot::Running(_) => None,
    };
    slots.into_iter().filter_map(output).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};
    use std::time::Duration;
    use tinkers_core::{Clock, ManualClock};

    #[test]
    fn outputs_keep_the_order_of_the_futures() {
        let clock = ManualClock::new();
        let mut cx = Context::from_waker(Waker::noop());
        let sleeps = [3u64, 1, 2].map(|seconds| {
            let time: &dyn Clock = &clock;
            let sleep = time.sleep(Duration::from_secs(seconds));
            async move {
                sleep.await;
                seconds
            }
        });
        let mut all = std::pin::pin!(join_all(sleeps));
        assert!(all.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(2));
        assert!(all.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(1));
        assert_eq!(all.as_mut().poll(&mut cx), Poll::Ready(vec![3, 1, 2]));
    }
}
