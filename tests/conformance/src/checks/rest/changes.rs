//! Checks of changes of checkpoints: publication, expiry, deletion and copies.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tinkers::CheckpointKind;
use tinkers::transport::RouteClass;
use tinkers::wire::routes;
use tinkers_core::Call;

use super::{
    HOUR, PAGE, client, ensure_field, ensure_missing, ensure_refused, find, id_of, listed, offered,
    register, save_state, save_weights, time,
};
use crate::checks::errors::check_refusal;
use crate::checks::text;
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, ensure};

/// The largest accepted difference between two times of the server in the description of a
/// checkpoint, since servers may round them.
const ROUNDING: Duration = Duration::from_secs(60);

pub(in crate::checks) async fn publish(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let model = context.model().await?;
    let path = save_state(context, &model, "public").await?;
    offered(rest.publish_checkpoint_from_tinker_path(&path).await)?;
    ensure_field("public", listed(&rest, &model, &path).await?.public, true)?;
    let again = rest.publish_checkpoint_from_tinker_path(&path).await;
    ensure_refused(again, "a second publication", &[409])?;
    rest.unpublish_checkpoint_from_tinker_path(&path).await?;
    ensure_field("public", listed(&rest, &model, &path).await?.public, false)?;
    let again = rest.unpublish_checkpoint_from_tinker_path(&path).await;
    ensure_refused(again, "a second end of the publication", &[409])?;
    ensure_missing(
        rest.publish_checkpoint_from_tinker_path(format!("{path}-missing"))
            .await,
        "the publication of a missing checkpoint",
    )?;
    Ok(String::new())
}

/// The suite cannot wait for an expiry, because the shortest time to live is one hour.
pub(in crate::checks) async fn ttl(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let service = context.service().await?;
    let clock = Arc::clone(&service.context().caller().time);
    let model = context.model().await?;
    let began = clock.now();
    let path = save_state(context, &model, "ttl").await?;
    for hours in [1, 3] {
        let ttl = hours * HOUR;
        let set = rest.set_checkpoint_ttl_from_tinker_path(&path, Some(ttl));
        offered(set.await)?;
        let most = ttl + clock.now().since(began) + ROUNDING;
        ensure_expiry(&listed(&rest, &model, &path).await?, ttl, most)?;
    }
    let body = r#"{"ttl_seconds": 3599}"#;
    let run = model.model_id();
    let mut call = Call::post(
        routes::checkpoint_ttl(run, id_of(&path)),
        body.into(),
        RouteClass::Rest,
    );
    call.method = Method::PUT;
    let short = service.context().caller().call(call).await;
    ensure_refused(short, "a ttl of 3599 s", &[400, 422])?;
    rest.set_checkpoint_ttl_from_tinker_path(&path, None)
        .await?;
    let expires_at = listed(&rest, &model, &path).await?.expires_at;
    ensure_field("expires_at", expires_at, None)?;

    let began = clock.now();
    let saved = model.save_state(context.name("ttl")).ttl(2 * HOUR).await?;
    let path = register(context, Some(&saved.path), CheckpointKind::Training)?;
    let most = 2 * HOUR + clock.now().since(began) + ROUNDING;
    ensure_expiry(&listed(&rest, &model, &path).await?, 2 * HOUR, most)?;
    ensure_missing(
        rest.set_checkpoint_ttl_from_tinker_path(format!("{path}-missing"), Some(HOUR))
            .await,
        "the ttl of a missing checkpoint",
    )?;
    Ok(String::new())
}

/// Checks that a checkpoint expires between these durations after the time of its save. Both times
/// are those of the server's clock.
fn ensure_expiry(
    one: &tinkers::rest::Checkpoint,
    least: Duration,
    most: Duration,
) -> Result<(), CheckError> {
    let Some(expires_at) = &one.expires_at else {
        return Err(CheckError::failed("expires_at is missing"));
    };
    let saved = time("time", &one.time)?;
    let expiry = time("expires_at", expires_at)?;
    ensure(
        expiry + ROUNDING >= saved + least && expiry <= saved + most,
        || {
            format!(
                "a checkpoint of {} expires at {expires_at}, expected {least:?} to {most:?} later",
                one.time
            )
        },
    )
}

