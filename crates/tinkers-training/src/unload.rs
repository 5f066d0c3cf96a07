//! The request that unloads a model.

use std::sync::Arc;

use tinkers_core::{Accepted, Call, Error, RecoveredError, Result, RouteClass};
use tinkers_futures::{
    Operation, Retrieval, SubmissionOutcome, is_submission_or_result, read_submission_or_result,
    retrieve,
};
use tinkers_wire::{ModelRef, RequestKind, UnloadedModel, routes, to_json};

/// Sends the request to unload the model, and waits until the server has unloaded it.
pub(crate) async fn unload(operation: Operation, model_id: Arc<str>) -> Result<()> {
    let session = &operation.session;
    session.check_open()?;
    let client = session.next_client();
    let send = async |route: String| -> Result<Accepted> {
        let body = to_json(&ModelRef {
            model_id: model_id.to_string(),
        });
        let mut call = Call::post(route, body, RouteClass::Train);
        call.operation = Some(operation.name);
        call.client = client;
        call.progress = Some(Arc::clone(&operation.progress));
        call.deadline = operation.deadline;
        call.is_readable = Some(is_submission_or_result::<UnloadedModel>);
        session.caller().call(call).await
    };
    let accepted = match send(routes::UNLOAD_MODEL.to_owned()).await {
        Err(refusal) if wants_query(&refusal) => {
            let recovered_errors = &session.caller().recovered_errors;
            recovered_errors.record(RecoveredError::Fallback, &refusal);
            send(routes::unload_model_by_query(&model_id)).await?
        }
        sent => sent?,
    };
    let response = match read_submission_or_result::<UnloadedModel>(&accepted.response)? {
        SubmissionOutcome::Accepted(response) => response,
        SubmissionOutcome::Completed(_) => return Ok(()),
    };
    retrieve::<UnloadedModel>(Retrieval {
        operation: operation.clone(),
        client,
        request_id: response.request_id,
        kind: RequestKind::UnloadModel,
        submitted_in: accepted.elapsed,
        queue_log: None,
    })
    .await
    .map(|_| ())
}

/// Returns whether the server misses the model id, which some servers read from the query.
fn wants_query(error: &Error) -> bool {
    let words = tinkers_wire::error_text(error.body()).unwrap_or_default();
    matches!(error.status(), Some(400 | 422))
        && words.contains("query")
        && words.contains("model_id")
}
