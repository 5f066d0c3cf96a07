//! A stream of samples over many prompts, in the order in which they finish.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use tinkers_core::Result;
use tinkers_futures::ApiFuture;
use tinkers_wire::SampleResponse;

use crate::Sample;

/// An item of a [`SampleStream`]: the outcome of the sample of one prompt.
#[derive(Debug)]
#[non_exhaustive]
pub struct StreamedSample {
    /// The index of the prompt in the iterator of prompts, from 0.
    pub index: usize,
    /// The response, or the error of this sample. Other samples are not affected by an error.
    pub result: Result<SampleResponse>,
}

/// A stream of samples over many prompts, in the order in which the samples finish; see
/// [`SamplingClient::sample_stream`](crate::SamplingClient::sample_stream). `'a` is the lifetime of the prompts.
///
/// While the stream is not polled, it starts no samples, and samples in flight continue. Dropping the stream abandons the samples in
/// flight.
#[must_use = "a stream starts samples only when it is polled"]
pub struct SampleStream<'a> {
    /// The requests whose samples are not started yet.
    requests: Box<dyn Iterator<Item = Sample> + Send + 'a>,
    limit: usize,
    next_index: usize,
    is_exhausted: bool,
    in_flight: FuturesUnordered<Indexed>,
}

/// A started sample without a result yet, with the index of its prompt.
struct Indexed {
    index: usize,
    sample: ApiFuture<SampleResponse>,
}

impl Future for Indexed {
    type Output = StreamedSample;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<StreamedSample> {
        let index = self.index;
        let sample = Pin::new(&mut self.sample).poll(cx);
        sample.map(|result| StreamedSample { index, result })
    }
}

impl<'a> SampleStream<'a> {
    pub(crate) fn new(requests: impl Iterator<Item = Sample> + Send + 'a, limit: usize) -> Self {
        Self {
            requests: Box::new(requests),
            limit: limit.max(1),
            next_index: 0,
            is_exhausted: false,
            in_flight: FuturesUnordered::new(),
        }
    }

    /// Returns the number of samples that were started and have not finished.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Waits for the next finished sample. Returns `None` when all prompts are sampled.
    ///
    /// # Cancel safety
    /// Cancel safe: no result is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<StreamedSample> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Starts samples until the maximum number is in flight or the prompts are exhausted.
    fn fill(&mut self) {
        while !self.is_exhausted && self.in_flight.len() < self.limit {
            let Some(request) = self.requests.next() else {
                self.is_exhausted = true;
                return;
            };
            self.in_flight.push(Indexed {
                index: self.next_index,
                sample: request.send(),
            });
            self.next_index += 1;
        }
    }
}

impl Stream for SampleStream<'_> {
    type Item = StreamedSample;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamedSample>> {
        let this = self.get_mut();
        this.fill();
        // Empty only when the prompts are exhausted, since the limit is at least 1.
        Pin::new(&mut this.in_flight).poll_next(cx)
    }
}

impl fmt::Debug for SampleStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampleStream")
            .field("started", &self.next_index)
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}
