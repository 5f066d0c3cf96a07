//! Checks of request bodies that depend on the dialect, before a body is decoded.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::fields::unknown_fields;
use super::{
    Dialect, Loads, MaxTokens, OtherBodies, PassBodies, ResultForm, StopForm, UnknownFields,
};
use crate::protocol::Form;
use crate::read::{Refusal, Route, is_protobuf};

impl Dialect {
    /// Checks that a route accepts request bodies with this content type. Only `forward_backward` restricts it, as the dialect (the
    /// imitated server) demands.
    pub(crate) fn check_content_type(
        &self,
        route: Route,
        content_type: Option<&str>,
    ) -> Result<(), Refusal> {
        let expected = match (self.pass_bodies, is_protobuf(content_type)) {
            _ if route != Route::ForwardBackward => return Ok(()),
            (PassBodies::Both, _) | (PassBodies::Json, false) | (PassBodies::Protobuf, true) => {
                return Ok(());
            }
            (PassBodies::Json, true) => "application/json",
            (PassBodies::Protobuf, false) => "application/x-protobuf",
        };
        Err(match self.other_bodies {
            OtherBodies::Unsupported => Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("forward_backward takes {expected}"),
            ),
            OtherBodies::Crash => {
                Refusal::text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
            }
        })
    }

    /// Checks the fields of a JSON request body that the imitated server restricts, such as `max_tokens`. Accepts malformed JSON,
    /// because the decoder of the request body reports it later.
    pub(crate) fn check_body(
        &self,
        route: Route,
        content_type: Option<&str>,
        body: &Bytes,
    ) -> Result<(), Refusal> {
        let is_checked = self.unknown_fields == UnknownFields::RefusedAsOfSdk025
            || match route {
                Route::Sample => {
                    self.stop == StopForm::List || self.max_tokens == MaxTokens::Required
                }
                Route::LoadWeights => self.loads != Loads::Anytime,
                _ => false,
            };
        if !is_checked || route == Route::ForwardBackward && is_protobuf(content_type) {
            return Ok(());
        }
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return Ok(());
        };
        if self.unknown_fields == UnknownFields::RefusedAsOfSdk025 {
            let found = unknown_fields(route, &body);
            if !found.is_empty() {
                return Err(Refusal::findings(found));
            }
        }
        match route {
            Route::Sample => self.check_sample(&body["sampling_params"]),
            Route::LoadWeights => self.check_load(&body),
            _ => Ok(()),
        }
    }

    fn check_sample(&self, params: &Value) -> Result<(), Refusal> {
        if self.stop == StopForm::List && params["stop"].is_string() {
            let loc = ["body", "sampling_params", "stop"];
            let finding = json!({ "type": "list_type", "loc": loc, "msg": "Input should be a valid list", "input": params["stop"] });
            return Err(Refusal::findings(vec![finding]));
        }
        if self.max_tokens == MaxTokens::Required && params["max_tokens"].is_null() {
            let reason = "max_tokens is currently required";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        }
        Ok(())
    }

    fn check_load(&self, body: &Value) -> Result<(), Refusal> {
        if self.loads == Loads::Anytime {
            return Ok(());
        }
        if body["model_id"].is_null() {
            let finding = json!({ "type": "missing", "loc": ["body", "model_id"], "msg": "Field required", "input": body });
            return Err(Refusal::findings(vec![finding]));
        }
        match body["seq_id"].as_u64() {
            _ if self.loads == Loads::IntoModels => Ok(()),
            None | Some(1) => Ok(()),
            Some(number) => {
                let reason = format!("LoadWeights is not permitted with seq_id {number}");
                Err(Refusal::new(StatusCode::BAD_REQUEST, reason))
            }
        }
    }

    /// Returns the encoding, JSON or protobuf, of the result of a forward or backward pass or of a sample, for a poll with this
    /// `Accept` header.
    pub(crate) fn form(&self, accept: Option<&str>) -> Form {
        match self.results {
            ResultForm::AsAsked => Form::wanted(accept),
            ResultForm::Json => Form::Json,
            ResultForm::Protobuf => Form::Protobuf,
        }
    }
}
