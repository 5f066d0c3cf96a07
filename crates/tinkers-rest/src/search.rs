//! Searches for sessions and checkpoints.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use http::Method;
use tinkers_core::{BoxFuture, Error, ErrorKind, Result, Sent};
use tinkers_wire::{
    Checkpoint, CheckpointKind, CheckpointSearch, CheckpointSearchPage, FinishReason,
    MAX_SEARCH_LIMIT, OwnerFilter, SearchCursor, SessionSearch, SessionSearchPage,
    SessionStatusFilter, SessionSummary, routes,
};

use crate::connection::{Connection, Request};
use crate::{ItemStream, RestClient};

/// The maximum number of cursors that a stream remembers.
const MAX_CURSORS: usize = 10_000;

/// A function that requests the page at a cursor: the items, and the cursor of the next page.
type Fetch<T> = Arc<
    dyn Fn(Option<SearchCursor>) -> BoxFuture<'static, Result<(Vec<T>, Option<SearchCursor>)>>
        + Send
        + Sync,
>;

/// Returns a stream of all items of a search. If the server sends a cursor again that was used before, the stream ends with an error.
fn all<T: Send + 'static>(operation: &'static str, fetch: Fetch<T>) -> ItemStream<T> {
    // The inner option is the cursor of the next page, and the outer one whether there is a next page.
    let state = (VecDeque::new(), Some(None::<SearchCursor>), HashSet::new());
    let items = stream::try_unfold(state, move |(mut ready, mut next, mut used)| {
        let fetch = Arc::clone(&fetch);
        async move {
            loop {
                if let Some(item) = ready.pop_front() {
                    return Ok(Some((item, (ready, next, used))));
                }
                let Some(cursor) = next.take() else {
                    return Ok(None);
                };
                if let Some(cursor) = &cursor {
                    // A cycle of cursors is found after the next round, too.
                    if used.len() >= MAX_CURSORS {
                        used.clear();
                    }
                    if !used.insert(cursor.content().to_string()) {
                        let message =
                            "the server sent the same cursor twice, so the search would not end";
                        let error = Error::new(ErrorKind::Protocol, Sent::Answered, message);
                        return Err(error.with_operation(operation));
                    }
                }
                let (items, following) = fetch(cursor).await?;
                ready.extend(items);
                next = following.map(Some);
            }
        }
    });
    ItemStream::new(items.boxed())
}

/// Checks the number of items per page.
fn check_page_size(items: u64) -> Result<()> {
    if (1..=MAX_SEARCH_LIMIT).contains(&items) {
        return Ok(());
    }
    let expected = format!("1 to {MAX_SEARCH_LIMIT}, got {items}");
    Err(Error::invalid("page_size", expected))
}

/// Implements the methods that both searches have.
macro_rules! search {
    ($search:ident, $item:ty, $page:ty, $items:ident, $operation:literal, $route:expr) => {
        impl $search {
            /// Finds the objects of other owners than the user.
            pub fn owner(mut self, owner: OwnerFilter) -> Self {
                self.search.owner = owner;
                self
            }

            /// Finds only objects of these projects. By default, those of all projects that the user may list.
            pub fn project_ids(mut self, ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
                self.search.project_ids = Some(ids.into_iter().map(Into::into).collect());
                self
            }

            /// Finds only objects whose metadata contains this pair. Repeat the call for further pairs, which must hold, too.
            pub fn user_metadata(
                mut self,
                name: impl Into<String>,
                value: impl Into<String>,
            ) -> Self {
                self.search.user_metadata.insert(name.into(), value.into());
                self
            }

            /// Sets the number of items per request, 1 to 200; 50 by default.
            pub fn page_size(mut self, items: u64) -> Self {
                self.search.limit = items;
                self
            }

            /// Requests one page: the first page, or the page at the cursor of the page before.
            ///
            /// # Errors
            /// `InvalidInput` with the field `page_size` or that of an invalid condition, and the errors of [`RestClient`].
            pub async fn page(&self, cursor: Option<SearchCursor>) -> Result<$page> {
                check_page_size(self.search.limit)?;
                let mut search = self.search.clone();
                search.cursor = cursor;
                search.validate()?;
                let route = $route;
                let request = Request::with_body($operation, Method::POST, route, route, &search);
                self.connection.get(request).await
            }

            /// Returns a stream of all items, the newest item first.
            pub fn stream(&self) -> ItemStream<$item> {
                let search = self.clone();
                let fetch: Fetch<$item> = Arc::new(move |cursor| {
                    let search = search.clone();
                    Box::pin(async move {
                        let page = search.page(cursor).await?;
                        Ok((page.$items, page.next_cursor))
                    })
                });
                all($operation, fetch)
            }
        }

        impl fmt::Debug for $search {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($search))
                    .field("search", &self.search)
                    .finish_non_exhaustive()
            }
        }
    };
}

