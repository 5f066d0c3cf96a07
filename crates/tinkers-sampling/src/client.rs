//! The sampling client.

use std::fmt;
use std::sync::Arc;

use tinkers_core::{Error, ErrorKind, RouteClass, Sent, SessionContext};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::ModelInput;

use crate::request::Sample;
use crate::run::run;
use crate::sampler::Sampler;
use crate::stream::SampleStream;

/// A client of one sampler, which is a base model or saved weights on the server.
///
/// Clones share the sequence numbers and the queue in the limiter.
#[derive(Clone)]
pub struct SamplingClient {
    sampler: Arc<Sampler>,
}

impl SamplingClient {
    /// Creates the client of a sampler that exists on the server.
    pub fn new(session: Arc<dyn SessionContext>, sampler_id: impl Into<String>) -> Self {
        Self {
            sampler: Arc::new(Sampler::new(session, sampler_id.into())),
        }
    }

    /// Returns the server's id of the sampler.
    pub fn sampler_id(&self) -> &str {
        &self.sampler.id
    }

    /// Builds a request for continuations of `prompt`. Await it, or start it with [`Sample::send`].
    pub fn sample(&self, prompt: impl Into<ModelInput>) -> Sample {
        Sample::new(Arc::clone(&self.sampler), prompt.into())
    }

    /// Computes the natural log-probability of each token of `prompt`; `None` where there is none, as for the first token.
    ///
    /// The result is as long as the prompt, also on servers that omit the first entry.
    pub fn compute_logprobs(&self, prompt: impl Into<ModelInput>) -> ApiFuture<Vec<Option<f32>>> {
        const NAME: &str = "SamplingClient.compute_logprobs";
        let prompt = prompt.into();
        let length = prompt.len();
        let mut request = Sample::new(Arc::clone(&self.sampler), prompt)
            .max_tokens(1)
            .prompt_logprobs()
            .into_request();
        request.num_samples = Some(1);
        let sampler = Arc::clone(&self.sampler);
        let operation = Operation::new(Arc::clone(&sampler.session), NAME, RouteClass::Sample);
        start(operation.clone(), async move {
            let response = Box::pin(run(sampler, request, operation)).await?;
            let logprobs = response.prompt_logprobs.ok_or_else(|| {
                let message = "the response has no log-probabilities of the prompt";
                Error::new(ErrorKind::Protocol, Sent::Answered, message)
            })?;
            Ok(aligned(logprobs, length))
        })
    }

    /// Samples many prompts and returns a stream of the results in the order in which they finish. `build` sets the parameters of each
    /// request.
    ///
    /// At most `in_flight` samples are in flight; the stream takes prompts from the iterator as samples finish. Dropping the stream
    /// abandons the samples in flight.
    ///
    /// ```no_run
    /// # async fn sample(sampler: tinkers_sampling::SamplingClient, prompts: Vec<Vec<u32>>) {
    /// let mut samples = sampler.sample_stream(prompts, 100, |sample| sample.max_tokens(64).temperature(0.7));
    /// while let Some(sample) = samples.next().await {
    ///     match sample.result {
    ///         Ok(response) => println!("prompt {}: {:?}", sample.index, response.sequences),
    ///         Err(error) => eprintln!("prompt {}: {error}", sample.index),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn sample_stream<'a, P>(
        &self,
        prompts: P,
        in_flight: usize,
        mut build: impl FnMut(Sample) -> Sample + Send + 'a,
    ) -> SampleStream<'a>
    where
        P: IntoIterator,
        P::IntoIter: Send + 'a,
        P::Item: Into<ModelInput>,
    {
        let sampler = Arc::clone(&self.sampler);
        let request =
            move |prompt: P::Item| build(Sample::new(Arc::clone(&sampler), prompt.into()));
        SampleStream::new(prompts.into_iter().map(request), in_flight)
    }
}

impl fmt::Debug for SamplingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SamplingClient")
            .field("sampler_id", &self.sampler.id)
            .finish_non_exhaustive()
    }
}

/// Pads log-probabilities at the start to the length of the prompt. Some servers omit the first token, which has none.
fn aligned(logprobs: Vec<Option<f32>>, length: Option<usize>) -> Vec<Option<f32>> {
    let missing = length.unwrap_or(0).saturating_sub(logprobs.len());
    std::iter::repeat_n(None, missing).chain(logprobs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_aligned_at_the_end() {
        assert_eq!(aligned(vec![Some(-1.0)], Some(2)), [None, Some(-1.0)]);
        assert_eq!(aligned(vec![None, Some(-1.0)], Some(2)), [None, Some(-1.0)]);
        assert_eq!(aligned(vec![None, Some(-1.0)], None), [None, Some(-1.0)]);
    }
}
