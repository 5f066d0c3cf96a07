//! A blocking API for programs without asynchronous code.
//!
//! All calls of the SDK return a future, or a builder that is awaited like one. [`Wait::wait`] takes the place of `.await`: it blocks the
//! calling thread until the result is there. The clients are the same, so everything else about them applies: calls are queued when the
//! method is called (builders: when `send` or `wait` is called), so that a program can start several calls before it waits for the first.
//!
//! ```no_run
//! use tinkers::blocking::Wait as _;
//! use tinkers::prelude::*;
//!
//! fn main() -> Result<(), Error> {
//!     let service = ServiceClient::from_env().wait()?;
//!     let training = service.create_lora_training_client("Qwen/Qwen3-8B").rank(32).wait()?;
//!     let batch = [Datum::next_token(&[1, 2, 3, 4], vec![1.0; 3])?];
//!     for _ in 0..10 {
//!         // Both are queued before the program waits.
//!         let pass = training.forward_backward(&batch, LossFn::CrossEntropy);
//!         let step = training.optim_step(AdamParams::new(1e-4));
//!         println!("loss {:?}", pass.wait()?.loss_sum());
//!         step.wait()?;
//!     }
//!     let sampler = training.save_weights_and_get_sampling_client().wait()?;
//!     let prompts = [[1, 2], [3, 4]];
//!     for sample in tinkers::blocking::iter(sampler.sample_stream(prompts, 2, |sample| sample.max_tokens(8))) {
//!         println!("prompt {}: {:?}", sample.index, sample.result?.sequences[0].tokens);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Do not call these functions in asynchronous code: they would block a thread of its executor, and never return if that thread does the
//! I/O of the SDK. In asynchronous code, await instead, or move the work to `tokio::task::spawn_blocking`.

use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;

use futures_util::Stream;
use tinkers_transport::block_on;

/// An extension trait that waits for a future or builder of the SDK by blocking the calling thread.
pub trait Wait: IntoFuture + Sized {
    /// Starts the call if it is not started yet, blocks the calling thread until the call ends, and returns its result.
    fn wait(self) -> Self::Output {
        block_on(self.into_future())
    }
}

impl<T: IntoFuture> Wait for T {}

/// Returns a blocking iterator over the items of a stream, such as a [`SampleStream`](crate::SampleStream). Dropping the iterator drops
/// the stream.
pub fn iter<S: Stream + Unpin>(stream: S) -> Iter<S> {
    Iter { stream }
}

/// A blocking iterator over the items of a stream, made by [`iter`]. `next` blocks the calling thread until the stream has an item or ends.
#[derive(Debug)]
#[must_use = "an iterator does nothing until it is used"]
pub struct Iter<S> {
    stream: S,
}

impl<S: Stream + Unpin> Iterator for Iter<S> {
    type Item = S::Item;

    fn next(&mut self) -> Option<S::Item> {
        block_on(poll_fn(|cx| Pin::new(&mut self.stream).poll_next(cx)))
    }
}
