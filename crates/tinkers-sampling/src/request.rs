//! A sampling request and its parameters.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

use tinkers_core::{Result, RouteClass};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::{ModelInput, SampleRequest, SampleResponse, SamplingParams, Stop, TensorData};

use crate::run::run;
use crate::sampler::Sampler;

/// A builder of a sampling request, made by `SamplingClient::sample`. Await the builder, or start the sample with [`Sample::send`].
///
/// Parameters that are not set are not sent. The server's defaults are one sequence, temperature 1, no top-k, top-p 1, and a stop at
/// the end-of-text token. Some servers require `max_tokens`.
///
/// ```no_run
/// # async fn sample(sampler: tinkers_sampling::SamplingClient) -> tinkers_core::Result<()> {
/// // Both samples are in flight at the same time.
/// let first = sampler.sample(vec![1, 2, 3]).max_tokens(16).stop("\n").send();
/// let second = sampler.sample(vec![4, 5, 6]).max_tokens(16).temperature(0.0).send();
/// println!("{:?} {:?}", first.await?.sequences, second.await?.sequences);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a request is sent only when it is awaited or `send` is called"]
pub struct Sample {
    sampler: Arc<Sampler>,
    /// The request body. Boxed, since the body is large, is moved by each setter, and stays in memory until the result is available.
    request: Box<SampleRequest>,
}

impl Sample {
    pub(crate) fn new(sampler: Arc<Sampler>, prompt: ModelInput) -> Self {
        let request = Box::new(SampleRequest {
            prompt,
            ..SampleRequest::default()
        });
        Self { sampler, request }
    }

    /// Sets the maximum number of sampled tokens of each sequence; at least 1. Without it, the server decides: on the embedded server, a
    /// sequence may fill the context of the model.
    pub fn max_tokens(mut self, max_tokens: u32) -> Self {
        self.request.sampling_params.max_tokens = Some(max_tokens);
        self
    }

    /// Sets the random seed. Requests with the same seed, prompt and parameters sample the same tokens.
    pub fn seed(mut self, seed: u64) -> Self {
        self.request.sampling_params.seed = Some(seed);
        self
    }

    /// Sets the texts or the token ids that end a sequence. With an empty list, only `max_tokens` ends a sequence: the end-of-text token does
    /// not.
    pub fn stop(mut self, stop: impl Into<Stop>) -> Self {
        self.request.sampling_params.stop = Some(stop.into());
        self
    }

    /// Sets the temperature. The logits are divided by the temperature before sampling. At 0 the most likely token is chosen.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.request.sampling_params.temperature = Some(temperature);
        self
    }

    /// Restricts sampling to the `top_k` most likely tokens; -1 removes the restriction.
    pub fn top_k(mut self, top_k: i32) -> Self {
        self.request.sampling_params.top_k = Some(top_k);
        self
    }

    /// Restricts sampling to the most likely tokens that together reach the probability `top_p` (nucleus sampling).
    pub fn top_p(mut self, top_p: f64) -> Self {
        self.request.sampling_params.top_p = Some(top_p);
        self
    }

    /// Replaces all parameters in [`SamplingParams`]: maximum length, seed, stop, temperature, top-k and top-p.
    pub fn params(mut self, params: SamplingParams) -> Self {
        self.request.sampling_params = params;
        self
    }

    /// Sets the number of sequences to sample for the prompt; at least 1.
    pub fn num_samples(mut self, num_samples: u32) -> Self {
        self.request.num_samples = Some(num_samples);
        self
    }

    /// Requests the natural log-probability of each token of the prompt.
    pub fn prompt_logprobs(mut self) -> Self {
        self.request.prompt_logprobs = Some(true);
        self
    }

    /// Requests the natural log-probabilities of the last `n` tokens of the prompt.
    pub fn prompt_logprobs_last_n(mut self, n: u32) -> Self {
        self.request.prompt_logprobs = Some(true);
        self.request.prompt_logprobs_last_n = Some(n);
        self
    }

    /// Requests the `k` most likely tokens at each position of the prompt, with their log-probabilities.
    pub fn topk_prompt_logprobs(mut self, k: u32) -> Self {
        self.request.topk_prompt_logprobs = Some(k);
        self
    }

    /// Requests the `k` most likely tokens at each sampled position, with their log-probabilities.
    pub fn topk_sample_logprobs(mut self, k: u32) -> Self {
        self.request.topk_sample_logprobs = Some(k);
        self
    }

    /// Requests the log-probabilities of given tokens at each position of the prompt except the first. `targets` is an int64 tensor of
    /// token ids with the shape `[prompt length - 1, K]`; the id -1 leaves an entry out.
    pub fn target_prompt_logprobs(mut self, targets: TensorData) -> Self {
        self.request.target_prompt_logprobs = Some(targets);
        self
    }

    /// Requests `k` alternative tokens, sampled from the model, for each token of the prompt except the first.
    pub fn prompt_alt_tokens(mut self, k: u32) -> Self {
        self.request.prompt_alt_tokens_k = Some(k);
        self
    }

    /// Requests that the server records the data that the loss function `stable_reinforce` needs.
    pub fn record_stability_info(mut self) -> Self {
        self.request.record_stability_info = Some(true);
        self
    }

    /// Starts the sample and returns its handle. Dropping the handle abandons the sample.
    pub fn send(self) -> ApiFuture<SampleResponse> {
        let Self { sampler, request } = self;
        let operation = Operation::new(
            Arc::clone(&sampler.session),
            "SamplingClient.sample",
            RouteClass::Sample,
        );
        start(operation.clone(), run(sampler, request, operation))
    }

    pub(crate) fn into_request(self) -> Box<SampleRequest> {
        self.request
    }
}

impl IntoFuture for Sample {
    type Output = Result<SampleResponse>;
    type IntoFuture = ApiFuture<SampleResponse>;

    fn into_future(self) -> Self::IntoFuture {
        self.send()
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("sampler_id", &self.sampler.id)
            .field("prompt_tokens", &self.request.prompt.len())
            .field("params", &self.request.sampling_params)
            .finish_non_exhaustive()
    }
}
