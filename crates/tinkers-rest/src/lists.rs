//! Lists of runs, checkpoints and sessions.

use std::fmt;
use std::sync::Arc;

use http::Method;
use tinkers_core::{BoxFuture, Result};
use tinkers_wire::{
    AccessScope, Checkpoint, CheckpointList, SessionList, TrainingRun, TrainingRunList, routes,
};

use crate::connection::{Connection, Request};
use crate::paging::{self, DEFAULT_PAGE, Page};
use crate::{ItemStream, RestClient};

/// Implements the methods that all lists have: the page size, one page, and the stream of all items.
macro_rules! list {
    ($list:ident, $item:ty, $page:ty, $items:ident, $id:expr) => {
        impl $list {
            /// Sets the number of items per request of the stream, 2 to 1000; 100 by default.
            pub fn page_size(mut self, items: u64) -> Self {
                self.page_size = items;
                self
            }

            /// Requests one page: at most `limit` items, 1 to 1000, after the first `offset` items.
            ///
            /// # Errors
            /// `InvalidInput` with the field `limit`, and the errors of [`RestClient`].
            pub async fn page(&self, offset: u64, limit: u64) -> Result<$page> {
                paging::check_size("limit", limit, 1)?;
                self.fetch(offset, limit).await
            }

            /// Returns a stream of all items. No item is yielded twice, and none is missed because others are created or deleted meanwhile.
            pub fn stream(&self) -> ItemStream<$item> {
                let list = self.clone();
                let fetch = move |offset, limit| -> BoxFuture<'static, Result<Page<$item>>> {
                    let list = list.clone();
                    Box::pin(async move {
                        let page = list.fetch(offset, limit).await?;
                        let total = Self::total(&page);
                        Ok(Page {
                            items: page.$items,
                            total,
                        })
                    })
                };
                ItemStream::new(paging::all(Arc::new(fetch), $id, self.page_size))
            }
        }

        impl fmt::Debug for $list {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($list))
                    .field("page_size", &self.page_size)
                    .finish_non_exhaustive()
            }
        }
    };
}

/// A list of training runs, the most recently used run first; see [`RestClient::list_training_runs`].
///
/// A run that is used while a stream reads the list moves to the front of the list. If the stream has not yielded it before, it misses it.
/// To find all runs while some are trained, read the list again, and compare the ids.
#[derive(Clone)]
#[must_use = "a list is requested by `stream` or `page`"]
pub struct ListTrainingRuns {
    connection: Arc<Connection>,
    access_scope: AccessScope,
    project_id: Option<String>,
    page_size: u64,
}

list!(
    ListTrainingRuns,
    TrainingRun,
    TrainingRunList,
    training_runs,
    |run| &run.training_run_id
);

impl ListTrainingRuns {
    pub(crate) fn new(client: &RestClient) -> Self {
        Self {
            connection: Arc::clone(&client.connection),
            access_scope: client.access_scope,
            project_id: None,
            page_size: DEFAULT_PAGE,
        }
    }

    /// Lists only the runs of a project.
    pub fn project_id(mut self, project_id: impl Into<String>) -> Self {
        self.project_id = Some(project_id.into());
        self
    }

    async fn fetch(&self, offset: u64, limit: u64) -> Result<TrainingRunList> {
        let (offset, limit) = (offset.to_string(), limit.to_string());
        let path = routes::with_query(
            routes::TRAINING_RUNS,
            &[
                ("limit", Some(&limit)),
                ("offset", Some(&offset)),
                ("access_scope", Some(self.access_scope.name())),
                ("project_id", self.project_id.as_deref()),
            ],
        );
        let operation = "RestClient.list_training_runs";
        let request = Request::new(operation, Method::GET, routes::TRAINING_RUNS, path);
        self.connection.get(request).await
    }

    fn total(page: &TrainingRunList) -> Option<u64> {
        page.cursor.as_ref().map(|cursor| cursor.total_count)
    }
}

/// A list of all checkpoints of the user, the newest checkpoint first; see [`RestClient::list_user_checkpoints`].
#[derive(Clone)]
#[must_use = "a list is requested by `stream` or `page`"]
pub struct ListUserCheckpoints {
    connection: Arc<Connection>,
    page_size: u64,
}

list!(
    ListUserCheckpoints,
    Checkpoint,
    CheckpointList,
    checkpoints,
    |one| &one.tinker_path
);

impl ListUserCheckpoints {
    pub(crate) fn new(client: &RestClient) -> Self {
        Self {
            connection: Arc::clone(&client.connection),
            page_size: DEFAULT_PAGE,
        }
    }

    async fn fetch(&self, offset: u64, limit: u64) -> Result<CheckpointList> {
        let (offset, limit) = (offset.to_string(), limit.to_string());
        let parameters = [("limit", Some(&*limit)), ("offset", Some(&*offset))];
        let path = routes::with_query(routes::CHECKPOINTS, &parameters);
        let operation = "RestClient.list_user_checkpoints";
        let request = Request::new(operation, Method::GET, routes::CHECKPOINTS, path);
        self.connection.get(request).await
    }

    fn total(page: &CheckpointList) -> Option<u64> {
        page.cursor.as_ref().map(|cursor| cursor.total_count)
    }
}

/// A list of the ids of sessions, the newest session first; see [`RestClient::list_sessions`].
#[derive(Clone)]
#[must_use = "a list is requested by `stream` or `page`"]
pub struct ListSessions {
    connection: Arc<Connection>,
    access_scope: AccessScope,
    page_size: u64,
}

list!(ListSessions, String, SessionList, sessions, |id| id);

impl ListSessions {
    pub(crate) fn new(client: &RestClient) -> Self {
        Self {
            connection: Arc::clone(&client.connection),
            access_scope: client.access_scope,
            page_size: DEFAULT_PAGE,
        }
    }

    async fn fetch(&self, offset: u64, limit: u64) -> Result<SessionList> {
        let (offset, limit) = (offset.to_string(), limit.to_string());
        let path = routes::with_query(
            routes::SESSIONS,
            &[
                ("limit", Some(&limit)),
                ("offset", Some(&offset)),
                ("access_scope", Some(self.access_scope.name())),
            ],
        );
        let operation = "RestClient.list_sessions";
        let request = Request::new(operation, Method::GET, routes::SESSIONS, path);
        self.connection.get(request).await
    }

    /// The server does not send the number of all sessions.
    fn total(_page: &SessionList) -> Option<u64> {
        None
    }
}
