//! Requests that create sampling sessions and samples.

use serde::{Deserialize, Serialize};

use crate::nulls::null_is_default;
use crate::response::read_json;
use crate::{DecodeError, InvalidInput, ModelInput, TensorData, TinkerPath, input};

/// `POST /create_sampling_session`. Exactly one of `base_model` and `model_path` is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateSamplingSession {
    /// The id of the session.
    pub session_id: String,
    /// The sequence number of the sampling session in the session, from 0, shared with unnamed sampler saves. It makes the request
    /// idempotent; without it, each request creates a sampling session.
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
    /// Decodes a response.
    ///
    /// # Errors
    /// If the body cannot be decoded.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

/// What ends a sampled sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Stop {
    /// Any of these strings. If the list is empty, not even the end-of-text token ends the sequence.
    Texts(Vec<String>),
    /// Any of these tokens.
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

/// How tokens are sampled. Fields that are `None` are not sent; the server's defaults are temperature 1, no top-k, top-p 1, and stop at the
/// end-of-text token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SamplingParams {
    /// The maximum number of tokens; required by some servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The random seed. The same seed, prompt and parameters give the same tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What ends a sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// The temperature; 0 selects the most likely token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Restricts sampling to this number of most likely tokens; -1 is no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i32>,
    /// Restricts sampling to the most likely tokens that together reach this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
}

impl SamplingParams {
    /// Checks that every parameter is finite and in range.
    ///
    /// # Errors
    /// Names the invalid parameter.
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

/// `POST /asample`. The model is given by `sampling_session_id` and `seq_id`, or by exactly one of `base_model` and `model_path`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SampleRequest {
    /// The number of sequences; 1 if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_samples: Option<u32>,
    /// The prompt.
    pub prompt: ModelInput,
    /// How tokens are sampled.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<SamplingParams>"))]
    pub sampling_params: SamplingParams,
    /// The id of the sampling session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_session_id: Option<String>,
    /// The sequence number of this sample within its client; the same on every retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<u64>,
    /// The base model, without a sampling session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// The checkpoint, without a sampling session.
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
    /// The tokens whose log-probabilities to return: int64 of shape `[prompt length - 1, K]`, with -1 for unused cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_prompt_logprobs: Option<TensorData>,
    /// The number of alternative tokens to sample per prompt token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_alt_tokens_k: Option<u32>,
    /// Restricts `prompt_logprobs` to this number of tokens at the end of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs_last_n: Option<u32>,
    /// Whether the server records the data that the loss `stable_reinforce` needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_stability_info: Option<bool>,
}

impl SampleRequest {
    /// Checks all fields, as far as possible without the server.
    ///
    /// # Errors
    /// Names the invalid field.
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
                    targets.dtype().name()
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
    fn unset_fields_are_not_sent() {
        assert_eq!(
            serde_json::to_string(&request()).unwrap(),
            r#"{"prompt":{"chunks":[{"type":"encoded_text","tokens":[5,6]}]},"sampling_params":{}}"#
        );
        let mut full = request();
        full.num_samples = Some(2);
        full.sampling_params = SamplingParams {
            max_tokens: Some(4),
            seed: Some(3),
            stop: Some("a".into()),
            temperature: Some(0.5),
            ..Default::default()
        };
        let json = serde_json::to_string(&full).unwrap();
        assert!(
            json.contains(
                r#""sampling_params":{"max_tokens":4,"seed":3,"stop":["a"],"temperature":0.5}"#
            ),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<SampleRequest>(&json).unwrap(), full);
    }

    #[test]
    fn empty_stop_is_sent_and_every_form_of_stop_is_read() {
        let params = SamplingParams {
            stop: Some(Stop::Texts(vec![])),
            ..Default::default()
        };
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
    fn invalid_fields_are_named() {
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
