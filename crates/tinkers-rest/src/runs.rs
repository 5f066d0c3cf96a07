//! Training runs: the list and descriptions.

use http::Method;
use tinkers_core::Result;
use tinkers_wire::{TrainingRun, routes};

use crate::arguments::{self, id};
use crate::connection::Request;
use crate::{ListTrainingRuns, RestClient};

impl RestClient {
    /// Lists the training runs, the most recently used run first. A stream of the list may miss a run that is used while the stream reads
    /// the list; see [`ListTrainingRuns`].
    pub fn list_training_runs(&self) -> ListTrainingRuns {
        ListTrainingRuns::new(self)
    }

    /// Describes a training run.
    ///
    /// # Errors
    /// `NotFound` if there is no such run; see [`RestClient`].
    pub async fn get_training_run(&self, run_id: impl AsRef<str> + Send) -> Result<TrainingRun> {
        let path = routes::training_run(id("run_id", run_id.as_ref())?);
        self.describe_run("RestClient.get_training_run", &path)
            .await
    }

    /// Describes the training run of a checkpoint.
    ///
    /// # Errors
    /// `NotFound` if there is no such run; see [`RestClient`].
    pub async fn get_training_run_by_tinker_path(
        &self,
        tinker_path: impl AsRef<str> + Send,
    ) -> Result<TrainingRun> {
        let (_, run, _) = arguments::checkpoint(tinker_path.as_ref())?;
        let path = routes::training_run(&run);
        self.describe_run("RestClient.get_training_run_by_tinker_path", &path)
            .await
    }

    async fn describe_run(&self, operation: &'static str, path: &str) -> Result<TrainingRun> {
        let scope = Some(self.access_scope.name());
        let path = routes::with_query(path, &[("access_scope", scope)]);
        let route = "/api/v1/training_runs/{run_id}";
        let request = Request::new(operation, Method::GET, route, path);
        self.connection.get(request).await
    }
}