/// A search for sessions; see [`RestClient::search_sessions`]. All conditions must hold.
#[derive(Clone)]
#[must_use = "a search is sent by `stream` or `page`"]
pub struct SearchSessions {
    connection: Arc<Connection>,
    search: SessionSearch,
}

search!(
    SearchSessions,
    SessionSummary,
    SessionSearchPage,
    sessions,
    "RestClient.search_sessions",
    routes::SEARCH_SESSIONS
);

impl SearchSessions {
    pub(crate) fn new(client: &RestClient) -> Self {
        Self {
            connection: Arc::clone(&client.connection),
            search: SessionSearch::default(),
        }
    }

    /// Finds the session with this id. If [`display_name`](Self::display_name) is set, too, a session matches with either this id or that
    /// name.
    pub fn session_id(mut self, session_id: impl Into<String>) -> Self {
        self.search.session_id = Some(session_id.into());
        self
    }

    /// Finds sessions whose display name contains all these words, in any case of letters.
    pub fn display_name(mut self, words: impl Into<String>) -> Self {
        self.search.display_name = Some(words.into());
        self
    }

    /// Finds sessions in this state. Repeat the call for further states, of which one must hold.
    pub fn status(mut self, status: SessionStatusFilter) -> Self {
        self.search.statuses.get_or_insert_default().push(status);
        self
    }

    /// Finds sessions that the client finished for one of these reasons.
    pub fn finished(self, reasons: impl IntoIterator<Item = FinishReason>) -> Self {
        let reasons = reasons.into_iter().map(|reason| reason.name().to_owned());
        self.status(SessionStatusFilter::ClientFinished {
            reasons: Some(reasons.collect()),
        })
    }
}

/// A search for checkpoints; see [`RestClient::search_checkpoints`]. All conditions must hold.
#[derive(Clone)]
#[must_use = "a search is sent by `stream` or `page`"]
pub struct SearchCheckpoints {
    connection: Arc<Connection>,
    search: CheckpointSearch,
}

search!(
    SearchCheckpoints,
    Checkpoint,
    CheckpointSearchPage,
    checkpoints,
    "RestClient.search_checkpoints",
    routes::SEARCH_CHECKPOINTS
);

impl SearchCheckpoints {
    pub(crate) fn new(client: &RestClient) -> Self {
        Self {
            connection: Arc::clone(&client.connection),
            search: CheckpointSearch::default(),
        }
    }

    /// Finds only checkpoints of a kind.
    pub fn kind(mut self, kind: CheckpointKind) -> Self {
        self.search.checkpoint_type = Some(kind);
        self
    }

    /// Finds only checkpoints of these base models. An empty list finds nothing.
    pub fn base_models(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.search.base_models = Some(names.into_iter().map(Into::into).collect());
        self
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn cursors_in_a_cycle_end_the_stream_with_an_error() {
        let fetch: Fetch<u64> = Arc::new(|cursor| {
            let page = cursor.and_then(|cursor| cursor.content().as_u64());
            // After the first page, pages 1, 2 and 3 follow one another without an end.
            let page = page.unwrap_or_default();
            let following = SearchCursor::new((page % 3 + 1).into());
            async move { Ok((vec![page], Some(following))) }.boxed()
        });
        let items = all("RestClient.search", fetch).take(50);
        let items: Vec<Result<u64>> = items.collect().now_or_never().expect("ready");
        let (error, items) = items.split_last().expect("an error");
        let items: Vec<u64> = items.iter().map(|item| *item.as_ref().unwrap()).collect();
        assert_eq!(items, [0, 1, 2, 3]);
        let error = error.as_ref().unwrap_err();
        assert_eq!(
            (error.kind(), error.operation()),
            (ErrorKind::Protocol, Some("RestClient.search"))
        );
    }
}
