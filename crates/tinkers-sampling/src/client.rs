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

/// A client that samples from one sampler on the server: a base model, or saved weights.
///
/// Clones of the client share one queue of the rate limiter. Samples are independent of each other, and may finish in any order.
///
/// ```no_run
/// # async fn sample(sampler: tinkers_sampling::SamplingClient, prompt: Vec<u32>) -> tinkers_core::Result<()> {
/// let response = sampler.sample(prompt).max_tokens(64).temperature(0.7).num_samples(4).await?;
/// for sequence in &response.sequences {
///     println!("{:?}: {:?}", sequence.stop_reason, sequence.tokens);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SamplingClient {
    sampler: Arc<Sampler>,
}

impl SamplingClient {
    /// Creates a client for a sampler that exists on the server. Sends nothing; an unknown id makes the first sample fail.
    pub fn new(session: Arc<dyn SessionContext>, sampler_id: impl Into<String>) -> Self {
        Self {
            sampler: Arc::new(Sampler::new(session, sampler_id.into())),
        }
    }

    /// Returns the id of the sampler on the server.
    pub fn sampler_id(&self) -> &str {
        &self.sampler.id
    }

    /// Builds a request for continuations of `prompt`. Await the builder, or start the sample with [`Sample::send`].
    ///
    /// ```no_run
    /// # async fn sample(sampler: tinkers_sampling::SamplingClient) -> tinkers_core::Result<()> {
    /// let response = sampler.sample(vec![1, 2, 3]).max_tokens(16).seed(1).await?;
    /// println!("{:?}", response.sequences[0].tokens);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaiting the builder fails with `InvalidInput` for invalid parameters, before anything is sent: correct the parameter that
    /// [`Error::field`] names. It fails with `SessionLost` if the server no longer knows the session or the sampler: connect a new client.
    /// A sample that fails otherwise can be repeated, but each repeat may be billed.
    ///
    /// # Cancel safety
    /// Dropping the builder sends nothing. Dropping the future of a started sample abandons the sample, and cancels it on servers that
    /// support this.
    pub fn sample(&self, prompt: impl Into<ModelInput>) -> Sample {
        Sample::new(Arc::clone(&self.sampler), prompt.into())
    }

    /// Computes the natural log-probability of each token of `prompt`, given the tokens before it.
    ///
    /// The result has one entry per token of the prompt. The entry is `None` for tokens without a log-probability, such as the first token.
    ///
    /// ```no_run
    /// # async fn score(sampler: tinkers_sampling::SamplingClient) -> tinkers_core::Result<()> {
    /// let logprobs = sampler.compute_logprobs(vec![1, 2, 3]).await?;
    /// let total: f32 = logprobs.iter().flatten().sum();
    /// println!("log-probability of tokens 2 and 3: {total}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an invalid prompt, before anything is sent. [`ErrorKind::Protocol`] if the server does not return the
    /// log-probabilities of the prompt: use another server.
    ///
    /// # Cancel safety
    /// The request starts when this method is called. Dropping the future abandons the request.
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

    /// Samples many prompts, and returns a stream of the results in the order in which the samples finish. `build` sets the parameters of
    /// each request.
    ///
    /// At most `in_flight` samples are in flight at once; 0 counts as 1. The stream takes the next prompt from the iterator when a sample
    /// finishes. Dropping the stream abandons the samples in flight.
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

/// Pads log-probabilities with `None` at the start up to the length of the prompt, since some servers omit the entry of the first token.
fn aligned(logprobs: Vec<Option<f32>>, length: Option<usize>) -> Vec<Option<f32>> {
    let missing = length.unwrap_or(0).saturating_sub(logprobs.len());
    std::iter::repeat_n(None, missing).chain(logprobs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_logprobs_are_padded_at_the_start_of_the_prompt() {
        assert_eq!(aligned(vec![Some(-1.0)], Some(2)), [None, Some(-1.0)]);
        assert_eq!(aligned(vec![None, Some(-1.0)], Some(2)), [None, Some(-1.0)]);
        assert_eq!(aligned(vec![None, Some(-1.0)], None), [None, Some(-1.0)]);
    }
}
