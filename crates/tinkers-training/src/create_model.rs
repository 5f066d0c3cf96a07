//! Creates models. If the server cannot create a model from a checkpoint, creates a model and loads the checkpoint into it.

use std::sync::Arc;

use bytes::Bytes;
use tinkers_core::retry::{SAME_REASONS, is_missing_route};
use tinkers_core::{
    Call, Deduplication, Error, ErrorKind, HttpResponse, RecoveredError, Result, RouteClass, Sent,
    SessionContext,
};
use tinkers_futures::{
    Operation, QueueLog, Retrieval, SubmissionOutcome, is_submission_or_result,
    read_submission_or_result, retrieve,
};
use tinkers_wire::{
    CreateModel, LoadWeights, LoraConfig, ModelCreated, ModelInfo, ModelRef, OperationResult,
    RequestKind, TinkerPath, WeightsInfo, WeightsInfoRequest, routes, to_json,
};

use crate::TrainingClient;

/// Returns whether the server rejected a request to load a checkpoint because the request names no existing model. Such a request asks the
/// server to create a model from the checkpoint, but some open-source servers load checkpoints only into existing models.
pub(crate) fn needs_existing_model(error: &Error) -> bool {
    let is_refused = error.sent() == Sent::Answered && matches!(error.status(), Some(400 | 422));
    // An error with a request id is the failure of an accepted request.
    let is_submission = error.request_id().is_none();
    is_refused && is_submission && error.body().windows(8).any(|part| part == b"model_id")
}

/// Creates a model with the LoRA configuration of the checkpoint, and then loads the checkpoint into this model. This is needed for servers that
/// load checkpoints only into existing models.
pub(crate) async fn load_into_new_model(
    creation: &ModelCreation,
    load: LoadWeights,
) -> Result<TrainingClient> {
    let session = &creation.operation.session;
    let info = creation.weights_info(&load.path).await?;
    let rank = info.lora_rank.filter(|_| info.is_lora).ok_or_else(|| {
        let message = "the server does not report the rank of the checkpoint's adapter; create a model of that rank and call load_state";
        Error::new(ErrorKind::Unsupported, Sent::Answered, message)
    })?;
    let mut lora_config = LoraConfig::rank(rank);
    lora_config.train_unembed = info.train_unembed;
    lora_config.train_mlp = info.train_mlp;
    lora_config.train_attn = info.train_attn;
    let client = creation
        .new_model(&CreateModel {
            session_id: session.session_id().to_owned(),
            model_seq_id: Some(session.next_model_seq()),
            base_model: info.base_model,
            user_metadata: load.user_metadata,
            lora_config,
            // The default is omitted, since not every server knows the field.
            optimizer_config: info.optimizer_config.filter(|config| !config.is_default()),
        })
        .await?;
    match client
        .load_in(&creation.operation, load.path, load.optimizer)
        .await
    {
        Ok(_) => Ok(client),
        Err(error) => {
            // A server has memory for few models.
            if let Err(kept) = client.unload().await {
                session
                    .caller()
                    .recovered_errors
                    .count(RecoveredError::Unload);
                tracing::debug!(recovered_error = RecoveredError::Unload.name(), error = %kept, model_id = client.model_id(), "a model into which the checkpoint could not be loaded stays until the session ends");
            }
            Err(error)
        }
    }
}

/// Returns how often a creation may be repeated because of the same reason. There is no such limit on servers that deduplicate creations,
/// since repeats leave nothing behind there.
fn same_reasons(session: &dyn SessionContext) -> Option<u32> {
    let leaves_nothing = session.profile().deduplicates == Deduplication::Everything;
    (!leaves_nothing).then_some(SAME_REASONS)
}

/// Returns whether an error shows that the server has no working route for descriptions of models. The client can work without one.
fn is_missing_description(error: &Error) -> bool {
    let is_missing = |status| status == 500 || is_missing_route(status);
    match error.kind() {
        ErrorKind::Protocol => true,
        ErrorKind::SessionLost => false,
        _ => error.status().is_some_and(is_missing),
    }
}

/// A running operation that creates a model, with a description of the model (`subject`) for log messages and errors.
pub(crate) struct ModelCreation {
    pub(crate) operation: Operation,
    pub(crate) subject: String,
}

impl ModelCreation {
    /// Creates the model that `body` describes.
    pub(crate) async fn new_model(&self, body: &CreateModel) -> Result<TrainingClient> {
        let kind = RequestKind::CreateModel;
        let (made, _): (ModelCreated, _) =
            self.run(routes::CREATE_MODEL, to_json(body), kind).await?;
        self.client(made.model_id, Some(&body.base_model)).await
    }

