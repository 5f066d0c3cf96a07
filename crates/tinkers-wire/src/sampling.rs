//! Requests that create sampling sessions and samples.

use serde::{Deserialize, Serialize};

use crate::nulls::null_is_default;
use crate::response::read_json;
use crate::{
    DecodeError, InvalidInput, ModelInput, OperationResult, TensorData, TinkerPath, input,
};

/// `POST /create_sampling_session`: creates a sampler of a base model or of a checkpoint. Exactly one of `base_model` and `model_path` is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateSamplingSession {
    /// The id of the session.
    pub session_id: String,
    /// The sequence number of the sampling session in the session, from 0. Unnamed saves of weights for sampling are numbered in the same
    /// sequence. A repeated request with the same number creates no second sampling session. Without a number, each request creates another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_session_seq_id: Option<u64>,
    /// The base model to sample from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// The checkpoint to sample from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_path: Option<TinkerPath>,
}

/// The response to [`CreateSamplingSession`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SamplingSessionCreated {
    /// The id of the sampling session.
    #[serde(deserialize_with = "crate::lenient::id")]
    pub sampling_session_id: String,
}

impl SamplingSessionCreated {
    /// Decodes the body of the response to `POST /create_sampling_session`.
    ///
    /// # Errors
    /// Fails if the body cannot be decoded.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

/// Some servers return the sampling session as the result of an operation.
impl OperationResult for SamplingSessionCreated {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        Self::read(body)
    }
}

/// The strings or tokens that end a sampled sequence. These strings or tokens replace the default, the end-of-text token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(clippy::exhaustive_enums, reason = "a list of strings or integers")]
pub enum Stop {
    /// The sequence ends at any of these strings. With an empty list the sequence ends only at the token limit.
    Texts(Vec<String>),
    /// The sequence ends at any of these tokens. With an empty list the sequence ends only at the token limit.
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            One(String),
            Texts(Vec<String>),
            Tokens(Vec<u32>),
        }
        Ok(match Raw::deserialize(deserializer)? {
            Raw::One(text) => Self::Texts(vec![text]),
            Raw::Texts(texts) => Self::Texts(texts),
            Raw::Tokens(tokens) => Self::Tokens(tokens),
        })
    }
}

impl From<&str> for Stop {
    fn from(text: &str) -> Self {
        Self::Texts(vec![text.to_owned()])
    }
}

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Self::Texts(vec![text])
    }
}

impl<const N: usize> From<[&str; N]> for Stop {
    fn from(texts: [&str; N]) -> Self {
        Self::Texts(texts.map(str::to_owned).to_vec())
    }
}

impl From<Vec<String>> for Stop {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

impl From<Vec<&str>> for Stop {
    fn from(texts: Vec<&str>) -> Self {
        Self::Texts(texts.into_iter().map(str::to_owned).collect())
    }
}

impl From<Vec<u32>> for Stop {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens)
    }
}

impl From<&[u32]> for Stop {
    fn from(tokens: &[u32]) -> Self {
        Self::Tokens(tokens.to_vec())
    }
}

impl<const N: usize> From<[u32; N]> for Stop {
    fn from(tokens: [u32; N]) -> Self {
        Self::Tokens(tokens.to_vec())
    }
}

/// The parameters of sampling.
///
/// Fields that are `None` are not sent. The server then uses the defaults of the official Python SDK (0.38.0, type `SamplingParams`):
/// temperature 1, no top-k (-1), top-p 1, and a stop at the end-of-text token.
///
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::SamplingParams;
///
/// let params = SamplingParams::new().max_tokens(64).temperature(0.7).stop(["\n\n", "User:"]);
/// params.validate()?;
/// assert_eq!(params.top_p, None);
/// # Ok::<(), tinkers_wire::InvalidInput>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SamplingParams {
    /// The maximum number of sampled tokens per sequence. Some servers require this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The seed of the random numbers. A request with the same seed, prompt and parameters samples the same tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The strings or tokens that end a sampled sequence. By default the sequence ends at the end-of-text token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// The temperature; 0 selects the most likely token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The number of most likely tokens to sample from at each position; -1 is all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i32>,
    /// The total probability of the tokens to sample from, starting with the most likely token (nucleus sampling); 1 is all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
}

