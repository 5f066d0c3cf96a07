//! One sampling request and its parameters.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

use tinkers_core::{BoxFuture, Result, RouteClass};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::{ModelInput, SampleRequest, SampleResponse, SamplingParams, Stop, TensorData};

use crate::client::Inner;
use crate::run::run;

/// A sampling request being put together. `.await` it, or [`Sample::send`] it.
///
/// What is not set is not sent and is the server's choice: one sample, temperature 1, no top-k, top-p 1, stop at the end of
/// text. Some servers insist on `max_tokens`.
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited or sent"]
pub struct Sample {
    client: Arc<Inner>,
    /// On the heap from the start: it is large, handed on with each parameter, and kept until the result is there.
    request: Box<SampleRequest>,
}

impl Sample {
    pub(crate) fn new(client: Arc<Inner>, prompt: ModelInput) -> Self {
        let request = Box::new(SampleRequest {
            prompt,
            ..SampleRequest::default()
        });
        Self { client, request }
    }

    /// At most this many tokens in each sequence; at least 1.
    pub fn max_tokens(mut self, max_tokens: u32) -> Self {
        self.request.sampling_params.max_tokens = Some(max_tokens);
        self
    }

    /// The same seed, prompt and parameters give the same tokens.
    pub fn seed(mut self, seed: u64) -> Self {
        self.request.sampling_params.seed = Some(seed);
        self
    }

    /// What ends a sequence: a text, several, or token ids. An empty list: nothing but `max_tokens`, not even the end of text.
    pub fn stop(mut self, stop: impl Into<Stop>) -> Self {
        self.request.sampling_params.stop = Some(stop.into());
        self
    }

    /// 0 takes the most likely token.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.request.sampling_params.temperature = Some(temperature);
        self
    }

    /// Only the `top_k` most likely tokens; -1 for all.
    pub fn top_k(mut self, top_k: i32) -> Self {
        self.request.sampling_params.top_k = Some(top_k);
        self
    }

    /// Only the most likely tokens that together reach this probability.
    pub fn top_p(mut self, top_p: f64) -> Self {
        self.request.sampling_params.top_p = Some(top_p);
        self
    }

    /// All of these parameters at once, in place of those set before.
    pub fn params(mut self, params: SamplingParams) -> Self {
        self.request.sampling_params = params;
        self
    }

    /// How many sequences; at least 1.
    pub fn num_samples(mut self, num_samples: u32) -> Self {
        self.request.num_samples = Some(num_samples);
        self
    }

    /// The log-probabilities of the prompt's tokens too.
    pub fn prompt_logprobs(mut self) -> Self {
        self.request.prompt_logprobs = Some(true);
        self
    }

    /// Those of the last `n` prompt tokens alone.
    pub fn prompt_logprobs_last_n(mut self, n: u32) -> Self {
        self.request.prompt_logprobs = Some(true);
        self.request.prompt_logprobs_last_n = Some(n);
        self
    }

    /// The `k` most likely tokens at each prompt position.
    pub fn topk_prompt_logprobs(mut self, k: u32) -> Self {
        self.request.topk_prompt_logprobs = Some(k);
        self
    }

    /// The `k` most likely tokens at each sampled position.
    pub fn topk_sample_logprobs(mut self, k: u32) -> Self {
        self.request.topk_sample_logprobs = Some(k);
        self
    }

    /// The log-probabilities of these tokens at each prompt position: int64 `[prompt length - 1, K]`, -1 where none is asked.
    pub fn target_prompt_logprobs(mut self, targets: TensorData) -> Self {
        self.request.target_prompt_logprobs = Some(targets);
        self
    }

    /// `k` alternatives drawn for each prompt token but the first.
    pub fn prompt_alt_tokens(mut self, k: u32) -> Self {
        self.request.prompt_alt_tokens_k = Some(k);
        self
    }

    /// Has the server record what the loss `stable_reinforce` needs.
    pub fn record_stability_info(mut self) -> Self {
        self.request.record_stability_info = Some(true);
        self
    }

    /// Starts it. The future is a handle on work under way; dropping it gives the sample up.
    pub fn send(self) -> ApiFuture<SampleResponse> {
        let Self { client, request } = self;
        let operation = Operation::new(
            Arc::clone(&client.session),
            "SamplingClient.sample",
            RouteClass::Sample,
        );
        start(operation.clone(), run(client, request, operation))
    }

    pub(crate) fn into_request(self) -> Box<SampleRequest> {
        self.request
    }
}

impl IntoFuture for Sample {
    type Output = Result<SampleResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.send().await })
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("sampler_id", &self.client.sampler_id)
            .field("prompt_tokens", &self.request.prompt.len())
            .field("params", &self.request.sampling_params)
            .finish_non_exhaustive()
    }
}
