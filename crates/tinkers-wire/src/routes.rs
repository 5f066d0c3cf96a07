//! Where each request goes, below the base URL. Ids go into paths as they are: they hold `:` and checkpoint ids a `/`.

/// `POST`: static flags.
pub const CLIENT_CONFIG: &str = "/api/v1/client/config";
/// `POST`: flags that are refreshed.
pub const DYNAMIC_CONFIG: &str = "/api/v1/client/dynamic_config";
/// `POST`: a new session.
pub const CREATE_SESSION: &str = "/api/v1/create_session";
/// `POST`: keeps a session alive.
pub const SESSION_HEARTBEAT: &str = "/api/v1/session_heartbeat";
/// `POST`: a new model.
pub const CREATE_MODEL: &str = "/api/v1/create_model";
/// `POST`: what is known of a model.
pub const GET_INFO: &str = "/api/v1/get_info";
/// `POST`: frees a model.
pub const UNLOAD_MODEL: &str = "/api/v1/unload_model";
/// `POST`: a forward pass, in JSON only.
pub const FORWARD: &str = "/api/v1/forward";
/// `POST`: a pass.
pub const FORWARD_BACKWARD: &str = "/api/v1/forward_backward";
/// `POST`: an optimizer step.
pub const OPTIM_STEP: &str = "/api/v1/optim_step";
/// `POST`: a training checkpoint.
pub const SAVE_WEIGHTS: &str = "/api/v1/save_weights";
/// `POST`: weights to sample from.
pub const SAVE_WEIGHTS_FOR_SAMPLER: &str = "/api/v1/save_weights_for_sampler";
/// `POST`: a checkpoint into a model.
pub const LOAD_WEIGHTS: &str = "/api/v1/load_weights";
/// `POST`: what a checkpoint was made of.
pub const WEIGHTS_INFO: &str = "/api/v1/weights_info";
/// `POST`: a new sampler.
pub const CREATE_SAMPLING_SESSION: &str = "/api/v1/create_sampling_session";
/// `POST`: a sample.
pub const ASAMPLE: &str = "/api/v1/asample";
/// `POST`: asks for a result.
pub const RETRIEVE_FUTURE: &str = "/api/v1/retrieve_future";
/// `POST`: asks what of a sampling session has ended.
pub const RETRIEVE_FUTURES: &str = "/api/v1/retrieve_futures";
/// `POST`: a sample is not wanted any more.
pub const CANCEL_FUTURE: &str = "/api/v1/cancel_future";
/// `POST`: events.
pub const TELEMETRY: &str = "/api/v1/telemetry";
/// `GET`: the models that the server offers.
pub const CAPABILITIES: &str = "/api/v1/get_server_capabilities";
/// `GET`: whether the server is up.
pub const HEALTH: &str = "/api/v1/healthz";
/// `GET`: training runs.
pub const TRAINING_RUNS: &str = "/api/v1/training_runs";
/// `GET`: checkpoints of the user.
pub const CHECKPOINTS: &str = "/api/v1/checkpoints";
/// `GET`: sessions.
pub const SESSIONS: &str = "/api/v1/sessions";
/// `GET`: samplers, with an id behind it.
pub const SAMPLERS: &str = "/api/v1/samplers";

/// Every route without ids in it.
pub const ALL: [&str; 26] = [
    CLIENT_CONFIG,
    DYNAMIC_CONFIG,
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

/// `POST`: ends a session.
pub fn finish_session(session_id: &str) -> String {
    format!("{SESSIONS}/{session_id}/finish")
}

/// `GET`: one sampler.
pub fn sampler(sampler_id: &str) -> String {
    format!("{SAMPLERS}/{sampler_id}")
}

/// `GET`: the checkpoints of a run.
pub fn run_checkpoints(run_id: &str) -> String {
    format!("{TRAINING_RUNS}/{run_id}/checkpoints")
}