    /// Submits a request that creates a model, and waits for its result. Returns the result, and the model id if the response to the submission
    /// contains a model id.
    pub(crate) async fn run<T: OperationResult>(
        &self,
        route: &str,
        body: Bytes,
        kind: RequestKind,
    ) -> Result<(T, Option<String>)> {
        let session = &self.operation.session;
        session.check_open()?;
        let client = session.next_client();
        let mut call = self.call(route, body);
        call.client = client;
        call.max_same_reason = same_reasons(&**session);
        call.is_readable = Some(is_submission_or_result::<T>);
        let accepted = session.caller().call(call).await;
        let accepted = accepted.map_err(|error| self.with_orphan(error))?;
        let response = match read_submission_or_result(&accepted.response)? {
            SubmissionOutcome::Accepted(response) => response,
            SubmissionOutcome::Completed(result) => return Ok((result, None)),
        };
        self.warn_of_orphan(accepted.earlier, &response.request_id);
        let result = retrieve(Retrieval {
            operation: self.operation.clone(),
            client,
            request_id: response.request_id,
            kind,
            submitted_in: accepted.elapsed,
            queue_log: Some(Arc::new(QueueLog::training(self.subject.clone()))),
        })
        .await?;
        Ok((result, response.model_id))
    }

    /// Logs a warning if the server may keep an unused second model: the response to an earlier attempt to create the model was lost, and the
    /// server is not known to recognize a repeated request.
    fn warn_of_orphan(&self, earlier: Sent, request_id: &str) {
        if earlier == Sent::MaybeSent
            && self.operation.session.profile().deduplicates != Deduplication::Everything
        {
            self.operation
                .session
                .caller()
                .recovered_errors
                .count(RecoveredError::Orphan);
            tracing::warn!(
                recovered_error = RecoveredError::Orphan.name(),
                operation = self.operation.name,
                request_id,
                "the reply to an earlier attempt of the {} was lost: the server may keep an unused model until the session ends",
                self.subject
            );
        }
    }

    fn with_orphan(&self, error: Error) -> Error {
        if error.sent() != Sent::MaybeSent {
            return error;
        }
        error.with_context(format_args!(
            "the reply to an attempt of the {} was lost: the server may keep an unused model until the session ends",
            self.subject
        ))
    }

    /// Creates the client of a model that was just created. Requests the description of the model from the server. If the server cannot
    /// describe the model, the description contains only the id and `base_model`.
    pub(crate) async fn client(
        &self,
        model_id: String,
        base_model: Option<&str>,
    ) -> Result<TrainingClient> {
        let session = &self.operation.session;
        let info = match self.describe(&model_id).await {
            Ok(info) => info,
            Err(error) if is_missing_description(&error) => {
                let recovered_errors = &session.caller().recovered_errors;
                recovered_errors.record(RecoveredError::MissingRoute, &error);
                let mut info = ModelInfo::new(model_id);
                info.model_name = base_model.map(str::to_owned);
                info
            }
            Err(error) => {
                return Err(error.with_context(format!(
                    "model {model_id} was created, but its description could not be fetched"
                )));
            }
        };
        Ok(TrainingClient::new(Arc::clone(session), info))
    }

    async fn describe(&self, model_id: &str) -> Result<ModelInfo> {
        let model_id = model_id.to_owned();
        let mut call = self.call(routes::GET_INFO, to_json(&ModelRef { model_id }));
        let is_decodable = |response: &HttpResponse| ModelInfo::read(&response.body).is_ok();
        call.is_readable = Some(is_decodable);
        call.max_same_reason = same_reasons(&*self.operation.session);
        if call.max_same_reason.is_some() {
            // The description is optional. Web frameworks respond so if a route does not work.
            call.is_final = Some(|response| response.status.as_u16() == 500);
        }
        let answer = self.operation.session.caller().call(call).await?.response;
        ModelInfo::read(&answer.body).map_err(|error| {
            let message = format!("cannot decode the description of the model: {error}");
            Error::new(ErrorKind::Protocol, Sent::Answered, message)
                .with_response(answer.status.as_u16(), &answer.body)
        })
    }

    /// Requests the base model and the LoRA configuration with which a checkpoint was trained.
    async fn weights_info(&self, path: &TinkerPath) -> Result<WeightsInfo> {
        let body = to_json(&WeightsInfoRequest {
            tinker_path: path.to_string(),
        });
        let call = self.call(routes::WEIGHTS_INFO, body);
        let answer = self.operation.session.caller().call(call).await?.response;
        WeightsInfo::read(&answer.body).map_err(|error| {
            let message = format!("cannot decode the checkpoint info of {path}: {error}");
            Error::new(ErrorKind::Protocol, Sent::Answered, message)
                .with_response(answer.status.as_u16(), &answer.body)
        })
    }

    fn call(&self, route: &str, body: Bytes) -> Call {
        let mut call = Call::post(route, body, RouteClass::Train);
        call.operation = Some(self.operation.name);
        call.progress = Some(Arc::clone(&self.operation.progress));
        call.deadline = self.operation.deadline;
        call
    }
}
