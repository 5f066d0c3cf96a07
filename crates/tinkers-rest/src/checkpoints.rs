//! Checkpoints: lists, deletion, publication, expiry, files.

use std::time::Duration;

use http::Method;
use tinkers_core::{Error, ErrorKind, Result, Sent};
use tinkers_wire::{
    Checkpoint, CheckpointKind, CheckpointList, ExternalWeightsUrls, SetCheckpointTtl, routes,
};

use crate::arguments::{self, id};
use crate::connection::Request;
use crate::{CopyCheckpoint, ListUserCheckpoints, RestClient, SearchCheckpoints};

const DELETE_ROUTE: &str = "/api/v1/training_runs/{run_id}/checkpoints/{checkpoint_id}";
const PUBLISH_ROUTE: &str = "/api/v1/training_runs/{run_id}/checkpoints/{checkpoint_id}/publish";

impl RestClient {
    /// Lists the checkpoints of a training run, the newest checkpoint first. Servers send this list as a whole.
    ///
    /// # Errors
    /// `NotFound` if there is no such run; see [`RestClient`]. Some servers return an empty list instead.
    pub async fn list_checkpoints(
        &self,
        run_id: impl AsRef<str> + Send,
    ) -> Result<Vec<Checkpoint>> {
        let path = routes::run_checkpoints(id("run_id", run_id.as_ref())?);
        let route = "/api/v1/training_runs/{run_id}/checkpoints";
        let request = Request::new("RestClient.list_checkpoints", Method::GET, route, path);
        let list: CheckpointList = self.connection.get(request).await?;
        Ok(list.checkpoints)
    }

    /// Lists all checkpoints of the user, the newest checkpoint first.
    pub fn list_user_checkpoints(&self) -> ListUserCheckpoints {
        ListUserCheckpoints::new(self)
    }

    /// Searches checkpoints. Only newer servers have this search.
    pub fn search_checkpoints(&self) -> SearchCheckpoints {
        SearchCheckpoints::new(self)
    }

    /// Deletes the checkpoint `<kind>/<name>` of a training run.
    ///
    /// If the response to a request is lost, the request is repeated. The checkpoint counts as deleted if the repeated request does not
    /// find it.
    ///
    /// # Errors
    /// `NotFound` if there is no such checkpoint; see [`RestClient`].
    pub async fn delete_checkpoint(
        &self,
        run_id: impl AsRef<str> + Send,
        checkpoint_id: impl AsRef<str> + Send,
    ) -> Result<()> {
        let (run_id, checkpoint_id) = (id("run_id", run_id.as_ref())?, checkpoint_id.as_ref());
        let kind = checkpoint_id.split_once('/').map(|(kind, name)| {
            let is_name = routes::check_id("checkpoint_id", name).is_ok() && !name.contains('/');
            CheckpointKind::from_segment(kind).is_some() && is_name
        });
        if kind != Some(true) {
            let expected = format!("<kind>/<name>, such as weights/step-10, got {checkpoint_id:?}");
            return Err(Error::invalid("checkpoint_id", expected));
        }
        self.delete("RestClient.delete_checkpoint", run_id, checkpoint_id)
            .await
    }

    /// Deletes a checkpoint, like [`delete_checkpoint`](Self::delete_checkpoint).
    ///
    /// # Errors
    /// `NotFound` if there is no such checkpoint; see [`RestClient`].
    pub async fn delete_checkpoint_from_tinker_path(
        &self,
        tinker_path: impl AsRef<str> + Send,
    ) -> Result<()> {
        let (_, run, checkpoint) = arguments::checkpoint(tinker_path.as_ref())?;
        let operation = "RestClient.delete_checkpoint_from_tinker_path";
        self.delete(operation, &run, &checkpoint).await
    }

