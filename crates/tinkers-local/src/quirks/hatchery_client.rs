//! The requests that only hatchery-client sends, rewritten into those of the official SDK.

use serde_json::Value;
use tinkers_wire::routes;

use super::state::State;
use crate::http::Request;

/// Saves the weights and the optimizer state, which `save_weights` of this server does, too.
const SAVE_STATE: &str = "/api/v1/save_state";
/// Runs a forward pass, of which only the loss is wanted.
const FORWARD_ONLY: &str = "/api/v1/forward_only";

/// Rewrites a request of hatchery-client. Other requests stay as they are.
pub(super) fn rewrite(request: &mut Request, state: &State) {
    let route = match request.route() {
        SAVE_STATE => routes::SAVE_WEIGHTS,
        FORWARD_ONLY => routes::FORWARD,
        routes::CREATE_SAMPLING_SESSION => routes::CREATE_SAMPLING_SESSION,
        routes::ASAMPLE => routes::ASAMPLE,
        _ => return,
    };
    let Ok(Value::Object(mut body)) = serde_json::from_slice::<Value>(&request.body) else {
        return;
    };
    match route {
        routes::FORWARD => {
            if let Some(input) = body.remove("forward_only_input") {
                body.insert("forward_input".to_owned(), input);
            }
        }
        routes::CREATE_SAMPLING_SESSION if !body.contains_key("session_id") => {
            let session = state.newest_session.clone();
            body.insert("session_id".to_owned(), session.into());
        }
        routes::ASAMPLE => {
            // This client samples from a model. Its weights are those that were saved last for sampling.
            let named = body.get("model_id").or(body.get("sampling_session_id"));
            let path = named
                .and_then(Value::as_str)
                .and_then(|model| state.sampler_paths.get(model));
            if let Some(path) = path.cloned() {
                body.remove("model_id");
                body.remove("sampling_session_id");
                body.insert("model_path".to_owned(), path.into());
            }
        }
        _ => {}
    }
    request.path = route.to_owned();
    request.body = tinkers_wire::to_json(&body);
}
