//! Descriptions of the server, and listings of training runs and checkpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkers_wire::{
    Capabilities, Checkpoint, CheckpointKind, CheckpointList, ClientConfig, Cursor, DynamicConfig,
    SupportedModel, TrainingRun, TrainingRunList, rfc3339,
};

use super::Protocol;
use crate::access::Owner;
use crate::dialect::Flags;
use crate::engine::CheckpointRecord;
use crate::http::LazyResponse;
use crate::read::{Page, Refusal};

impl Page {
    /// Returns the items of the list `all` that are on this page of the listing.
    pub(super) fn of<T>(self, all: &[T]) -> &[T] {
        let from = usize::try_from(self.offset)
            .unwrap_or(usize::MAX)
            .min(all.len());
        let len = usize::try_from(self.limit)
            .unwrap_or(usize::MAX)
            .min(all.len() - from);
        &all[from..from + len]
    }

    fn cursor(self, total: usize) -> Cursor {
        Cursor::new(self.offset, self.limit, total as u64)
    }
}

impl Protocol {
    /// Handles `GET /get_server_capabilities`, which lists the base models of the server.
    pub(super) fn capabilities(&self) -> LazyResponse {
        let models = self.catalog.bases();
        let models =
            models.map(|base| SupportedModel::new(&base.name, u64::from(base.max_context_length)));
        LazyResponse::ok(&Capabilities::new(models.collect()))
    }

    /// Handles `POST /client/config`, which returns feature flags for clients.
    pub(super) fn client_config(&self) -> LazyResponse {
        let is_exchange_required = self.config.access.exchanges_keys();
        if let Some(few) = self.config.dialect.own_flags(is_exchange_required) {
            return few;
        }
        let mut config = ClientConfig::default();
        config.pjwt_auth_enabled = is_exchange_required;
        config.fwdbwd_max_chunk_len = self.config.chunk_len;
        if self.config.dialect.flags == Flags::OfSdk025 {
            config.parallel_fwdbwd_chunks = false;
            return LazyResponse::ok(&config);
        }
        config.proto_compress_fwdbwd = true;
        config.server = Some(concat!("tinkers-local/", env!("CARGO_PKG_VERSION")).to_owned());
        config.deduplicates_seq_ids = self.config.announces_deduplication.then_some(true);
        config.sample_use_retrieve_futures = self.config.session_polls;
        config.session_expiry_sec = Some(self.config.session_expiry.as_secs());
        LazyResponse::ok(&config)
    }

    /// Handles `POST /client/dynamic_config`, which returns the feature flags that clients refresh while they run.
    pub(super) fn dynamic_config() -> LazyResponse {
        let mut config = DynamicConfig::default();
        config.sample_cancel_enabled = true;
        LazyResponse::ok(&config)
    }

    /// Handles `GET /training_runs`: lists the runs of an owner in one project or in all projects, the most recently used run first. Runs that
    /// are known only from their checkpoints belong to no project, except copies.
    pub(super) fn list_runs(
        &self,
        owner: &Owner,
        page: Page,
        project: Option<&str>,
    ) -> LazyResponse {
        let records = self.checkpoints.iter();
        let copies: BTreeMap<&str, &str> = records
            .filter_map(|copy| Some((copy.path.run_id()?, copy.project_id.as_deref()?)))
            .collect();
        let project_of = |run: &str| {
            let of_session = self.records.project_of_model(run);
            of_session.or_else(|| copies.get(run).copied())
        };
        let runs = self.runs(owner).into_iter();
        let mut all: Vec<(f64, TrainingRun)> = runs
            .filter(|&(run, _)| project.is_none() || project_of(run) == project)
            .map(|(_, run)| run)
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let runs = page.of(&all).iter().map(|(_, run)| run.clone());
        let cursor = Some(page.cursor(all.len()));
        LazyResponse::ok(&TrainingRunList::new(runs.collect(), cursor))
    }

    /// Handles `GET /training_runs/{id}`, which describes a training run.
    pub(super) fn run_info(&self, owner: &Owner, id: &str) -> Result<LazyResponse, Refusal> {
        match self.runs(owner).remove(id) {
            Some((_, run)) => Ok(LazyResponse::ok(&run)),
            None => Err(unknown_run(id)),
        }
    }

    /// Handles `GET /training_runs/{id}/checkpoints`: lists all checkpoints of a run, the newest checkpoint first.
    pub(super) fn list_run_checkpoints(&self, id: &str) -> Result<LazyResponse, Refusal> {
        let of_run: Vec<&CheckpointRecord> =
            self.newest_first(|record| record.path.run_id() == Some(id));
        if of_run.is_empty() && self.records.runs.get(id).is_none() {
            return Err(unknown_run(id));
        }
        let checkpoints = of_run.into_iter().map(listed).collect();
        Ok(LazyResponse::ok(&CheckpointList::new(checkpoints, None)))
    }

