//! Uploads of weights from outside of the service.

use http::Method;
use tinkers_core::{Error, Result};
use tinkers_wire::{
    ExternalUpload, FinishExternalUpload, LoraConfig, NewCheckpoint, StartExternalUpload,
    TinkerPath, routes,
};

use crate::RestClient;
use crate::arguments::id;
use crate::connection::Request;

impl RestClient {
    /// Begins an upload of weights: returns a signed address for each file. Put each file to its address without a credential, then call
    /// [`finish_external_weights_upload`](Self::finish_external_weights_upload). The files must be those that an export of a model with
    /// this base model and configuration has. The uploaded checkpoint belongs to the project of the client, if it has one.
    ///
    /// # Errors
    /// `InvalidInput` with the field `base_model`, `lora_config.rank`, `lora_config.train_attn` or `destination_project_id`; see
    /// [`RestClient`].
    pub async fn start_external_weights_upload(
        &self,
        base_model: impl Into<String> + Send,
        lora_config: LoraConfig,
    ) -> Result<ExternalUpload> {
        let base_model = base_model.into();
        if base_model.trim().is_empty() {
            return Err(Error::invalid("base_model", "the name of a base model"));
        }
        lora_config.validate()?;
        let project_id = self.connection.parts.project_id.clone();
        if let Some(project) = &project_id {
            id("destination_project_id", project)?;
        }
        let body = StartExternalUpload {
            base_model,
            lora_config,
            destination_project_id: project_id,
        };
        let operation = "RestClient.start_external_weights_upload";
        let route = routes::EXTERNAL_UPLOAD_START;
        let request = Request::with_body(operation, Method::POST, route, route, &body);
        self.connection.get(request.with_signed_urls()).await
    }

    /// Turns the files of an upload into a checkpoint, and returns its path.
    ///
    /// # Errors
    /// `OutcomeUnknown` if the response is lost: the request is not repeated, since each request may create a checkpoint. Otherwise see
    /// [`RestClient`].
    pub async fn finish_external_weights_upload(
        &self,
        upload_id: impl AsRef<str> + Send,
    ) -> Result<TinkerPath> {
        let body = FinishExternalUpload {
            upload_id: id("upload_id", upload_id.as_ref())?.to_owned(),
        };
        let operation = "RestClient.finish_external_weights_upload";
        let route = routes::EXTERNAL_UPLOAD_FINISH;
        let request = Request::with_body(operation, Method::POST, route, route, &body);
        let new: NewCheckpoint = self.connection.get(request.at_most_once()).await?;
        Ok(new.tinker_path.parse()?)
    }
}
