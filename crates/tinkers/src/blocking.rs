//! A blocking API for programs without asynchronous code.
//!
//! All calls of the SDK return a future, or a builder that can be awaited like a future. Call [`Wait::wait`] instead of `.await` to block the
//! calling thread until the result is available. The clients and their guarantees are the same as in asynchronous code. In particular, a
//! training call is queued when its method is called, and a builder starts when `send` or `wait` is called. So a program can start several
//! calls before it waits for the first result.
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
//!         // Both calls are queued before the program waits.
//!         let gradients = training.forward_backward(&batch, LossFn::CrossEntropy);
//!         let step = training.optim_step(AdamParams::new(1e-4));
//!         println!("loss {:?}", gradients.wait()?.loss_sum());
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
//! Do not use this module in asynchronous code. Its functions would block a thread of the executor, and would never return if this thread
//! performs the I/O of the SDK. In asynchronous code, use `.await`, or move the work to `tokio::task::spawn_blocking`.

use std::future::IntoFuture;

use futures_util::{Stream, StreamExt as _};
use tinkers_transport::block_on;

/// An extension trait that waits for a future or builder of the SDK by blocking the calling thread.
pub trait Wait: IntoFuture + Sized {
    /// Starts the operation if it is not started yet, blocks the calling thread until the operation has ended, and returns its result.
    fn wait(self) -> Self::Output {
        block_on(self.into_future())
    }
}

impl<T: IntoFuture> Wait for T {}

/// Returns an iterator over a stream, such as a [`SampleStream`](crate::SampleStream). Each step blocks the calling thread until the stream has
/// an item or ends. Dropping the iterator drops the stream.
pub fn iter<S: Stream + Unpin>(mut stream: S) -> impl Iterator<Item = S::Item> {
    std::iter::from_fn(move || block_on(stream.next()))
}
