//! The state that quirks keep between requests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The maximum number of entries of each table. The oldest keys in their order are dropped first.
const MAX_ENTRIES: usize = 1 << 16;

/// What the quirks remember of earlier requests and responses.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The ids and paths that the client knows, with the ids and paths of the protocol that they stand for.
    aliases: BTreeMap<String, String>,
    /// The routes of submissions, by request id.
    routes: BTreeMap<String, String>,
    /// The number of polls, by request id.
    polls: BTreeMap<String, u32>,
    /// The results that a quirk holds back until they are polled for, by request id.
    pub(super) results: BTreeMap<String, Value>,
    /// The models with accumulated gradients.
    pub(super) with_gradients: BTreeSet<String>,
    /// The session that was created last.
    pub(super) newest_session: Option<String>,
    /// The path of the weights that were saved last for sampling, by model.
    pub(super) sampler_paths: BTreeMap<String, String>,
    /// The number of ids that were made.
    made: u64,
}

impl State {
    /// Returns the next number for an id, from 1.
    pub(super) fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Records that the client knows `own` by the name `alias`.
    pub(super) fn add_alias(&mut self, alias: String, own: String) {
        insert(&mut self.aliases, alias, own);
    }

    /// Returns what an id or path of the client stands for.
    pub(super) fn own(&self, alias: &str) -> Option<&str> {
        self.aliases.get(alias).map(String::as_str)
    }

    /// Records the path of a model's weights that were saved for sampling.
    pub(super) fn saved_for_sampling(&mut self, model: String, path: String) {
        insert(&mut self.sampler_paths, model, path);
    }

    /// Records the route of a submission.
    pub(super) fn submitted(&mut self, request_id: String, route: String) {
        insert(&mut self.routes, request_id, route);
    }

    /// Returns the route of the submission with this request id.
    pub(super) fn route(&self, request_id: &str) -> Option<&str> {
        self.routes.get(request_id).map(String::as_str)
    }

    /// Counts a poll, and returns the number of polls for this request so far.
    pub(super) fn count_poll(&mut self, request_id: &str) -> u32 {
        let count = self.polls.get(request_id).map_or(1, |count| count + 1);
        insert(&mut self.polls, request_id.to_owned(), count);
        count
    }
}

fn insert<T>(table: &mut BTreeMap<String, T>, key: String, value: T) {
    if table.len() >= MAX_ENTRIES && !table.contains_key(&key) {
        table.pop_first();
    }
    table.insert(key, value);
}