impl SamplingParams {
    /// Creates parameters without any setting, so that the server's defaults apply.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the maximum number of sampled tokens per sequence.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: u32) -> Self {
        self.max_tokens = Some(max_tokens);
        self
    }

    /// Sets the seed of the random numbers.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets the strings or tokens that end a sampled sequence. They replace the default, the end-of-text token.
    #[must_use]
    pub fn stop(mut self, stop: impl Into<Stop>) -> Self {
        self.stop = Some(stop.into());
        self
    }

    /// Sets the temperature; 0 selects the most likely token.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Sets the number of most likely tokens to sample from at each position; -1 is all tokens.
    #[must_use]
    pub fn top_k(mut self, top_k: i32) -> Self {
        self.top_k = Some(top_k);
        self
    }

    /// Sets the total probability of the tokens to sample from, starting with the most likely token (nucleus sampling).
    #[must_use]
    pub fn top_p(mut self, top_p: f64) -> Self {
        self.top_p = Some(top_p);
        self
    }

    /// Checks that every sampling parameter is finite and in its valid range.
    ///
    /// # Errors
    /// The error names the invalid parameter.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        if self.max_tokens == Some(0) {
            return Err(InvalidInput::new("max_tokens", "at least 1, got 0"));
        }
        if let Some(t) = self.temperature {
            input::check_range("temperature", t, t >= 0.0, "0 or more")?;
        }
        if let Some(p) = self.top_p {
            input::check_range("top_p", p, p > 0.0 && p <= 1.0, "more than 0 and at most 1")?;
        }
        if let Some(k) = self.top_k
            && k != -1
            && k < 1
        {
            return Err(InvalidInput::new(
                "top_k",
                format_args!("-1 or at least 1, got {k}"),
            ));
        }
        if let Some(Stop::Texts(texts)) = &self.stop
            && texts.iter().any(String::is_empty)
        {
            return Err(InvalidInput::new("stop", "non-empty strings"));
        }
        Ok(())
    }
}

/// `POST /asample`: samples from a model, given by `sampling_session_id` and `seq_id`, or by exactly one of `base_model` and `model_path`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SampleRequest {
    /// The number of sequences to sample; 1 if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_samples: Option<u32>,
    /// The prompt, which the sampled sequences continue.
    pub prompt: ModelInput,
    /// The parameters of sampling.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<SamplingParams>"))]
    pub sampling_params: SamplingParams,
    /// The id of the sampling session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_session_id: Option<String>,
    /// The sequence number of this sample within its sampling client; the same on every retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<u64>,
    /// The base model to sample from, if there is no sampling session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// The checkpoint to sample from, if there is no sampling session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_path: Option<TinkerPath>,
    /// Whether to return the log-probabilities of the prompt tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<bool>,
    /// The number of most likely tokens to return per prompt position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topk_prompt_logprobs: Option<u32>,
    /// The number of most likely tokens to return per sampled position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topk_sample_logprobs: Option<u32>,
    /// The tokens whose log-probabilities at the prompt positions to return, an int64 tensor of the shape `[prompt length - 1, K]`. Row `i` has
    /// `K` token ids for the position of prompt token `i + 1`. The id -1 marks an unused entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_prompt_logprobs: Option<TensorData>,
    /// The number of alternative tokens to sample and return for each prompt token except the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_alt_tokens_k: Option<u32>,
    /// The number of tokens at the end of the prompt for which `prompt_logprobs` are returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs_last_n: Option<u32>,
    /// Whether the server records the data that the loss `stable_reinforce` needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_stability_info: Option<bool>,
}

