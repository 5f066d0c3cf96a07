//! The audit log of a day.

use tinkers_wire::{AuditEntry, AuditEventType, AuditLog, since_epoch};

use crate::access::Owner;
use crate::engine::CheckpointRecord;
use crate::http::LazyResponse;
use crate::protocol::listing::date;
use crate::protocol::{Protocol, Stamp};
use crate::read::{AuditQuery, Refusal};

/// The seconds of a day.
const DAY: f64 = 24.0 * 3600.0;

impl Protocol {
    /// Handles `GET /audit`: returns the changes that an owner made on a day (UTC), the earliest first. Without a day, returns those of
    /// the current day.
    pub(in crate::protocol) fn audit_log(
        &self,
        at: Stamp,
        owner: &Owner,
        query: &AuditQuery,
    ) -> Result<LazyResponse, Refusal> {
        let kind = kind(query.event_type.as_deref())?;
        let day = match query.day.as_deref() {
            Some(day) => start_of(day)?,
            None => (CheckpointRecord::seconds(at.wall) / DAY).floor() * DAY,
        };
        let records = self.records.audit.iter().map(|(_, record)| record);
        let wanted = records.filter(|record| {
            record.owner == *owner
                && (day..day + DAY).contains(&record.seconds)
                && (kind == AuditEventType::All || record.event.kind() == kind)
        });
        let mut log = AuditLog::default();
        log.entries = wanted
            .map(|record| {
                let mut entry = AuditEntry::default();
                entry.timestamp = date(record.seconds);
                entry.event = record.event.name().to_owned();
                entry.event_details = Some(record.details.clone());
                entry
            })
            .collect();
        Ok(LazyResponse::ok(&log))
    }
}

fn kind(name: Option<&str>) -> Result<AuditEventType, Refusal> {
    let Some(name) = name else {
        return Ok(AuditEventType::All);
    };
    let mut all = AuditEventType::ALL.into_iter();
    all.find(|kind| kind.name() == name).ok_or_else(|| {
        let names = AuditEventType::ALL.map(AuditEventType::name).join(", ");
        Refusal::query(
            "event_type",
            format!("expected one of {names}, got {name:?}"),
        )
    })
}

/// Returns the start of a day such as 2026-12-01, in seconds since the Unix epoch.
fn start_of(day: &str) -> Result<f64, Refusal> {
    let start = since_epoch(day).map(|start| start.as_secs_f64());
    // The normal form has leading zeros and no time.
    let is_day = |start: &f64| date(*start).split('T').next() == Some(day);
    start.filter(is_day).ok_or_else(|| {
        let reason = format!("expected a day such as 2026-12-01, got {day:?}");
        Refusal::query("day", reason)
    })
}
