//! The request that unloads a model.

use std::sync::Arc;

use tinkers_core::{Call, Result, RouteClass};
use tinkers_futures::{Operation, Retrieval, is_submission, read_submission, retrieve};
use tinkers_wire::{ModelRef, RequestKind, UnloadedModel, routes, to_json};

/// Sends the request to unload the model, and waits until the server has unloaded it.
pub(crate) async fn unload(operation: Operation, model_id: Arc<str>) -> Result<()> {
    let session = &operation.session;
    session.check_open()?;
    let body = to_json(&ModelRef {
        model_id: model_id.to_string(),
    });
    let mut call = Call::post(routes::UNLOAD_MODEL, body, RouteClass::Train);
    call.operation = Some(operation.name);
    call.client = session.next_client();
    call.progress = Some(Arc::clone(&operation.progress));
    call.deadline = operation.deadline;
    call.is_readable = Some(is_submission);
    let client = call.client;
    let accepted = session.caller().call(call).await?;
    let response = read_submission(&accepted.response)?;
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
