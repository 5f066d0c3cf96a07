//! The paths of the API, below the base URL, each with its HTTP method.
//!
//! Ids are inserted into paths without escaping, as the official SDK does: model ids contain `:`, and checkpoint ids contain `/`.

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
/// The path prefix of requests for one sampler. The function [`sampler`] appends the id of the sampler.
pub const SAMPLERS: &str = "/api/v1/samplers";

/// All paths of requests that do not contain an id.
pub const ALL: [&str; 28] = [
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
    SAMPLERS,
];

/// Returns the path of the `POST` request that ends the session with this id.
pub fn finish_session(session_id: &str) -> String {
    format!("{SESSIONS}/{session_id}/finish")
}

/// Returns the path of the `POST` request that unloads the model with this id, for servers that read the id from the query.
pub fn unload_model_by_query(model_id: &str) -> String {
    format!("{UNLOAD_MODEL}?model_id={model_id}")
}

/// Returns the path of the `GET` request that describes the sampler with this id.
pub fn sampler(sampler_id: &str) -> String {
    format!("{SAMPLERS}/{sampler_id}")
}

/// Returns the path of the `GET` request that lists the checkpoints of the training run with this id.
pub fn run_checkpoints(run_id: &str) -> String {
    format!("{TRAINING_RUNS}/{run_id}/checkpoints")
}
