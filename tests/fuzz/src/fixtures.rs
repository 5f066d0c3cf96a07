//! Objects that the target creates on the server before it sends an input, and valid requests that
//! refer to these objects.

use tinkers_local::Route;

/// The id of the session that the fuzz target creates on the server before it sends an input. The
/// server derives ids from a random source that only returns zeros, so the ids are the same in each
/// run.
pub(crate) const SESSION: &str = "session-0000000000000001";
pub(crate) const SAMPLER: &str = "session-0000000000000001:sample:0";
pub(crate) const FUTURE: &str = "req-00000000-1";
/// The request id of the sample that the fuzz target creates on the server before it sends an
/// input. The sample is the third operation that gets a request id.
pub(crate) const SAMPLE: &str = "req-00000000-3";

/// Returns the paths and bodies of the requests that create the fixtures (a session, a model, a
/// sampling client and a sample), in order. The first of them with a request id, the creation of
/// the model, gets the request id [`FUTURE`].
pub(crate) fn setup_requests() -> Vec<(String, String)> {
    let model = format!("{SESSION}:train:0");
    let base = r#""base_model":"tinkers/scripted""#;
    [
        (
            "create_session",
            r#"{"tags":[],"user_metadata":{},"sdk_version":"0.38.0"}"#.to_owned(),
        ),
        (
            "create_model",
            format!(r#"{{"session_id":"{SESSION}","model_seq_id":0,{base},"lora_config":{{"rank":8}}}}"#),
        ),
        (
            "save_weights",
            format!(r#"{{"model_id":"{model}","seq_id":1,"path":"kept"}}"#),
        ),
        (
            "create_sampling_session",
            format!(r#"{{"session_id":"{SESSION}","sampling_session_seq_id":0,{base}}}"#),
        ),
        (
            "asample",
            format!(
                r#"{{"sampling_session_id":"{SAMPLER}","seq_id":0,"num_samples":2,"prompt":{{"chunks":[{{"type":"encoded_text","tokens":[5,6]}}]}},"sampling_params":{{"max_tokens":4,"stop":["x"]}}}}"#
            ),
        ),
    ]
    .map(|(route, body)| (format!("/api/v1/{route}"), body))
    .into()
}

/// Returns a valid JSON body for a request to the route, or `None` if the route takes no body.
pub(crate) fn valid_body(route: Route) -> Option<String> {
    let model = format!("{SESSION}:train:0");
    let path = format!("tinker://{model}/weights/kept");
    let data = r#"{"data":[{"model_input":{"chunks":[{"type":"encoded_text","tokens":[1,2,3]}]},"loss_fn_inputs":{"target_tokens":{"data":[2,3,4],"dtype":"int64","shape":[3]},"weights":{"data":[1.0,0.5,0.0],"dtype":"float32","shape":[3]}}}],"loss_fn":"cross_entropy"}"#;
    let setup = setup_requests();
    let setup_body = setup
        .iter()
        .find(|(path, _)| *path == route.path())
        .map(|(_, body)| body.clone());
    Some(match route {
        Route::ClientConfig | Route::DynamicConfig => r#"{"sdk_version":"0.38.0"}"#.to_owned(),
        Route::Telemetry => format!(r#"{{"events":[{{}}],"session_id":"{SESSION}"}}"#),
        Route::Heartbeat => format!(r#"{{"session_id":"{SESSION}"}}"#),
        Route::FinishSession => r#"{"reason":{"type":"success"},"detail":null}"#.to_owned(),
        Route::ModelInfo | Route::UnloadModel => format!(r#"{{"model_id":"{model}"}}"#),
        Route::Forward => format!(r#"{{"model_id":"{model}","seq_id":2,"forward_input":{data}}}"#),
        Route::ForwardBackward => {
            format!(r#"{{"model_id":"{model}","seq_id":2,"forward_backward_input":{data}}}"#)
        }
        Route::OptimStep => format!(
            r#"{{"model_id":"{model}","seq_id":2,"adam_params":{{"learning_rate":0.1,"beta1":0.9}}}}"#
        ),
        Route::SaveWeights => {
            format!(r#"{{"model_id":"{model}","seq_id":2,"path":"again","ttl_seconds":4000}}"#)
        }
        Route::SaveWeightsForSampler => {
            format!(r#"{{"model_id":"{model}","seq_id":2,"sampling_session_seq_id":1}}"#)
        }
        Route::LoadWeights => {
            format!(r#"{{"path":"{path}","optimizer":true,"model_id":"{model}","seq_id":2}}"#)
        }
        Route::WeightsInfo => format!(r#"{{"tinker_path":"{path}"}}"#),
        Route::SearchSessions => format!(
            r#"{{"session_id":"{SESSION}","display_name":"a b","user_metadata":{{}},"owner":{{"type":"own"}},"statuses":[{{"type":"client_finished","reasons":["success"]}}],"limit":2,"cursor":{{"last_created_at":"x","last_session_id":"{SESSION}"}}}}"#
        ),
        Route::SearchCheckpoints => format!(
            r#"{{"checkpoint_type":"training","base_models":["tinkers/scripted"],"limit":2,"cursor":{{"last_created_at":"2026","last_checkpoint_uuid":"{path}"}}}}"#
        ),
        Route::CopyWeights => {
            format!(r#"{{"source_path":"{path}","destination_project_id":"p","ttl_seconds":4000}}"#)
        }
        Route::SessionProject => r#"{"project_id":"p"}"#.to_owned(),
        Route::CheckpointTtl => r#"{"ttl_seconds":4000}"#.to_owned(),
        Route::RetrieveFuture => {
            format!(r#"{{"request_id":"{FUTURE}","allow_metadata_only":true}}"#)
        }
        Route::CancelFuture => format!(r#"{{"request_id":"{SAMPLE}"}}"#),
        Route::RetrieveFutures => format!(
            r#"{{"target":{{"type":"sampling_session","sampling_session_id":"{SAMPLER}","cloned_sampler_id":0}},"prev_cursor":0,"timeout":30.0,"retrieved_request_ids":[]}}"#
        ),
        _ => return setup_body,
    })
}

/// Returns the value for a path parameter such as `{session_id}`: the id of an object that the fuzz
/// target has created on the server. Returns `None` if `part` is no such parameter.
pub(crate) fn fixture_id(part: &str) -> Option<&'static str> {
    Some(match part {
        "{session_id}" => SESSION,
        "{sampler_id}" => SAMPLER,
        "{run_id}" => "session-0000000000000001:train:0",
        "{checkpoint_id}" => "weights%2Fkept",
        "{kind}" => "weights",
        "{name}" => "kept",
        _ => return None,
    })
}

/// Returns the bytes of a valid HTTP/1.1 request to the route, with `host` as its `host` header.
pub(crate) fn client_request(route: Route, host: &str) -> Vec<u8> {
    let parts = route
        .path()
        .split('/')
        .map(|part| fixture_id(part).unwrap_or(part));
    let path = parts.collect::<Vec<_>>().join("/");
    let query = match route {
        // The clock of the server stands at the epoch.
        Route::BillingUsage => {
            "?starting_on=1970-01-01T00:00:00Z&ending_before=1970-01-01T01:00:00Z"
        }
        Route::Audit => "?event_type=checkpoints&day=1970-01-01",
        _ => "",
    };
    let body = valid_body(route).unwrap_or_default();
    let head = format!(
        "{} {path}{query} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nx-api-key: tml-fuzz\r\ncontent-length: {}\r\n\r\n",
        route.method(),
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}
