//! The deletion of many checkpoints.

use std::collections::HashSet;

use futures_util::stream::{self, StreamExt};
use tinkers_core::{Error, Result};
use tinkers_wire::Checkpoint;

use crate::{CheckpointFilter, RestClient};

/// The number of concurrent deletions.
const CONCURRENT: usize = 16;

/// The outcome of the deletion of many checkpoints.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct DeleteReport {
    /// The paths of the deleted checkpoints, in the order in which they were given.
    pub deleted: Vec<String>,
    /// The checkpoints that could not be deleted, in the order in which they were given.
    pub failed: Vec<FailedDelete>,
}

/// A checkpoint that could not be deleted.
#[derive(Debug)]
#[non_exhaustive]
pub struct FailedDelete {
    /// The path of the checkpoint.
    pub tinker_path: String,
    /// The reason.
    pub error: Error,
}

impl RestClient {
    /// Finds the checkpoints that match a filter, the newest checkpoint first. With [`CheckpointFilter::run_id`], only the list of this run
    /// is requested, and otherwise the list of all checkpoints of the user.
    ///
    /// # Errors
    /// `InvalidInput` with the field `name_prefix` if the prefix is empty; see [`RestClient`].
    pub async fn find_checkpoints(&self, filter: &CheckpointFilter) -> Result<Vec<Checkpoint>> {
        filter.check_name_prefix()?;
        let all = match &filter.run_id {
            Some(run_id) => self.list_checkpoints(run_id).await?,
            None => {
                let mut found = Vec::new();
                let mut all = self.list_user_checkpoints().stream();
                while let Some(checkpoint) = all.next().await {
                    let checkpoint = checkpoint?;
                    if filter.matches(&checkpoint) {
                        found.push(checkpoint);
                    }
                }
                found
            }
        };
        Ok(all.into_iter().filter(|one| filter.matches(one)).collect())
    }

    /// Deletes the checkpoints at these paths, up to 16 at a time. A failure does not end the other deletions. A path that is given several
    /// times is deleted and reported once.
    ///
    /// # Errors
    /// `InvalidInput` if one of the paths is invalid; nothing is deleted then. Failures of single deletions are in the report.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the deletions that have not begun. Those that were sent may have been applied.
    pub async fn delete_checkpoints<P: AsRef<str>>(
        &self,
        paths: impl IntoIterator<Item = P> + Send,
    ) -> Result<DeleteReport> {
        let paths: Vec<String> = paths
            .into_iter()
            .map(|path| path.as_ref().to_owned())
            .collect();
        for path in &paths {
            crate::arguments::checkpoint(path)?;
        }
        Ok(self.delete_all(paths).await)
    }

    /// Deletes the checkpoints that match a filter, like [`find_checkpoints`](Self::find_checkpoints) and then
    /// [`delete_checkpoints`](Self::delete_checkpoints). A checkpoint whose path has a form that this version does not know counts as a
    /// failure of its deletion.
    ///
    /// # Errors
    /// `InvalidInput` with the field `filter` if the filter has no condition, and the errors of
    /// [`find_checkpoints`](Self::find_checkpoints). Failures of single deletions are in the report.
    pub async fn delete_checkpoints_matching(
        &self,
        filter: &CheckpointFilter,
    ) -> Result<DeleteReport> {
        filter.check_not_empty()?;
        let found = self.find_checkpoints(filter).await?;
        let paths = found.into_iter().map(|one| one.tinker_path).collect();
        Ok(self.delete_all(paths).await)
    }

    /// Deletes the checkpoints at these paths. Invalid paths are failures in the report.
    async fn delete_all(&self, mut paths: Vec<String>) -> DeleteReport {
        let mut seen = HashSet::new();
        paths.retain(|path| seen.insert(path.clone()));
        let deletions = paths.into_iter().map(|path| async move {
            let outcome = self.delete_checkpoint_from_tinker_path(&path).await;
            (path, outcome)
        });
        let deletions: Vec<_> = deletions.collect();
        let mut outcomes = stream::iter(deletions).buffered(CONCURRENT);
        let mut report = DeleteReport::default();
        while let Some((tinker_path, outcome)) = outcomes.next().await {
            match outcome {
                Ok(()) => report.deleted.push(tinker_path),
                Err(error) => report.failed.push(FailedDelete { tinker_path, error }),
            }
        }
        report
    }
}