impl SampleRequest {
    /// Checks that all fields are valid. Only the server can check whether the token ids exist and whether the request keeps the limits of the
    /// server.
    ///
    /// # Errors
    /// The error names the invalid field, such as `prompt.chunks` or `temperature`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        self.prompt
            .validate()
            .map_err(|error| error.within("prompt."))?;
        self.sampling_params.validate()?;
        if self.num_samples == Some(0) {
            return Err(InvalidInput::new("num_samples", "at least 1, got 0"));
        }
        if let Some(last) = self.prompt_logprobs_last_n {
            if last == 0 {
                return Err(InvalidInput::new(
                    "prompt_logprobs_last_n",
                    "at least 1, got 0",
                ));
            }
            if self.prompt_logprobs != Some(true) {
                return Err(InvalidInput::new(
                    "prompt_logprobs_last_n",
                    "prompt_logprobs to be true as well",
                ));
            }
        }
        if let Some(targets) = &self.target_prompt_logprobs {
            targets
                .validate()
                .map_err(|error| error.within("target_prompt_logprobs."))?;
            let rows = self.prompt.len().map(|len| len.saturating_sub(1));
            let shape = targets.shape();
            if targets.as_i64().is_none()
                || shape.len() != 2
                || rows.is_some_and(|rows| shape[0] != rows)
            {
                let expected = format!(
                    "int64 of shape [prompt length - 1, K], got {} {shape:?}",
                    targets.dtype()
                );
                return Err(InvalidInput::new("target_prompt_logprobs", expected));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SampleRequest {
        SampleRequest {
            prompt: vec![5, 6].into(),
            ..SampleRequest::default()
        }
    }

    #[test]
    fn sample_request_omits_unset_fields() {
        assert_eq!(
            serde_json::to_string(&request()).unwrap(),
            r#"{"prompt":{"chunks":[{"type":"encoded_text","tokens":[5,6]}]},"sampling_params":{}}"#
        );
        let mut full = request();
        full.num_samples = Some(2);
        full.sampling_params = SamplingParams::new()
            .max_tokens(4)
            .seed(3)
            .stop("a")
            .temperature(0.5)
            .top_k(20)
            .top_p(0.9);
        let json = serde_json::to_string(&full).unwrap();
        assert!(
            json.contains(
                r#""sampling_params":{"max_tokens":4,"seed":3,"stop":["a"],"temperature":0.5,"top_k":20,"top_p":0.9}"#
            ),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<SampleRequest>(&json).unwrap(), full);
    }

    #[test]
    fn empty_stop_list_is_encoded_and_each_form_of_stop_is_decoded() {
        let params = SamplingParams::new().stop(Stop::Texts(vec![]));
        assert_eq!(serde_json::to_string(&params).unwrap(), r#"{"stop":[]}"#);
        for (json, expected) in [
            (r#"{"stop": "x"}"#, Stop::Texts(vec!["x".into()])),
            (
                r#"{"stop": ["x", "y"]}"#,
                Stop::Texts(vec!["x".into(), "y".into()]),
            ),
            (r#"{"stop": [2]}"#, Stop::Tokens(vec![2])),
        ] {
            assert_eq!(
                serde_json::from_str::<SamplingParams>(json).unwrap().stop,
                Some(expected)
            );
        }
    }

    #[test]
    fn stop_converts_from_texts_and_tokens() {
        let texts = Stop::Texts(vec!["a".to_owned()]);
        assert_eq!(Stop::from("a"), texts);
        assert_eq!(Stop::from("a".to_owned()), texts);
        assert_eq!(Stop::from(["a"]), texts);
        assert_eq!(Stop::from(vec!["a"]), texts);
        let tokens = Stop::Tokens(vec![2]);
        assert_eq!(Stop::from([2]), tokens);
        assert_eq!(Stop::from(&[2][..]), tokens);
    }

    #[test]
    fn error_for_an_invalid_sample_request_names_the_field() {
        let with = |change: fn(&mut SampleRequest)| {
            let mut request = request();
            change(&mut request);
            request.validate().unwrap_err().field().to_owned()
        };
        assert!(request().validate().is_ok());
        assert_eq!(
            with(|r| r.sampling_params.max_tokens = Some(0)),
            "max_tokens"
        );
        assert_eq!(
            with(|r| r.sampling_params.temperature = Some(-0.1)),
            "temperature"
        );
        assert_eq!(
            with(|r| r.sampling_params.temperature = Some(f64::NAN)),
            "temperature"
        );
        assert_eq!(with(|r| r.sampling_params.top_p = Some(0.0)), "top_p");
        assert_eq!(with(|r| r.sampling_params.top_k = Some(0)), "top_k");
        assert_eq!(with(|r| r.sampling_params.stop = Some("".into())), "stop");
        assert_eq!(with(|r| r.num_samples = Some(0)), "num_samples");
        assert_eq!(with(|r| r.prompt = vec![].into()), "prompt.chunks");
        assert_eq!(
            with(|r| r.prompt_logprobs_last_n = Some(1)),
            "prompt_logprobs_last_n"
        );
        assert_eq!(
            with(|r| r.target_prompt_logprobs = Some(vec![1i64, 2].into())),
            "target_prompt_logprobs"
        );
    }
}