    async fn delete(&self, operation: &'static str, run: &str, checkpoint: &str) -> Result<()> {
        let path = routes::checkpoint(run, checkpoint);
        let request = Request::new(operation, Method::DELETE, DELETE_ROUTE, path);
        match self.connection.send(request).await {
            Err(error) if is_done(&error, ErrorKind::NotFound) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Publishes a checkpoint: all users of the service can then read it.
    ///
    /// # Errors
    /// `Conflict` if the checkpoint is public already, `NotFound` if there is no such checkpoint of the user; see [`RestClient`].
    pub async fn publish_checkpoint_from_tinker_path(
        &self,
        tinker_path: impl AsRef<str> + Send,
    ) -> Result<()> {
        let operation = "RestClient.publish_checkpoint_from_tinker_path";
        self.set_public(operation, Method::POST, tinker_path.as_ref())
            .await
    }

    /// Unpublishes a checkpoint: only its owner can then read it.
    ///
    /// # Errors
    /// `Conflict` if the checkpoint is not public, `NotFound` if there is no such checkpoint of the user; see [`RestClient`].
    pub async fn unpublish_checkpoint_from_tinker_path(
        &self,
        tinker_path: impl AsRef<str> + Send,
    ) -> Result<()> {
        let operation = "RestClient.unpublish_checkpoint_from_tinker_path";
        self.set_public(operation, Method::DELETE, tinker_path.as_ref())
            .await
    }

    async fn set_public(
        &self,
        operation: &'static str,
        method: Method,
        tinker_path: &str,
    ) -> Result<()> {
        let (_, run, checkpoint) = arguments::checkpoint(tinker_path)?;
        let path = routes::checkpoint_publication(&run, &checkpoint);
        let request = Request::new(operation, method, PUBLISH_ROUTE, path);
        match self.connection.send(request).await {
            Err(error) if is_done(&error, ErrorKind::Conflict) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Sets the time after which the server deletes a checkpoint, counted from now, between one hour and ten years. With `None`, the
    /// checkpoint is not deleted.
    ///
    /// # Errors
    /// `InvalidInput` with the field `ttl_seconds`, `NotFound` if there is no such checkpoint; see [`RestClient`].
    pub async fn set_checkpoint_ttl_from_tinker_path(
        &self,
        tinker_path: impl AsRef<str> + Send,
        ttl: Option<Duration>,
    ) -> Result<()> {
        let (_, run, checkpoint) = arguments::checkpoint(tinker_path.as_ref())?;
        let ttl_seconds = ttl.map(arguments::ttl).transpose()?;
        let body = SetCheckpointTtl { ttl_seconds };
        body.validate()?;
        let operation = "RestClient.set_checkpoint_ttl_from_tinker_path";
        let route = "/api/v1/training_runs/{run_id}/checkpoints/{checkpoint_id}/ttl";
        let path = routes::checkpoint_ttl(&run, &checkpoint);
        let request = Request::with_body(operation, Method::PUT, route, path, &body);
        self.connection.send(request).await.map(drop)
    }

    /// Returns the signed addresses of the files of an external checkpoint, `tinker://<run>/external_weights/<name>`.
    ///
    /// # Errors
    /// `InvalidInput` for other kinds of checkpoints, `NotFound` if there is no such checkpoint; see [`RestClient`].
    pub async fn get_external_weights_urls(
        &self,
        tinker_path: impl AsRef<str> + Send,
    ) -> Result<ExternalWeightsUrls> {
        let (path, run, checkpoint) = arguments::checkpoint(tinker_path.as_ref())?;
        if path.kind() != Some(CheckpointKind::External) {
            let expected = format!("tinker://<run>/external_weights/<name>, got {path}");
            return Err(Error::invalid("tinker_path", expected));
        }
        let path = routes::external_weights_urls(&run, &checkpoint);
        let operation = "RestClient.get_external_weights_urls";
        let route =
            "/api/v1/training_runs/{run_id}/checkpoints/{checkpoint_id}/external_weights_urls";
        let request = Request::new(operation, Method::GET, route, path);
        self.connection.get(request.with_signed_urls()).await
    }

    /// Copies a checkpoint to a project. Await the returned value to copy.
    pub fn copy_weights(&self, source_path: impl AsRef<str>) -> CopyCheckpoint {
        CopyCheckpoint::new(self, source_path.as_ref())
    }
}

/// Returns whether an error of the kind `done` means that an earlier attempt of the same request, whose response was lost, has done what
/// the request asks for.
fn is_done(error: &Error, done: ErrorKind) -> bool {
    error.kind() == done && error.sent() == Sent::MaybeSent
}
