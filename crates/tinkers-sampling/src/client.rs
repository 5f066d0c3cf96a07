//! The client of one sampler.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tinkers_core::{ClientId, Error, RouteClass, SessionContext};
use tinkers_futures::{ApiFuture, Operation, QueueLog, SessionPoller, start};
use tinkers_wire::{ModelInput, PollTarget};

use crate::request::Sample;
use crate::run::run;
use crate::stream::SampleStream;

/// One sampler: a base model or saved weights, ready to be sampled from. Clones share its numbers and its place among the
/// clients of a limiter.
#[derive(Clone)]
pub struct SamplingClient {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) session: Arc<dyn SessionContext>,
    pub(crate) sampler_id: String,
    pub(crate) client: ClientId,
    pub(crate) queue_log: Arc<QueueLog>,
    /// Waits for all of its samples at once, where the server offers that. It ends with the client and its last sample.
    pub(crate) poller: Option<SessionPoller>,
    next_seq: AtomicU64,
}

/// The number of the first sample.
const FIRST_SEQ: u64 = 0;

impl Inner {
    /// The next number of a sample: one for each submission, the same on every retry of it.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq.fetch_add(1, Ordering::Relaxed)
    }
}

impl SamplingClient {
    /// The client of a sampler that the server has made.
    pub fn new(session: Arc<dyn SessionContext>, sampler_id: impl Into<String>) -> Self {
        let sampler_id = sampler_id.into();
        let queue_log = Arc::new(QueueLog::sampling(format!("sampler {sampler_id}")));
        let client = session.next_client();
        let poller = session.config().sample_use_retrieve_futures.then(|| {
            let target = PollTarget::samples(&sampler_id, PollTarget::client_of(FIRST_SEQ));
            SessionPoller::new(Arc::clone(&session), client, target)
        });
        Self {
            inner: Arc::new(Inner {
                session,
                sampler_id,
                client,
                queue_log,
                poller,
                next_seq: AtomicU64::new(FIRST_SEQ),
            }),
        }
    }

    /// The server's id of the sampler.
    pub fn sampler_id(&self) -> &str {
        &self.inner.sampler_id
    }

    /// A sample of what continues `prompt`. Await it, or [`Sample::send`] it to have it under way.
    pub fn sample(&self, prompt: impl Into<ModelInput>) -> Sample {
        Sample::new(Arc::clone(&self.inner), prompt.into())
    }

    /// The log-probability of each token of `prompt`, natural logarithm; `None` where there is none, as for the first. As long
    /// as the prompt, also on servers that leave the first entry out.
    pub fn compute_logprobs(&self, prompt: impl Into<ModelInput>) -> ApiFuture<Vec<Option<f32>>> {
        const NAME: &str = "SamplingClient.compute_logprobs";
        let prompt = prompt.into();
        let length = prompt.len();
        let mut request = Sample::new(Arc::clone(&self.inner), prompt)
            .max_tokens(1)
            .prompt_logprobs()
            .into_request();
        request.num_samples = Some(1);
        let inner = Arc::clone(&self.inner);
        let operation = Operation::new(Arc::clone(&inner.session), NAME, RouteClass::Sample);
        start(operation.clone(), async move {
            let response = Box::pin(run(inner, request, operation)).await?;
            let logprobs = response.prompt_logprobs.ok_or_else(|| {
                let message = "the server sent no log-probabilities of the prompt";
                Error::new(
                    tinkers_core::ErrorKind::Protocol,
                    tinkers_core::Sent::Answered,
                    message,
                )
            })?;
            Ok(lined_up(logprobs, length))
        })
    }

    /// Samples for many prompts, given as they finish, with at most `in_flight` under way. `build` makes the request for each.
    ///
    /// Prompts are taken from the iterator as there is room for them. Dropping the stream gives up what is under way.
    pub fn sample_stream<P, B>(
        &self,
        prompts: P,
        in_flight: usize,
        build: B,
    ) -> SampleStream<P::IntoIter, B>
    where
        P: IntoIterator,
        P::Item: Into<ModelInput>,
        B: FnMut(Sample) -> Sample,
    {
        SampleStream::new(self.clone(), prompts.into_iter(), in_flight, build)
    }
}

impl fmt::Debug for SamplingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SamplingClient")
            .field("sampler_id", &self.inner.sampler_id)
            .finish_non_exhaustive()
    }
}

/// Lines log-probabilities up with the prompt from its end: some servers leave out the first token, which has none.
fn lined_up(logprobs: Vec<Option<f32>>, length: Option<usize>) -> Vec<Option<f32>> {
    let missing = length.unwrap_or(0).saturating_sub(logprobs.len());
    std::iter::repeat_n(None, missing).chain(logprobs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_lined_up_from_the_end() {
        assert_eq!(lined_up(vec![Some(-1.0)], Some(2)), [None, Some(-1.0)]);
        assert_eq!(
            lined_up(vec![None, Some(-1.0)], Some(2)),
            [None, Some(-1.0)]
        );
        assert_eq!(lined_up(vec![None, Some(-1.0)], None), [None, Some(-1.0)]);
    }
}
