//! How answers are worded.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use tinkers_wire::{CheckpointKind, LoraConfig, Promise, TinkerPath};

use super::{Dialect, Expiry, Failures, Flags, SamplerPaths, SequenceIds, Words};
use crate::engine::EngineError;
use crate::http::Answer;
use crate::read::Refusal;

/// What a promise is for, where that shows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Promised<'a> {
    /// A new model.
    Model(&'a str, &'a LoraConfig),
    /// The end of one.
    Unload,
    /// Anything else.
    Other,
}

/// What an operation gave that is told in words of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told<'a> {
    /// A new model of this base.
    Model(&'a str, &'a LoraConfig),
    /// Weights at this path.
    Saved(&'a TinkerPath),
    /// Weights in memory, for this sampler.
    Snapshot(&'a str),
    /// Weights in a model.
    Loaded,
}

impl Dialect {
    /// 404 for a path: in words of its own from a server that tells who it is, else in those of a web framework.
    pub(crate) fn no_route(&self, path: &str) -> Refusal {
        Refusal::not_found(match self.flags {
            Flags::All => format!("no route {path}"),
            Flags::OfSdk025 | Flags::JwtAlone => "Not Found".to_owned(),
        })
    }

    /// 404 for a request id that was never given out.
    pub(crate) fn no_future(&self, name: &str) -> Refusal {
        Refusal::not_found(match self.words {
            Words::Tinker => format!("no request {name} was made to this server"),
            Words::SkyRl => "Future not found".to_owned(),
        })
    }

    /// The result of a request is no longer there.
    pub(crate) fn expired(&self, name: &str) -> Refusal {
        let reason = format!("the result of request {name} is no longer kept; submit it again");
        match self.expiry {
            Expiry::AsConfigured => Refusal::gone(reason),
            Expiry::OnceFetched | Expiry::After(_) if self.words == Words::SkyRl => {
                self.no_future(name)
            }
            Expiry::OnceFetched | Expiry::After(_) => Refusal::not_found(reason),
        }
    }

    /// A number was used by another request, as `refusal` says.
    pub(crate) fn reused(&self, refusal: Refusal) -> Refusal {
        match self.words {
            Words::Tinker => refusal,
            Words::SkyRl => Refusal::conflict("Training request sequence number was reused"),
        }
    }

    /// The failure of a save under a name that is taken.
    ///
    /// # Errors
    /// In SkyRL's words the request is refused.
    pub(crate) fn taken(&self, path: &TinkerPath) -> Result<EngineError, Refusal> {
        match self.words {
            Words::Tinker => Ok(EngineError::user(format!(
                "path: {path} exists; save under another name, or training weights with overwrite"
            ))),
            Words::SkyRl => Err(Refusal::conflict(format!(
                "Checkpoint '{}' already exists for model '{}'",
                path.name(),
                path.run_id()
            ))),
        }
    }

    /// Something new.
    pub(crate) fn created<T: Serialize>(&self, body: &T) -> Answer {
        Answer::json(self.created, body)
    }

    /// What `client/config` tells instead of `flags`; `None` when it tells those.
    pub(crate) fn few_flags(&self) -> Option<Answer> {
        match self.flags {
            Flags::All | Flags::OfSdk025 => None,
            Flags::JwtAlone => Some(Answer::ok(&json!({ "pjwt_auth_enabled": false }))),
        }
    }

    /// The answer to a poll for an operation that failed.
    pub(crate) fn failed(&self, error: &EngineError) -> Answer {
        match self.failures {
            Failures::InBody => Answer::ok(&json!({
                "error": error.message,
                "category": error.category.name(),
            })),
            Failures::Status(status) => Refusal::new(status, &error.message).into_answer(),
        }
    }

    /// The answer to a poll that was held long enough, where it has no state of the queue.
    pub(crate) fn timed_out() -> Answer {
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "Timeout waiting for result").into_answer()
    }

    /// A promise as it goes out.
    pub(crate) fn promise(&self, mut promise: Promise, of: Promised<'_>) -> Answer {
        if self.sequence_ids == SequenceIds::Absent {
            promise.sample_sequence_ids = None;
        }
        let Words::SkyRl = self.words else {
            return Answer::ok(&promise);
        };
        let id = &promise.request_id;
        let ids = &promise.sample_sequence_ids;
        Answer::ok(&match (of, &promise.model_id) {
            (Promised::Model(base, lora), Some(model)) => json!({
                "model_id": model,
                "base_model": base,
                "lora_config": { "rank": lora.rank, "seed": lora.seed },
                "status": "created",
                "request_id": id,
            }),
            (Promised::Unload, Some(model)) => json!({ "request_id": id, "model_id": model }),
            _ => match ids {
                None => json!({ "future_id": id, "status": "pending", "request_id": id }),
                Some(ids) => {
                    json!({ "future_id": id, "status": "pending", "request_id": id, "sample_sequence_ids": ids })
                }
            },
        })
    }

    /// The result of an operation, where it is not that of the official service.
    pub(crate) fn told(&self, model: &str, told: Told<'_>) -> Option<Value> {
        if let (Told::Saved(path), Words::Tinker, SamplerPaths::Bare) =
            (told, self.words, self.sampler_paths)
        {
            return is_sampler(path).then(|| json!({ "path": self.path(path) }));
        }
        let Words::SkyRl = self.words else {
            return None;
        };
        Some(match told {
            Told::Model(base, lora) => json!({
                "model_id": model,
                "base_model": base,
                "lora_config": {
                    "rank": lora.rank,
                    "alpha": 32.0,
                    "seed": lora.seed.unwrap_or(0),
                    "train_attn": lora.train_attn.unwrap_or(true),
                    "train_mlp": lora.train_mlp.unwrap_or(true),
                    "train_unembed": false,
                },
            }),
            Told::Saved(path) if is_sampler(path) => json!({
                "path": self.path(path),
                "type": "save_weights_for_sampler",
                "sampling_session_id": null,
            }),
            Told::Saved(path) => json!({ "path": path, "type": "save_weights" }),
            Told::Snapshot(sampler) => json!({
                "path": null,
                "type": "save_weights_for_sampler",
                "sampling_session_id": sampler,
            }),
            Told::Loaded => json!({ "type": "load_weights" }),
        })
    }

    fn path(&self, path: &TinkerPath) -> String {
        match self.sampler_paths {
            SamplerPaths::WithKind => path.to_string(),
            SamplerPaths::Bare => format!("tinker://{}/{}", path.run_id(), path.name()),
        }
    }
}

fn is_sampler(path: &TinkerPath) -> bool {
    path.kind() == CheckpointKind::Sampler
}
