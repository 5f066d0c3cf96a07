//! The usage per hour, and the current storage of checkpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkers_wire::{
    BillingUsage, CheckpointStorage, CheckpointStorageUsage, UsageEvent, UsageInfo, UsageSession,
    since_epoch,
};

use crate::access::Owner;
use crate::engine::CheckpointRecord;
use crate::http::LazyResponse;
use crate::protocol::listing::date;
use crate::protocol::state::records::{HOUR, UsageRecord, Used, hour_key};
use crate::protocol::{Protocol, Stamp};
use crate::read::{Refusal, UsagePeriod};

/// The longest period of a request for the usage, in seconds.
const MAX_PERIOD: u64 = 14 * 24 * HOUR;

/// The bytes of a gigabyte.
const GIGABYTE: f64 = 1e9;

/// Returns the start and the end of a period in seconds since the Unix epoch.
fn check(at: Stamp, period: &UsagePeriod) -> Result<(u64, u64), Refusal> {
    let start = hour("starting_on", period.starting_on.as_deref())?;
    let end = hour("ending_before", period.ending_before.as_deref())?;
    if start as f64 > CheckpointRecord::seconds(at.wall) {
        let reason = format!("expected no time in the future, got {}", date(start as f64));
        return Err(Refusal::query("starting_on", reason));
    }
    if end <= start || end - start > MAX_PERIOD {
        let reason = format!(
            "expected a time after starting_on by at most 14 days, got {}",
            date(end as f64)
        );
        return Err(Refusal::query("ending_before", reason));
    }
    Ok((start, end))
}

/// Returns the seconds since the Unix epoch of a query parameter, a full hour.
fn hour(name: &str, value: Option<&str>) -> Result<u64, Refusal> {
    let time = value.and_then(since_epoch);
    let is_full = |time: &Duration| time.subsec_nanos() == 0 && time.as_secs().is_multiple_of(HOUR);
    time.filter(is_full)
        .map(|time| time.as_secs())
        .ok_or_else(|| {
            let given = value.unwrap_or_default();
            let reason =
                format!("expected a full hour such as 2026-12-01T05:00:00Z, got {given:?}");
            Refusal::query(name, reason)
        })
}

impl Protocol {
    /// Handles `GET /billing/usage/events`: returns what an owner used in each hour of a period. This server has no prices.
    pub(in crate::protocol) fn usage(
        &mut self,
        at: Stamp,
        owner: &Owner,
        period: &UsagePeriod,
    ) -> Result<LazyResponse, Refusal> {
        let (start, end) = check(at, period)?;
        // What the response reports is not lost when the server is killed after it.
        self.records.expedite();
        let first = hour_key(start);
        let records = self.records.usage.starting_at(&first);
        let wanted = records
            .take_while(|record| record.hour < end)
            .filter(|record| record.owner == *owner);
        let mut usage = BillingUsage::default();
        for record in wanted {
            let event = self.usage_event(record);
            if let Some(id) = &event.session_id
                && let Some(session) = self.records.sessions.get(id)
            {
                let known = usage.sessions.entry(id.clone());
                known.or_insert_with(|| {
                    let mut of_session = UsageSession::default();
                    of_session.user_metadata = Some(session.user_metadata.clone());
                    of_session
                });
            }
            usage.data.push(event);
        }
        Ok(LazyResponse::ok(&usage))
    }

    fn usage_event(&self, record: &UsageRecord) -> UsageEvent {
        let count = record.count;
        let info = match record.used {
            Used::TrainingTokens => UsageInfo::Training { token_count: count },
            Used::PromptTokens => UsageInfo::SamplingPrefill {
                cached: false,
                token_count: count,
            },
            Used::SampledTokens => UsageInfo::SamplingSample { token_count: count },
            Used::Checkpoints => UsageInfo::Checkpoint { count },
        };
        let (start, end) = (record.hour as f64, (record.hour + HOUR) as f64);
        let mut event = UsageEvent::new(date(start), date(end), info);
        let session = record.session.as_ref();
        let session = session.and_then(|id| Some((id, self.records.sessions.get(id)?)));
        event.base_model = Some(record.base_model.clone());
        event.user_id = Some(record.owner.urn());
        event.user_name = Some(record.owner.name().to_owned());
        event.session_id = record.session.clone();
        event.project_id = session.and_then(|(_, session)| session.project_id.clone());
        event
    }

    /// Handles `GET /billing/usage/checkpoints/current`: returns the number and the size of the checkpoints of an owner per project, or in
    /// one project.
    pub(in crate::protocol) fn storage_usage(
        &self,
        owner: &Owner,
        project: Option<&str>,
    ) -> LazyResponse {
        let mut of_projects: BTreeMap<Option<&str>, (u64, u64)> = BTreeMap::new();
        let records = self.checkpoints.iter();
        for record in records.filter(|record| record.owner() == *owner) {
            let of = self.project_of_checkpoint(record);
            if project.is_none() || of == project {
                let (count, bytes) = of_projects.entry(of).or_default();
                *count += 1;
                *bytes += record.size_bytes;
            }
        }
        let mut usage = CheckpointStorageUsage::default();
        for (project, (count, bytes)) in of_projects {
            let mut storage = CheckpointStorage::default();
            storage.project_id = project.map(str::to_owned);
            storage.org_user_urn = Some(owner.urn());
            storage.user_name = Some(owner.name().to_owned());
            storage.checkpoint_count = count;
            storage.size_bytes = bytes;
            storage.size_gigabytes = Some(bytes as f64 / GIGABYTE);
            usage.data.push(storage);
        }
        LazyResponse::ok(&usage)
    }
}
