//! Checks of the management of sessions, runs and checkpoints, and of usage, storage and logs.
//!
//! Each check registers what it creates with the context, which removes it after the check. Other
//! programs may use the account at the same time, so lists may contain more than the check created.

pub(super) mod account;
pub(super) mod changes;
pub(super) mod checkpoints;
pub(super) mod runs;
pub(super) mod sessions;

use std::collections::HashSet;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::rest::{Checkpoint, ItemStream};
use tinkers::wire::since_epoch;
use tinkers::{CheckpointKind, RestClient, TinkerPath, TrainingClient};

use crate::context::Context;
use crate::verdict::{CheckError, chain, ensure};

/// The most items of a list that a check reads. The newest items come first, so that those of the
/// check are among them.
const MAX_ITEMS: usize = 1000;
/// The page size with which the checks read lists, so small that even a short list has several
/// pages.
const PAGE: u64 = 2;
/// The shortest time to live of a checkpoint.
const HOUR: Duration = Duration::from_secs(3600);

async fn client(context: &Context) -> Result<RestClient, CheckError> {
    Ok(context.service().await?.rest_client())
}

/// Returns the result of the first call to a route that a server need not have. If the server has
/// no such route, the result is [`CheckError::NotOffered`]. A refusal that concerns the object of
/// the call is a failure, also with the status 404, since the check has created the object.
fn offered<T>(outcome: Result<T, Error>) -> Result<T, CheckError> {
    outcome.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => CheckError::not_offered(chain(&error)),
        _ => error.into(),
    })
}

/// Checks that a call was refused with 404. The server must have the route of the call, because a
/// 404 response without a reason may also mean that the route is missing.
fn ensure_missing<T>(outcome: Result<T, Error>, what: &str) -> Result<(), CheckError> {
    ensure_refused(outcome, what, &[404])
}

/// Checks that the server refused a call with one of these statuses.
fn ensure_refused<T>(
    outcome: Result<T, Error>,
    what: &str,
    statuses: &[u16],
) -> Result<(), CheckError> {
    let Err(error) = outcome else {
        return Err(CheckError::failed(format!("{what} succeeds")));
    };
    let is_refused = error.sent() == Sent::Answered
        && error
            .status()
            .is_some_and(|status| statuses.contains(&status));
    ensure(is_refused, || {
        format!("{what} gives {}, expected {statuses:?}", chain(&error))
    })
}

/// Reads a list until it has yielded all wanted items, and returns their positions. Fails if an
/// item is missing, or if one is yielded twice.
async fn find<T: Send + 'static>(
    mut items: ItemStream<T>,
    id: impl Fn(&T) -> &str,
    wanted: &[&str],
) -> Result<Vec<usize>, CheckError> {
    let mut seen = HashSet::new();
    let mut positions = vec![None; wanted.len()];
    while let Some(item) = items.next().await {
        let item = offered(item)?;
        let (id, at) = (id(&item), seen.len());
        ensure(seen.insert(id.to_owned()), || {
            format!("{id} is listed twice")
        })?;
        if let Some(which) = wanted.iter().position(|wanted| *wanted == id) {
            positions[which] = Some(at);
        }
        if positions.iter().all(Option::is_some) || seen.len() == MAX_ITEMS {
            break;
        }
    }
    let found = wanted.iter().zip(positions);
    found
        .map(|(id, position)| {
            let missing = || format!("{id} is not among the first {} items", seen.len());
            position.ok_or_else(|| CheckError::failed(missing()))
        })
        .collect()
}

/// Saves the state of a model. The checkpoint is deleted after the check.
async fn save_state(
    context: &Context,
    model: &TrainingClient,
    what: &str,
) -> Result<String, CheckError> {
    let saved = model.save_state(context.name(what)).await?;
    register(context, Some(&saved.path), CheckpointKind::Training)
}

/// Saves the weights of a model for sampling. The checkpoint is deleted after the check.
async fn save_weights(
    context: &Context,
    model: &TrainingClient,
    what: &str,
) -> Result<String, CheckError> {
    let saved = model.save_weights_for_sampler(context.name(what)).await?;
    register(context, saved.path.as_ref(), CheckpointKind::Sampler)
}

/// Registers a saved checkpoint to be deleted after the check, and returns its path in the form of
/// the service, `tinker://<run>/<kind>/<name>`. Some servers omit the kind or replace it by another
/// word in the response to a save.
fn register(
    context: &Context,
    saved: Option<&TinkerPath>,
    kind: CheckpointKind,
) -> Result<String, CheckError> {
    let path = saved.ok_or_else(|| {
        CheckError::failed("the response to a save with a name contains no path of the checkpoint")
    })?;
    let run = path.as_str().split('/').nth(2).unwrap_or_default();
    let path = TinkerPath::new(run, kind, path.name());
    let path = path.map_err(|error| CheckError::failed(format!("the saved path: {error}")))?;
    context.delete_later(path.as_str());
    Ok(path.as_str().to_owned())
}

/// Returns the id `<kind>/<name>` of the checkpoint at a path in the form of the service.
fn id_of(path: &str) -> &str {
    path.splitn(4, '/').nth(3).unwrap_or_default()
}

/// Returns the entry of a checkpoint in the list of its run.
async fn listed(
    rest: &RestClient,
    model: &TrainingClient,
    path: &str,
) -> Result<Checkpoint, CheckError> {
    let list = offered(rest.list_checkpoints(model.model_id()).await)?;
    let mut list = list.into_iter();
    list.find(|one| one.checkpoint_id == id_of(path))
        .ok_or_else(|| CheckError::failed(format!("{path} is not listed among those of its run")))
}

/// Decodes a time of the server. Returns the time since the Unix epoch.
fn time(field: &str, text: &str) -> Result<Duration, CheckError> {
    since_epoch(text).ok_or_else(|| {
        CheckError::failed(format!("{field}: expected an RFC 3339 time, got {text:?}"))
    })
}

/// Checks that a field has the expected value.
fn ensure_field<T: PartialEq + std::fmt::Debug>(
    field: &str,
    found: T,
    expected: T,
) -> Result<(), CheckError> {
    ensure(found == expected, || {
        format!("{field}: expected {expected:?}, got {found:?}")
    })
}
