//! Samples over many prompts, given as they finish.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use tinkers_core::Result;
use tinkers_futures::ApiFuture;
use tinkers_wire::{ModelInput, SampleResponse};

use crate::{Sample, SamplingClient};

/// The sample of one prompt of a stream.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sampled {
    /// Which prompt, counted from 0.
    pub index: usize,
    /// Its sample.
    pub result: Result<SampleResponse>,
}

/// A stream of samples over prompts, in the order in which they finish.
///
/// # Cancel safety
/// Not polling it lets what is under way finish and starts nothing new; dropping it gives up what is under way.
pub struct SampleStream<P, B> {
    client: SamplingClient,
    prompts: P,
    build: B,
    limit: usize,
    next: usize,
    exhausted: bool,
    running: BTreeMap<usize, ApiFuture<SampleResponse>>,
    ready: Arc<Ready>,
}

// Nothing in it is ever pinned: the iterator and the builder are used by plain reference.
impl<P, B> Unpin for SampleStream<P, B> {}

/// Which of the running samples have news, so that a poll looks at those alone.
struct Ready {
    state: Mutex<(Vec<usize>, Waker)>,
}

struct Nudge {
    index: usize,
    ready: Arc<Ready>,
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        let waker = {
            let mut state = self
                .ready
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            state.0.push(self.index);
            state.1.clone()
        };
        waker.wake();
    }
}

impl Ready {
    /// Takes the indices with news, and leaves `waker` for more.
    fn take(&self, waker: &Waker) -> Vec<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.clone_from(waker);
        std::mem::take(&mut state.0)
    }

    fn put_back(&self, indices: impl Iterator<Item = usize>) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .extend(indices);
    }
}

impl<P, B> SampleStream<P, B> {
    pub(crate) fn new(client: SamplingClient, prompts: P, in_flight: usize, build: B) -> Self {
        Self {
            client,
            prompts,
            build,
            limit: in_flight.max(1),
            next: 0,
            exhausted: false,
            running: BTreeMap::new(),
            ready: Arc::new(Ready {
                state: Mutex::new((Vec::new(), Waker::noop().clone())),
            }),
        }
    }

    /// How many samples are under way.
    pub fn in_flight(&self) -> usize {
        self.running.len()
    }
}

impl<P, B> SampleStream<P, B>
where
    P: Iterator,
    P::Item: Into<ModelInput>,
    B: FnMut(Sample) -> Sample,
{
    /// The next sample; `None` when all prompts are done.
    pub async fn next(&mut self) -> Option<Sampled> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn fill(&mut self) {
        while !self.exhausted && self.running.len() < self.limit {
            let Some(prompt) = self.prompts.next() else {
                self.exhausted = true;
                return;
            };
            let sample = (self.build)(self.client.sample(prompt));
            self.running.insert(self.next, sample.send());
            // Polled once at the start, so that it knows whom to nudge.
            self.ready.put_back(std::iter::once(self.next));
            self.next += 1;
        }
    }
}

impl<P, B> Stream for SampleStream<P, B>
where
    P: Iterator,
    P::Item: Into<ModelInput>,
    B: FnMut(Sample) -> Sample,
{
    type Item = Sampled;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Sampled>> {
        let this = self.get_mut();
        this.fill();
        let mut nudged = this.ready.take(cx.waker()).into_iter();
        while let Some(index) = nudged.next() {
            let Some(running) = this.running.get_mut(&index) else {
                continue;
            };
            let waker = Waker::from(Arc::new(Nudge {
                index,
                ready: Arc::clone(&this.ready),
            }));
            if let Poll::Ready(result) = Pin::new(running).poll(&mut Context::from_waker(&waker)) {
                this.running.remove(&index);
                this.ready.put_back(nudged);
                return Poll::Ready(Some(Sampled { index, result }));
            }
        }
        if this.running.is_empty() && this.exhausted {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

impl<P, B> fmt::Debug for SampleStream<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampleStream")
            .field("started", &self.next)
            .field("in_flight", &self.running.len())
            .finish_non_exhaustive()
    }
}
