//! The wording of responses.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use tinkers_wire::{CheckpointKind, LoraConfig, SubmissionResponse, TinkerPath};

use super::{Dialect, Expiry, Failures, Flags, SamplerPaths, SequenceIds, Words};
use crate::engine::EngineError;
use crate::http::LazyResponse;
use crate::read::Refusal;

/// The kind of an accepted request, for the choice of the response. Kinds of requests whose responses do not differ are not
/// distinguished.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AcceptedKind<'a> {
    /// The creation of a model with this base model and adapter.
    Model(&'a str, &'a LoraConfig),
    /// The unloading of a model.
    Unload,
    /// Any request that neither creates nor unloads a model.
    Other,
}

/// The kind of an operation's result, for the choice of the fields in the response. It lists only results whose fields depend on
/// the imitated server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ResultKind<'a> {
    /// A model was created, with this base model and adapter.
    Model(&'a str, &'a LoraConfig),
    /// A checkpoint was saved at this path.
    Saved(&'a TinkerPath),
    /// The weights of a model were copied into memory for the sampler with this id.
    Snapshot(&'a str),
    /// A checkpoint was loaded into a model.
    Loaded,
}

impl Dialect {
    /// Returns the 404 refusal of a request for an unknown path. Depending on the imitated server, the error text names the path or
    /// is the default text of a web framework.
    pub(crate) fn no_route(&self, path: &str) -> Refusal {
        Refusal::not_found(match self.flags {
            Flags::All => format!("no route {path}"),
            Flags::OfSdk025 | Flags::JwtAlone => "Not Found".to_owned(),
        })
    }

    /// Returns the 404 refusal of a poll or cancellation that names a request id that this server never issued.
    pub(crate) fn unknown_request(&self, name: &str) -> Refusal {
        Refusal::not_found(match self.words {
            Words::Tinker => format!("no request {name} was made to this server"),
            Words::SkyRl => "Future not found".to_owned(),
        })
    }

    /// Returns the 410 or 404 refusal of a request, such as a poll, that names an expired result.
    pub(crate) fn result_expired(&self, name: &str) -> Refusal {
        let reason = format!("the result of request {name} is no longer kept; submit it again");
        match self.expiry {
            Expiry::AsConfigured => Refusal::gone(reason),
            Expiry::OnceFetched | Expiry::After(_) if self.words == Words::SkyRl => {
                self.unknown_request(name)
            }
            Expiry::OnceFetched | Expiry::After(_) => Refusal::not_found(reason),
        }
    }

    /// Returns the refusal of a request whose sequence number was used by a different request. `refusal` is what the official
    /// service sends. The result is `refusal`, unless SkyRL is imitated, which sends another text.
    pub(crate) fn number_reused(&self, refusal: Refusal) -> Refusal {
        match self.words {
            Words::Tinker => refusal,
            Words::SkyRl => Refusal::conflict("Training request sequence number was reused"),
        }
    }

    /// Returns the error with which a save operation fails because a checkpoint with this path already exists.
    ///
    /// # Errors
    ///
    /// In the SkyRL dialect, returns a refusal, because this dialect refuses the request instead of accepting it and failing the
    /// operation.
    pub(crate) fn name_in_use(&self, path: &TinkerPath) -> Result<EngineError, Refusal> {
        match self.words {
            Words::Tinker => Ok(EngineError::user(format!(
                "path: {path} exists; save under another name, or training weights with overwrite"
            ))),
            Words::SkyRl => Err(Refusal::conflict(format!(
                "Checkpoint '{}' already exists for model '{}'",
                path.name(),
                path.run_id().unwrap_or_default()
            ))),
        }
    }

    /// Returns the response to a request that created a session or a sampler. The status is that of the imitated server, 200 or
    /// 201.
    pub(crate) fn created<T: Serialize>(&self, body: &T) -> LazyResponse {
        LazyResponse::json(self.created, body)
    }

    /// Returns the response to `client/config` if the imitated server sends fixed flags of its own. Otherwise returns `None`.
    pub(crate) fn own_flags(&self, is_exchange_required: bool) -> Option<LazyResponse> {
        match self.flags {
            Flags::All | Flags::OfSdk025 => None,
            Flags::JwtAlone => Some(LazyResponse::ok(
                &json!({ "pjwt_auth_enabled": is_exchange_required }),
            )),
        }
    }

    /// Returns the response to a poll for a failed operation.
    pub(crate) fn failure(&self, error: &EngineError) -> LazyResponse {
        match self.failures {
            Failures::InBody => LazyResponse::ok(&json!({
                "error": error.message,
                "category": error.category.name(),
            })),
            Failures::InTypedBody => LazyResponse::ok(&json!({
                "type": "request_failed",
                "error": error.message,
                "category": "user_error",
            })),
            Failures::Status(status) => Refusal::new(status, &error.message).into_response(),
        }
    }

    /// Returns the 408 response to a poll whose operation has not ended in the time for which the server holds polls open.
    pub(crate) fn timed_out() -> LazyResponse {
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "Timeout waiting for result").into_response()
    }

    /// Returns the response to an accepted request, with the fields of the imitated server. The response contains the id with which
    /// the client polls for the result.
    pub(crate) fn accepted(
        &self,
        mut submission: SubmissionResponse,
        of: AcceptedKind<'_>,
    ) -> LazyResponse {
        if self.sequence_ids == SequenceIds::Absent {
            submission.sample_sequence_ids = None;
        }
        let Words::SkyRl = self.words else {
            return LazyResponse::ok(&submission);
        };
        let id = &submission.request_id;
        let ids = &submission.sample_sequence_ids;
        LazyResponse::ok(&match (of, &submission.model_id) {
            (AcceptedKind::Model(base, lora), Some(model)) => json!({
                "model_id": model,
                "base_model": base,
                "lora_config": { "rank": lora.rank, "seed": lora.seed },
                "status": "created",
                "request_id": id,
            }),
            (AcceptedKind::Unload, Some(model)) => json!({ "request_id": id, "model_id": model }),
            _ => match ids {
                None => json!({ "future_id": id, "status": "pending", "request_id": id }),
                Some(ids) => {
                    json!({ "future_id": id, "status": "pending", "request_id": id, "sample_sequence_ids": ids })
                }
            },
        })
    }

    /// Returns the result of an operation if the imitated server encodes it differently from the official service. Otherwise
    /// returns `None`.
    pub(crate) fn result(&self, model: &str, kind: ResultKind<'_>) -> Option<Value> {
        if let (ResultKind::Saved(path), Words::Tinker, SamplerPaths::Bare) =
            (kind, self.words, self.sampler_paths)
        {
            return is_sampler(path).then(|| json!({ "path": self.path(path) }));
        }
        let Words::SkyRl = self.words else {
            return None;
        };
        Some(match kind {
            ResultKind::Model(base, lora) => json!({
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
            ResultKind::Saved(path) if is_sampler(path) => json!({
                "path": self.path(path),
                "type": "save_weights_for_sampler",
                "sampling_session_id": null,
            }),
            ResultKind::Saved(path) => json!({ "path": path, "type": "save_weights" }),
            ResultKind::Snapshot(sampler) => json!({
                "path": null,
                "type": "save_weights_for_sampler",
                "sampling_session_id": sampler,
            }),
            ResultKind::Loaded => json!({ "type": "load_weights" }),
        })
    }

    fn path(&self, path: &TinkerPath) -> String {
        match (self.sampler_paths, path.run_id()) {
            (SamplerPaths::Bare, Some(run)) => format!("tinker://{run}/{}", path.name()),
            _ => path.to_string(),
        }
    }
}

fn is_sampler(path: &TinkerPath) -> bool {
    path.kind() == Some(CheckpointKind::Sampler)
}