pub(in crate::checks) async fn delete(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let model = context.model().await?;
    let run = model.model_id();
    let gone = save_state(context, &model, "gone").await?;
    let kept = save_state(context, &model, "kept").await?;
    offered(rest.delete_checkpoint_from_tinker_path(&gone).await)?;
    let left = rest.list_checkpoints(run).await?;
    let left: Vec<&str> = left.iter().map(|one| &*one.tinker_path).collect();
    ensure_field("the checkpoints after the deletion", left, vec![&*kept])?;
    let service = context.service().await?;
    match service.create_training_client_from_state(&gone).await {
        Ok(model) => {
            context.unload_later(&model);
            return Err(CheckError::failed("a deleted checkpoint is loaded"));
        }
        Err(error) => check_refusal(&error, "loading a deleted checkpoint")?,
    }
    let resumed = service.create_training_client_from_state(&kept).await?;
    context.unload_later(&resumed);
    rest.delete_checkpoint(run, id_of(&kept)).await?;
    let left = rest.list_checkpoints(run).await?.len();
    ensure_field("the checkpoints after both deletions", left, 0)?;
    Ok(String::new())
}

pub(in crate::checks) async fn delete_missing(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let model = context.model().await?;
    let path = save_state(context, &model, "once").await?;
    let kept = save_state(context, &model, "kept").await?;
    offered(rest.delete_checkpoint_from_tinker_path(&path).await)?;
    for (path, what) in [
        (path.clone(), "a second deletion"),
        (format!("{path}-missing"), "the deletion of a missing name"),
        (
            "tinker://no-such-run/weights/a".to_owned(),
            "the deletion of a checkpoint of a missing run",
        ),
    ] {
        ensure_missing(rest.delete_checkpoint_from_tinker_path(path).await, what)?;
    }
    listed(&rest, &model, &kept).await?;
    Ok(String::new())
}

pub(in crate::checks) async fn copy(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let project = context.require_project()?;
    let service = context.service().await?;
    let clock = Arc::clone(&service.context().caller().time);
    let model = context.model().await?;
    let source = save_weights(context, &model, "source").await?;
    let began = clock.now();
    let copied = rest.copy_weights(&source).project_id(project).ttl(HOUR);
    let copy = offered(copied.await)?.as_str().to_owned();
    context.delete_later(&copy);
    ensure(copy != source, || {
        format!("the copy has the path {copy} of its source")
    })?;
    let most = HOUR + clock.now().since(began) + ROUNDING;

    let all = rest.list_user_checkpoints().page_size(PAGE).stream();
    find(all, |one| &one.tinker_path, &[&*copy]).await?;
    let run = copy.split('/').nth(2).unwrap_or_default();
    let of_run = rest.list_checkpoints(run).await?;
    let found = of_run.iter().find(|one| one.tinker_path == copy);
    let found = found.ok_or_else(|| CheckError::failed(format!("{copy} is not listed")))?;
    let of_source = listed(&rest, &model, &source).await?;
    ensure_field(
        "checkpoint_type",
        &found.checkpoint_type,
        &of_source.checkpoint_type,
    )?;
    ensure_field("public", found.public, false)?;
    ensure_expiry(found, HOUR, most)?;
    ensure_field("expires_at of the source", of_source.expires_at, None)?;

    rest.delete_checkpoint_from_tinker_path(&source).await?;
    let sampler = service.create_sampling_client(&copy).await?;
    let prompt = text::tokens(&context.settings, 1, 8);
    sampler.sample(prompt).max_tokens(2).await?;
    ensure_missing(
        rest.copy_weights(&source).project_id(project).await,
        "the copy of a missing checkpoint",
    )?;
    Ok(String::new())
}
