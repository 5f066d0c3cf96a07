//! One sampling request: its parameters, and its way from submission to result.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tinkers_core::{BoxFuture, Call, Cost, Error, ErrorKind, Result, RouteClass, Sent};
use tinkers_futures::{ApiFuture, Operation, Retrieval, promise, retrieve, start};
use tinkers_wire::{
    ModelInput, RequestKind, SampleRequest, SampleResponse, SamplingParams, Stop, TensorData,
    routes, to_json,
};

use crate::client::Inner;

/// A sampling request being put together. `.await` it, or [`Sample::send`] it.
///
/// What is not set is not sent and is the server's choice: one sample, temperature 1, no top-k, top-p 1, stop at the end of
/// text. Some servers insist on `max_tokens`.
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited or sent"]
pub struct Sample {
    client: Arc<Inner>,
    request: SampleRequest,
}

impl Sample {
    pub(crate) fn new(client: Arc<Inner>, prompt: ModelInput) -> Self {
        let request = SampleRequest {
            prompt,
            ..SampleRequest::default()
        };
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
        let operation = Operation::new(Arc::clone(&client.session), "SamplingClient.sample");
        start(operation.clone(), run(client, request, operation))
    }

    pub(crate) fn into_request(self) -> SampleRequest {
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

/// How often a sample that the server lost is sampled anew. Each time is work that somebody pays for.
const MOST_LOST: u32 = 10;
/// Before the first of these; it doubles up to [`LONGEST_PAUSE`]. The pauses of the official SDK.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Submits and waits. A result that the server lost is sampled anew, under a new number, after a pause, ten times at most.
pub(crate) async fn run(
    client: Arc<Inner>,
    mut request: SampleRequest,
    operation: Operation,
) -> Result<SampleResponse> {
    request.validate()?;
    request.sampling_session_id = Some(client.sampler_id.clone());
    let bytes = request.prompt.sampling_bytes();
    let mut lost = 0;
    loop {
        client.session.check_open()?;
        request.seq_id = Some(client.next_seq());
        let mut call = Call::post(routes::ASAMPLE, to_json(&request), RouteClass::Sample);
        call.headers.insert(
            HeaderName::from_static("x-tinker-sampling-backpressure"),
            HeaderValue::from_static("1"),
        );
        call.operation = Some(operation.name);
        call.client = client.client;
        call.cost = Cost { bytes };
        call.progress = Some(Arc::clone(&operation.progress));
        let accepted = client.session.caller().call(call).await?;
        let promise = promise(&accepted.response)?;
        let retrieved = retrieve::<SampleResponse>(Retrieval {
            operation: operation.clone(),
            client: client.client,
            request_id: promise.request_id,
            kind: RequestKind::Sample,
            submitted_in: accepted.elapsed,
            queue_log: Some(Arc::clone(&client.queue_log)),
        })
        .await;
        drop(accepted.flight);
        match retrieved {
            Err(error) if error.kind() == ErrorKind::ResultLost && lost < MOST_LOST => {
                tracing::debug!(error = %error, "the server lost a sample; sampling it anew");
                let caller = client.session.caller();
                let pause = FIRST_PAUSE.saturating_mul(1 << lost).min(LONGEST_PAUSE);
                lost += 1;
                caller
                    .time
                    .sleep_until(caller.time.now().after(pause))
                    .await;
            }
            Err(error) => return Err(error),
            Ok(response) => return checked(&request, response, promise.sample_sequence_ids),
        }
    }
}

/// Adds the sequences' ids, and refuses a response that leaves out what was asked for.
fn checked(
    request: &SampleRequest,
    mut response: SampleResponse,
    ids: Option<Vec<String>>,
) -> Result<SampleResponse> {
    for (sequence, id) in response.sequences.iter_mut().zip(ids.unwrap_or_default()) {
        sequence.sequence_id.get_or_insert(id);
    }
    let wanted = request.num_samples.unwrap_or(1) as usize;
    if response.sequences.len() != wanted {
        return Err(ignored(&format!(
            "{wanted} sequences were asked for and {} came",
            response.sequences.len()
        )));
    }
    if request.prompt_alt_tokens_k.is_some_and(|k| k > 0) && response.prompt_alt_tokens.is_none() {
        return Err(ignored("the server ignored prompt_alt_tokens_k"));
    }
    if let Some(last) = request.prompt_logprobs_last_n
        && let Some(logprobs) = &response.prompt_logprobs
        && logprobs
            .iter()
            .rev()
            .skip(last as usize)
            .any(Option::is_some)
    {
        return Err(ignored("the server ignored prompt_logprobs_last_n"));
    }
    Ok(response)
}

fn ignored(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, Sent::Answered, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_wire::{SampledSequence, StopReason};

    fn response(sequences: usize) -> SampleResponse {
        let mut response = SampleResponse::default();
        response.sequences = (0..sequences)
            .map(|_| SampledSequence::new(StopReason::Stop, vec![1]))
            .collect();
        response
    }

    #[test]
    fn ids_are_optional_and_come_from_the_promise() {
        let request = SampleRequest {
            num_samples: Some(2),
            ..SampleRequest::default()
        };
        let with = checked(&request, response(2), Some(vec!["a".into(), "b".into()])).unwrap();
        assert_eq!(with.sequences[1].sequence_id.as_deref(), Some("b"));
        assert_eq!(
            checked(&request, response(2), None).unwrap().sequences[0].sequence_id,
            None
        );
    }

    #[test]
    fn an_option_that_the_server_ignored_is_an_error() {
        let one = SampleRequest::default();
        assert_eq!(
            checked(&one, response(2), None).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        let alt = SampleRequest {
            prompt_alt_tokens_k: Some(2),
            ..SampleRequest::default()
        };
        assert!(checked(&alt, response(1), None).is_err());
        let last = SampleRequest {
            prompt_logprobs_last_n: Some(1),
            ..SampleRequest::default()
        };
        let mut all = response(1);
        all.prompt_logprobs = Some(vec![None, Some(-1.0), Some(-1.0)]);
        assert!(checked(&last, all.clone(), None).is_err());
        all.prompt_logprobs = Some(vec![None, None, Some(-1.0)]);
        assert!(checked(&last, all, None).is_ok());
    }
}
