//! Checks of the user, usage, storage, the audit log and traces.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tinkers::rest::{AuditEntry, AuditEventType, CheckpointStorageUsage, UsageInfo};
use tinkers::transport::RouteClass;
use tinkers::wire::routes;
use tinkers::{AdminClient, Clock, ServiceClient};
use tinkers_core::Call;

use super::{
    HOUR, client, ensure_field, ensure_missing, ensure_refused, listed, offered, save_state, time,
};
use crate::checks::text;
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, ensure};

/// The largest trace that the suite downloads, in bytes.
const MAX_TRACE: usize = 1 << 26;

pub(in crate::checks) async fn whoami(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let user = offered(rest.whoami().await)?;
    ensure(!user.user_urn.is_empty(), || "user_urn is empty".to_owned())?;
    let of_session = context.service().await?.whoami()?;
    ensure_field("user_urn", of_session.user_urn, user.user_urn)?;
    Ok(String::new())
}

/// Returns the full hour before the current time, moved by `hours`.
fn hour(clock: &dyn Clock, hours: i64) -> SystemTime {
    let since = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let hour = since.as_secs() / HOUR.as_secs();
    UNIX_EPOCH + Duration::from_secs(hour.saturating_add_signed(hours) * HOUR.as_secs())
}

pub(in crate::checks) async fn usage(context: &Context) -> CheckResult {
    let admin = client(context).await?.admin();
    let service = context.session().await?;
    let caller = service.context();
    let clock = &*caller.caller().time;
    // One hour earlier, since the start must not be in the future of the server's clock.
    let start = hour(clock, -1);
    offered(admin.get_billing_usage(start, hour(clock, 1)).await)?;
    let model = context.model_in(&service).await?;
    let data = text::data(&context.settings, 2, 16);
    let trained: usize = data.iter().filter_map(|one| one.model_input.len()).sum();
    text::current_logprobs(&model, &data).await?;
    let sampler = service
        .create_sampling_client(&context.settings.model)
        .await?;
    let prompt = text::tokens(&context.settings, 1, 8);
    let sample = sampler.sample(prompt).max_tokens(4).await?;
    let sampled: usize = sample.sequences.iter().map(|one| one.tokens.len()).sum();

    let usage = admin.get_billing_usage(start, hour(clock, 2)).await?;
    let (mut training, mut prefill, mut sampling) = (0, 0, 0);
    for event in &usage.data {
        let begin = time("bucket_start", &event.bucket_start)?;
        let end = time("bucket_end", &event.bucket_end)?;
        ensure(
            begin.as_secs().is_multiple_of(HOUR.as_secs()) && end == begin + HOUR,
            || {
                format!(
                    "{} to {} is not an hour",
                    event.bucket_start, event.bucket_end
                )
            },
        )?;
        ensure(UNIX_EPOCH + begin >= start, || {
            format!("{} is before the start of the period", event.bucket_start)
        })?;
        if event.session_id.as_deref() == Some(service.session_id()) {
            match event.event_info {
                Some(UsageInfo::Training { token_count }) => training += token_count,
                Some(UsageInfo::SamplingPrefill { token_count, .. }) => prefill += token_count,
                Some(UsageInfo::SamplingSample { token_count }) => sampling += token_count,
                _ => {}
            }
        }
    }
    let mut pending = Vec::new();
    for (what, found, expected) in [
        ("training", training, trained),
        ("sampling_prefill", prefill, 8),
        ("sampling_sample", sampling, sampled),
    ] {
        if found == 0 {
            pending.push(what);
        } else {
            ensure_field(&format!("token_count of {what}"), found, expected as u64)?;
        }
    }
    let reversed = "?starting_on=2026-01-01T01:00:00Z&ending_before=2026-01-01T00:00:00Z";
    let reversed = format!("{}{reversed}", routes::BILLING_USAGE);
    let call = Call::get(reversed, RouteClass::Rest);
    let refused = caller.caller().call(call).await;
    ensure_refused(refused, "a period that ends before its start", &[400, 422])?;
    // The protocol does not say when the usage is counted.
    Ok(match pending.is_empty() {
        true => String::new(),
        false => format!("the usage does not yet contain {}", pending.join(", ")),
    })
}

/// Returns the number and the size of all checkpoints.
fn total(usage: &CheckpointStorageUsage) -> (u64, u64) {
    let rows = usage.data.iter();
    rows.fold((0, 0), |(count, bytes), row| {
        (count + row.checkpoint_count, bytes + row.size_bytes)
    })
}

