//! The paths of the API, below the base URL, each with its HTTP method.
//!
//! Ids are percent-encoded, so that no id can name another path. Characters that occur in ids, such as the `:` of model ids, stay as they
//! are, as in requests of the official SDK. The two parts of a checkpoint id, `<kind>/<name>`, are two segments of the path.

use std::fmt::Display;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::InvalidInput;

/// The characters that are escaped in a segment of a path and in a value of a query.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'@')
    .remove(b',');

/// `POST`: returns the client configuration.
pub const CLIENT_CONFIG: &str = "/api/v1/client/config";
/// `POST`: returns the configuration that clients refresh periodically.
pub const DYNAMIC_CONFIG: &str = "/api/v1/client/dynamic_config";
/// `POST`: exchanges the API key for a short-lived token.
pub const AUTH_TOKEN: &str = "/api/v1/auth/token";
/// `GET`: describes the API key of the request. `DELETE`: revokes it.
pub const API_KEY: &str = "/api/v1/auth/apikey/me";
/// `POST`: creates a session.
pub const CREATE_SESSION: &str = "/api/v1/create_session";
/// `POST`: keeps a session alive.
pub const SESSION_HEARTBEAT: &str = "/api/v1/session_heartbeat";
/// `POST`: creates a model.
pub const CREATE_MODEL: &str = "/api/v1/create_model";
/// `POST`: describes a model.
pub const GET_INFO: &str = "/api/v1/get_info";
/// `POST`: unloads a model.
pub const UNLOAD_MODEL: &str = "/api/v1/unload_model";
/// `POST`: runs a forward pass; JSON only.
pub const FORWARD: &str = "/api/v1/forward";
/// `POST`: runs a forward-backward pass.
pub const FORWARD_BACKWARD: &str = "/api/v1/forward_backward";
/// `POST`: applies an optimizer step.
pub const OPTIM_STEP: &str = "/api/v1/optim_step";
/// `POST`: saves a training checkpoint.
pub const SAVE_WEIGHTS: &str = "/api/v1/save_weights";
/// `POST`: saves weights to sample from.
pub const SAVE_WEIGHTS_FOR_SAMPLER: &str = "/api/v1/save_weights_for_sampler";
/// `POST`: loads a checkpoint into a model.
pub const LOAD_WEIGHTS: &str = "/api/v1/load_weights";
/// `POST`: describes the weights of a checkpoint.
pub const WEIGHTS_INFO: &str = "/api/v1/weights_info";
/// `POST`: creates a sampler.
pub const CREATE_SAMPLING_SESSION: &str = "/api/v1/create_sampling_session";
/// `POST`: submits a sampling request.
pub const ASAMPLE: &str = "/api/v1/asample";
/// `POST`: polls for the result of one operation.
pub const RETRIEVE_FUTURE: &str = "/api/v1/retrieve_future";
/// `POST`: polls for the ids of the completed requests of a sampling session.
pub const RETRIEVE_FUTURES: &str = "/api/v1/retrieve_futures";
/// `POST`: cancels a sampling request.
pub const CANCEL_FUTURE: &str = "/api/v1/cancel_future";
/// `POST`: reports telemetry events.
pub const TELEMETRY: &str = "/api/v1/telemetry";
/// `GET`: lists the models that the server offers.
pub const CAPABILITIES: &str = "/api/v1/get_server_capabilities";
/// `GET`: reports whether the server is up.
pub const HEALTH: &str = "/api/v1/healthz";
/// `GET`: lists training runs.
pub const TRAINING_RUNS: &str = "/api/v1/training_runs";
/// `GET`: lists the checkpoints of the user.
pub const CHECKPOINTS: &str = "/api/v1/checkpoints";
/// `GET`: lists sessions.
pub const SESSIONS: &str = "/api/v1/sessions";
/// `POST`: searches sessions.
pub const SEARCH_SESSIONS: &str = "/api/v1/sessions/search";
/// `POST`: searches checkpoints. The official documentation does not state this path; it is chosen by analogy with [`SEARCH_SESSIONS`].
pub const SEARCH_CHECKPOINTS: &str = "/api/v1/checkpoints/search";
/// `POST`: copies a checkpoint to a project.
pub const COPY_WEIGHTS: &str = "/api/v1/copy_weights";
/// `POST`: begins an upload of weights from outside of the service.
pub const EXTERNAL_UPLOAD_START: &str = "/api/v1/external_weights_upload_start";
/// `POST`: turns uploaded files into a checkpoint.
pub const EXTERNAL_UPLOAD_FINISH: &str = "/api/v1/external_weights_upload_finish";
/// `GET`: returns the audit log of a day.
pub const AUDIT: &str = "/api/v1/audit";
/// `GET`: returns the usage per hour.
pub const BILLING_USAGE: &str = "/api/v1/billing/usage/events";
/// `GET`: returns the current storage of checkpoints.
pub const CHECKPOINT_STORAGE: &str = "/api/v1/billing/usage/checkpoints/current";
/// The path prefix of requests for one sampler. The function [`sampler`] appends the id of the sampler.
pub const SAMPLERS: &str = "/api/v1/samplers";