    /// Handles `GET /checkpoints`: lists one page of all checkpoints of an owner, the newest checkpoint first.
    pub(super) fn list_checkpoints(&self, owner: &Owner, page: Page) -> LazyResponse {
        let all = self.newest_first(|record| record.owner() == *owner);
        let checkpoints = page.of(&all).iter().map(|record| listed(record)).collect();
        let cursor = Some(page.cursor(all.len()));
        LazyResponse::ok(&CheckpointList::new(checkpoints, cursor))
    }

    /// Returns the project of a checkpoint, if it is known: that of a copy, or that of the session of its training run.
    pub(super) fn project_of_checkpoint<'a>(
        &'a self,
        record: &'a CheckpointRecord,
    ) -> Option<&'a str> {
        let of_copy = record.project_id.as_deref();
        of_copy.or_else(|| self.records.project_of_model(record.path.run_id()?))
    }

    fn newest_first(&self, wanted: impl Fn(&CheckpointRecord) -> bool) -> Vec<&CheckpointRecord> {
        let records = self.checkpoints.iter();
        let mut found: Vec<&CheckpointRecord> = records.filter(|record| wanted(record)).collect();
        found.sort_by(|a, b| b.saved_at.total_cmp(&a.saved_at));
        found
    }

    /// Returns the training runs of an owner, including those that are known only from their checkpoints. Each run has the time of its
    /// last use.
    fn runs(&self, owner: &Owner) -> BTreeMap<&str, (f64, TrainingRun)> {
        let mut saved: BTreeMap<&str, Vec<&CheckpointRecord>> = BTreeMap::new();
        for record in self.checkpoints.iter() {
            if record.owner() != *owner {
                continue;
            }
            let run = record.path.run_id().unwrap_or_default();
            saved.entry(run).or_default().push(record);
        }
        let mut runs = BTreeMap::new();
        for (id, known) in self.records.runs.iter() {
            if self.records.owner_of_session(&known.session) != Some(owner) {
                continue;
            }
            let records = saved.remove(id).unwrap_or_default();
            let (base, last) = (&known.base_model, known.last_request);
            let mut run = run(owner, id, base, known.lora.rank, last, &records);
            run.user_metadata = known.user_metadata.clone();
            runs.insert(id, (last, run));
        }
        for (id, records) in saved {
            let Some(last) = records
                .iter()
                .max_by(|a, b| a.saved_at.total_cmp(&b.saved_at))
            else {
                continue;
            };
            let (base, rank) = (&last.base_model, last.lora.rank);
            let mut run = run(owner, id, base, rank, last.saved_at, &records);
            run.user_metadata = last.run_metadata.clone();
            runs.insert(id, (last.saved_at, run));
        }
        runs
    }
}

fn run(
    owner: &Owner,
    id: &str,
    base: &str,
    rank: u32,
    last: f64,
    records: &[&CheckpointRecord],
) -> TrainingRun {
    let mut run = TrainingRun::new(id, base);
    run.model_owner = owner.name().to_owned();
    run.is_lora = true;
    run.lora_rank = Some(rank);
    run.last_request_time = date(last);
    run.last_checkpoint = newest(records.iter().copied(), CheckpointKind::Training);
    run.last_sampler_checkpoint = newest(records.iter().copied(), CheckpointKind::Sampler);
    run
}

/// Formats a number of seconds since the Unix epoch as a date.
pub(super) fn date(seconds: f64) -> String {
    rfc3339(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

pub(super) fn unknown_run(id: &str) -> Refusal {
    Refusal::not_found(format!("no training run {id:?} on this server"))
}

/// Returns the description of a checkpoint for a listing.
pub(super) fn listed(record: &CheckpointRecord) -> Checkpoint {
    let path = &record.path;
    let saved_at = date(record.saved_at);
    // The protocol makes all paths of checkpoints in the form of the service, so they have an id and a kind.
    let id = path.checkpoint_id().unwrap_or_default();
    let kind = path.kind().unwrap_or(CheckpointKind::Training);
    let mut listed = Checkpoint::new(id, kind, saved_at, path.as_str());
    listed.size_bytes = Some(record.size_bytes);
    listed.user_metadata = record.user_metadata.clone();
    listed.expires_at = record.expires_at.map(date);
    listed.public = record.public;
    listed.base_model = Some(record.base_model.clone());
    listed
}

/// Returns the newest checkpoint of a kind (training or sampler weights), if there is one.
fn newest<'a>(
    records: impl Iterator<Item = &'a CheckpointRecord>,
    kind: CheckpointKind,
) -> Option<Checkpoint> {
    records
        .filter(|record| record.path.kind() == Some(kind))
        .max_by(|a, b| a.saved_at.total_cmp(&b.saved_at))
        .map(listed)
}
