//! The client for the audit log, usage and storage.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use tinkers_core::{Error, Result};
use tinkers_wire::{
    AuditEntry, AuditEventType, AuditLog, BillingUsage, CheckpointStorageUsage, rfc3339, routes,
    since_epoch,
};

use crate::arguments::id;
use crate::connection::{Connection, Request};

/// The longest period of a request for the usage.
const MAX_PERIOD: Duration = Duration::from_secs(14 * 24 * 3600);

/// A client for the audit log, usage and storage of an organization. Create it with [`RestClient::admin`](crate::RestClient::admin). Errors
/// and cancel safety are those of [`RestClient`](crate::RestClient).
#[derive(Debug, Clone)]
pub struct AdminClient {
    pub(crate) connection: Arc<Connection>,
}

impl AdminClient {
    /// Returns the audit log of a day in UTC, such as `2026-11-23`; of today if `day` is `None`.
    ///
    /// The server may redirect the request to a signed address on another host, which does not get the credential.
    ///
    /// # Errors
    /// `InvalidInput` with the field `day`; see [`RestClient`](crate::RestClient).
    pub async fn get_audit_log(
        &self,
        event_type: AuditEventType,
        day: Option<&str>,
    ) -> Result<Vec<AuditEntry>> {
        if let Some(day) = day {
            // The normal form has leading zeros, which the decoder of dates does not require.
            let is_normal = |since| rfc3339(since).split('T').next() == Some(day);
            let is_date = since_epoch(day).is_some_and(is_normal);
            if !is_date {
                let expected = format!("a date such as 2026-11-23, got {day:?}");
                return Err(Error::invalid("day", expected));
            }
        }
        let parameters = [("event_type", Some(event_type.name())), ("day", day)];
        let path = routes::with_query(routes::AUDIT, &parameters);
        let request = Request::new(
            "AdminClient.get_audit_log",
            Method::GET,
            routes::AUDIT,
            path,
        );
        let log: AuditLog = self.connection.get(request).await?;
        Ok(log.entries)
    }

    /// Returns the usage per hour of a period of at most 14 days. Both times must be full hours in UTC.
    ///
    /// # Errors
    /// `InvalidInput` with the field `starting_on` or `ending_before`; see [`RestClient`](crate::RestClient).
    pub async fn get_billing_usage(
        &self,
        starting_on: SystemTime,
        ending_before: SystemTime,
    ) -> Result<BillingUsage> {
        let start = full_hour("starting_on", starting_on)?;
        let end = full_hour("ending_before", ending_before)?;
        let period = end.checked_sub(start).unwrap_or_default();
        if period.is_zero() || period > MAX_PERIOD {
            let expected = format!(
                "a time after starting_on, {}, by at most 14 days, got {}",
                rfc3339(start),
                rfc3339(end)
            );
            return Err(Error::invalid("ending_before", expected));
        }
        let (start, end) = (rfc3339(start), rfc3339(end));
        let parameters = [
            ("starting_on", Some(&*start)),
            ("ending_before", Some(&*end)),
        ];
        let route = routes::BILLING_USAGE;
        let path = routes::with_query(route, &parameters);
        let request = Request::new("AdminClient.get_billing_usage", Method::GET, route, path);
        self.connection.get(request).await
    }

    /// Returns the current storage of checkpoints, of one project or of all.
    ///
    /// # Errors
    /// `InvalidInput` with the field `project_id`; see [`RestClient`](crate::RestClient).
    pub async fn get_current_checkpoint_storage_usage(
        &self,
        project_id: Option<&str>,
    ) -> Result<CheckpointStorageUsage> {
        let project_id = project_id
            .map(|project| id("project_id", project))
            .transpose()?;
        let route = routes::CHECKPOINT_STORAGE;
        let path = routes::with_query(route, &[("project_id", project_id)]);
        let operation = "AdminClient.get_current_checkpoint_storage_usage";
        let request = Request::new(operation, Method::GET, route, path);
        self.connection.get(request).await
    }
}

/// Returns the time since the Unix epoch, if it is a full hour.
fn full_hour(field: &str, time: SystemTime) -> Result<Duration> {
    let Ok(since) = time.duration_since(SystemTime::UNIX_EPOCH) else {
        let expected = "a full hour in UTC since 1970, got an earlier time";
        return Err(Error::invalid(field, expected));
    };
    if !since.as_secs().is_multiple_of(3600) || since.subsec_nanos() != 0 {
        let expected = format!("a full hour in UTC, got {}", rfc3339(since));
        return Err(Error::invalid(field, expected));
    }
    Ok(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_hours_are_valid_times_of_usage() {
        let hour = SystemTime::UNIX_EPOCH + Duration::from_secs(7200);
        assert_eq!(full_hour("t", hour).unwrap(), Duration::from_secs(7200));
        let later = hour + Duration::from_secs(60);
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(3600);
        for invalid in [later, early] {
            assert_eq!(full_hour("t", invalid).unwrap_err().field(), Some("t"));
        }
    }
}