/// All paths of requests that do not contain an id.
pub const ALL: [&str; 36] = [
    CLIENT_CONFIG,
    DYNAMIC_CONFIG,
    AUTH_TOKEN,
    API_KEY,
    CREATE_SESSION,
    SESSION_HEARTBEAT,
    CREATE_MODEL,
    GET_INFO,
    UNLOAD_MODEL,
    FORWARD,
    FORWARD_BACKWARD,
    OPTIM_STEP,
    SAVE_WEIGHTS,
    SAVE_WEIGHTS_FOR_SAMPLER,
    LOAD_WEIGHTS,
    WEIGHTS_INFO,
    CREATE_SAMPLING_SESSION,
    ASAMPLE,
    RETRIEVE_FUTURE,
    RETRIEVE_FUTURES,
    CANCEL_FUTURE,
    TELEMETRY,
    CAPABILITIES,
    HEALTH,
    TRAINING_RUNS,
    CHECKPOINTS,
    SESSIONS,
    SEARCH_SESSIONS,
    SEARCH_CHECKPOINTS,
    COPY_WEIGHTS,
    EXTERNAL_UPLOAD_START,
    EXTERNAL_UPLOAD_FINISH,
    AUDIT,
    BILLING_USAGE,
    CHECKPOINT_STORAGE,
    SAMPLERS,
];

/// Checks that an id can be a segment of a path.
///
/// # Errors
/// The error names `field` if the id is empty, `.` or `..`, or contains control characters.
pub fn check_id(field: &str, id: &str) -> Result<(), InvalidInput> {
    if matches!(id, "" | "." | "..") || id.contains(char::is_control) {
        return Err(InvalidInput::new(field, format_args!("an id, got {id:?}")));
    }
    Ok(())
}

/// Returns `text` in a form that is one segment of a path or one value of a query.
fn segment(text: &str) -> impl Display + '_ {
    utf8_percent_encode(text, ESCAPED)
}

/// Appends parameters to a path, in the given order. Parameters without a value are left out.
pub fn with_query(path: impl Into<String>, parameters: &[(&str, Option<&str>)]) -> String {
    let mut path = path.into();
    let given = parameters
        .iter()
        .filter_map(|(name, value)| Some((name, (*value)?)));
    for (index, (name, value)) in given.enumerate() {
        path.push(if index == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        path.extend(utf8_percent_encode(value, ESCAPED));
    }
    path
}

/// Returns the path of the `GET` request that describes the session with this id.
pub fn session(session_id: &str) -> String {
    format!("{SESSIONS}/{}", segment(session_id))
}

/// Returns the path of the `POST` request that ends the session with this id.
pub fn finish_session(session_id: &str) -> String {
    format!("{}/finish", session(session_id))
}

/// Returns the path of the `PUT` request that moves the session with this id to a project.
pub fn session_project(session_id: &str) -> String {
    format!("{}/project", session(session_id))
}

/// Returns the path of the `GET` request that builds the trace of the session with this id, or returns its state.
pub fn session_trace(session_id: &str) -> String {
    format!("{}/trace_export", session(session_id))
}

/// Returns the path of the `POST` request that unloads the model with this id, for servers that read the id from the query.
pub fn unload_model_by_query(model_id: &str) -> String {
    with_query(UNLOAD_MODEL, &[("model_id", Some(model_id))])
}

/// Returns the path of the `GET` request that describes the sampler with this id.
pub fn sampler(sampler_id: &str) -> String {
    format!("{SAMPLERS}/{}", segment(sampler_id))
}

/// Returns the path of the `GET` request that describes the training run with this id.
pub fn training_run(run_id: &str) -> String {
    format!("{TRAINING_RUNS}/{}", segment(run_id))
}

/// Returns the path of the `GET` request that lists the checkpoints of the training run with this id.
pub fn run_checkpoints(run_id: &str) -> String {
    format!("{}/checkpoints", training_run(run_id))
}

/// Returns the path of the `DELETE` request that deletes the checkpoint `<kind>/<name>` of a training run.
pub fn checkpoint(run_id: &str, checkpoint_id: &str) -> String {
    let mut path = run_checkpoints(run_id);
    for part in checkpoint_id.split('/') {
        path.push('/');
        path.extend(utf8_percent_encode(part, ESCAPED));
    }
    path
}

/// Returns the path of the requests that publish (`POST`) and unpublish (`DELETE`) a checkpoint.
pub fn checkpoint_publication(run_id: &str, checkpoint_id: &str) -> String {
    format!("{}/publish", checkpoint(run_id, checkpoint_id))
}

/// Returns the path of the `PUT` request that sets the time after which the server deletes a checkpoint.
pub fn checkpoint_ttl(run_id: &str, checkpoint_id: &str) -> String {
    format!("{}/ttl", checkpoint(run_id, checkpoint_id))
}

/// Returns the path of the `GET` request for the addresses of the files of an external checkpoint.
pub fn external_weights_urls(run_id: &str, checkpoint_id: &str) -> String {
    format!(
        "{}/external_weights_urls",
        checkpoint(run_id, checkpoint_id)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_name_another_path() {
        let run = "a:train:0";
        let base = "/api/v1/training_runs/a:train:0";
        assert_eq!(training_run(run), base);
        let ttl = checkpoint_ttl(run, "weights/w 1");
        assert_eq!(ttl, format!("{base}/checkpoints/weights/w%201/ttl"));
        assert_eq!(session("a/../b?c#d"), "/api/v1/sessions/a%2F..%2Fb%3Fc%23d");
        assert_eq!(sampler("ü%"), "/api/v1/samplers/%C3%BC%25");
        let query = with_query(
            AUDIT,
            &[("a", None), ("b", Some("x&y=z")), ("c", Some("1"))],
        );
        assert_eq!(query, "/api/v1/audit?b=x%26y%3Dz&c=1");
        for id in ["", ".", "..", "a\nb"] {
            assert_eq!(check_id("run_id", id).unwrap_err().field(), "run_id");
        }
        check_id("run_id", run).unwrap();
    }
}
