//! A stream of samples over many prompts, in the order in which they finish.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use tinkers_core::Result;
use tinkers_futures::ApiFuture;
use tinkers_wire::{ModelInput, SampleResponse};

use crate::Sample;
use crate::sampler::Sampler;

/// The sample of one prompt of a [`SampleStream`].
#[derive(Debug)]
#[non_exhaustive]
pub struct StreamedSample {
    /// The index of the prompt, from 0.
    pub index: usize,
    /// The outcome of its sample.
    pub result: Result<SampleResponse>,
}

/// A stream of samples over prompts, in the order in which they finish.
///
/// # Cancel safety
/// A stream that is not polled starts no samples; those in flight go on. Dropping it abandons the samples in flight.
pub struct SampleStream<P, B> {
    sampler: Arc<Sampler>,
    prompts: P,
    build: B,
    limit: usize,
    next_index: usize,
    is_exhausted: bool,
    in_flight: FuturesUnordered<Indexed>,
}

// No field is ever pinned in place.
impl<P, B> Unpin for SampleStream<P, B> {}

/// A sample in flight with the index of its prompt.
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

impl<P, B> SampleStream<P, B> {
    pub(crate) fn new(sampler: Arc<Sampler>, prompts: P, in_flight: usize, build: B) -> Self {
        Self {
            sampler,
            prompts,
            build,
            limit: in_flight.max(1),
            next_index: 0,
            is_exhausted: false,
            in_flight: FuturesUnordered::new(),
        }
    }

    /// Returns the number of samples in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

impl<P, B> SampleStream<P, B>
where
    P: Iterator,
    P::Item: Into<ModelInput>,
    B: FnMut(Sample) -> Sample,
{
    /// Waits for the next sample; returns `None` when all prompts are sampled. Cancel safe.
    pub async fn next(&mut self) -> Option<StreamedSample> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Starts samples up to the limit.
    fn fill(&mut self) {
        while !self.is_exhausted && self.in_flight.len() < self.limit {
            let Some(prompt) = self.prompts.next() else {
                self.is_exhausted = true;
                return;
            };
            let sample = Sample::new(Arc::clone(&self.sampler), prompt.into());
            self.in_flight.push(Indexed {
                index: self.next_index,
                sample: (self.build)(sample).send(),
            });
            self.next_index += 1;
        }
    }
}

impl<P, B> Stream for SampleStream<P, B>
where
    P: Iterator,
    P::Item: Into<ModelInput>,
    B: FnMut(Sample) -> Sample,
{
    type Item = StreamedSample;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamedSample>> {
        let this = self.get_mut();
        this.fill();
        // Empty only when the prompts are exhausted, since the limit is at least 1.
        Pin::new(&mut this.in_flight).poll_next(cx)
    }
}

impl<P, B> fmt::Debug for SampleStream<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampleStream")
            .field("started", &self.next_index)
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}
