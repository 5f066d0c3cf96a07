//! Waits for several futures at once.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tinkers_core::BoxFuture;

/// Waits for all of them.
pub(crate) async fn together(work: Vec<BoxFuture<'_, ()>>) {
    let mut work: Vec<Option<BoxFuture<'_, ()>>> = work.into_iter().map(Some).collect();
    poll_fn(|cx| {
        for slot in &mut work {
            if let Some(one) = slot
                && Pin::new(one).as_mut().poll(cx).is_ready()
            {
                *slot = None;
            }
        }
        match work.iter().all(Option::is_none) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}