pub(in crate::checks) async fn storage(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let admin = rest.admin();
    let before = offered(admin.get_current_checkpoint_storage_usage(None).await)?;
    let model = context.model().await?;
    let path = save_state(context, &model, "stored").await?;
    let size = listed(&rest, &model, &path).await?.size_bytes;
    let with = admin.get_current_checkpoint_storage_usage(None).await?;
    let ((count, bytes), (count_with, bytes_with)) = (total(&before), total(&with));
    let grown = (
        count + 1,
        bytes + size.unwrap_or(bytes_with.saturating_sub(bytes)),
    );
    ensure_field(
        "the number and bytes with one more",
        (count_with, bytes_with),
        grown,
    )?;
    rest.delete_checkpoint_from_tinker_path(&path).await?;
    let after = admin.get_current_checkpoint_storage_usage(None).await?;
    ensure_field(
        "the number and bytes after the deletion",
        total(&after),
        total(&before),
    )?;
    if let Some(project) = &context.settings.project {
        let of_project = admin.get_current_checkpoint_storage_usage(Some(project));
        for row in of_project.await?.data {
            ensure_field("project_id", row.project_id.as_ref(), Some(project))?;
        }
    }
    Ok(String::new())
}

/// Returns the entries of the audit log that contain the path of a checkpoint: those of the day of
/// its save, and those of today, which may be the next day.
async fn entries(
    admin: &AdminClient,
    kind: AuditEventType,
    saved_at: &str,
    path: &str,
) -> Result<Vec<AuditEntry>, CheckError> {
    let day = saved_at.split('T').next();
    let mut all = offered(admin.get_audit_log(kind, day).await)?;
    for entry in admin.get_audit_log(kind, None).await? {
        if !all.contains(&entry) {
            all.push(entry);
        }
    }
    all.retain(|entry| {
        let details = entry.event_details.as_ref();
        let in_details = details.is_some_and(|details| details.to_string().contains(path));
        in_details || entry.tinker_path.as_deref() == Some(path)
    });
    for entry in &all {
        time("timestamp", &entry.timestamp)?;
    }
    Ok(all)
}

pub(in crate::checks) async fn audit(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let admin = rest.admin();
    let model = context.model().await?;
    let path = save_state(context, &model, "audited").await?;
    let saved_at = listed(&rest, &model, &path).await?.time;
    // Each of the four changes below is an event of checkpoints, and none is one of teams.
    let mut kinds = [
        (AuditEventType::All, 4),
        (AuditEventType::Checkpoints, 4),
        (AuditEventType::Teams, 0),
    ];
    for (kind, expected) in &mut kinds {
        *expected += entries(&admin, *kind, &saved_at, &path).await?.len();
    }
    offered(rest.publish_checkpoint_from_tinker_path(&path).await)?;
    rest.unpublish_checkpoint_from_tinker_path(&path).await?;
    let set = rest.set_checkpoint_ttl_from_tinker_path(&path, Some(HOUR));
    offered(set.await)?;
    offered(rest.delete_checkpoint_from_tinker_path(&path).await)?;
    for (kind, expected) in kinds {
        let found = entries(&admin, kind, &saved_at, &path).await?;
        ensure(found.len() <= expected, || {
            format!("expected {expected} entries of the kind {kind}, got {found:?}")
        })?;
        // The protocol does not say when a change is logged.
        if found.len() < expected {
            let found = found.len();
            return Ok(format!(
                "the log contains {found} of {expected} entries of the kind {kind} yet"
            ));
        }
    }
    Ok(String::new())
}

pub(in crate::checks) async fn trace(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let service = context.session().await?;
    let sampler = service
        .create_sampling_client(&context.settings.model)
        .await?;
    let prompt = text::tokens(&context.settings, 1, 8);
    sampler.sample(prompt).max_tokens(2).await?;
    let url = offered(rest.export_session_trace(service.session_id()).await)?;
    let download = ServiceClient::builder().without_environment();
    let trace = download.download_signed_file(&url, MAX_TRACE).await?;
    ensure(!trace.is_empty(), || "the trace is empty".to_owned())?;
    ensure_missing(
        rest.export_session_trace("no-such-session").await,
        "the trace of a missing session",
    )?;
    Ok(String::new())
}
