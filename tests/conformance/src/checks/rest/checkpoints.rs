//! Checks of the lists, the descriptions and the search of checkpoints.

use std::collections::BTreeMap;

use tinkers::CheckpointKind;
use tinkers::rest::{Checkpoint, CheckpointType};

use super::{
    PAGE, client, ensure_field, ensure_missing, find, id_of, offered, register, save_state,
    save_weights, time,
};
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, ensure};

/// Checks the description of a new checkpoint.
fn check(one: &Checkpoint, path: &str, kind: CheckpointKind) -> Result<(), CheckError> {
    ensure_field(
        "checkpoint_type",
        &one.checkpoint_type,
        &CheckpointType::Known(kind),
    )?;
    ensure_field("tinker_path", &*one.tinker_path, path)?;
    ensure_field("checkpoint_id", &*one.checkpoint_id, id_of(path))?;
    ensure_field("size_bytes", one.size_bytes == Some(0), false)?;
    ensure_field("public", one.public, false)?;
    ensure_field("expires_at", one.expires_at.as_deref(), None)?;
    time("time", &one.time).map(drop)
}

pub(in crate::checks) async fn of_run(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let model = context.model().await?;
    let run = model.model_id();
    let none = offered(rest.list_checkpoints(run).await)?.len();
    ensure_field("the checkpoints of a new run", none, 0)?;
    let state = save_state(context, &model, "state").await?;
    let weights = save_weights(context, &model, "weights").await?;
    let list = rest.list_checkpoints(run).await?;
    ensure_field("the number of checkpoints", list.len(), 2)?;
    for (path, kind) in [
        (&state, CheckpointKind::Training),
        (&weights, CheckpointKind::Sampler),
    ] {
        let found = list.iter().find(|one| one.checkpoint_id == id_of(path));
        let found = found.ok_or_else(|| CheckError::failed(format!("{path} is not listed")))?;
        check(found, path, kind)?;
    }
    match rest.list_checkpoints("no-such-run").await {
        Ok(list) => {
            ensure_field("the checkpoints of a missing run", list.len(), 0)?;
            Ok("the list of a missing run is empty".to_owned())
        }
        Err(error) => {
            ensure_missing::<()>(Err(error), "the list of a missing run")?;
            Ok(String::new())
        }
    }
}

pub(in crate::checks) async fn of_user(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let list = rest.list_user_checkpoints();
    offered(list.page(0, 1).await)?;
    let (one, other) = (context.model().await?, context.model().await?);
    let older = save_state(context, &one, "older").await?;
    let middle = save_weights(context, &other, "middle").await?;
    let newer = save_state(context, &other, "newer").await?;
    let page = list.page(0, 1).await?.checkpoints;
    ensure_field("the length of a page of 1", page.len(), 1)?;
    let all = list.clone().page_size(PAGE).stream();
    let wanted = [&*newer, &*middle, &*older];
    let found = find(all, |one| &one.tinker_path, &wanted).await?;
    ensure(found.is_sorted(), || {
        format!(
            "expected the newest checkpoint first, got the positions {found:?} of the newest to the oldest"
        )
    })?;
    Ok(String::new())
}

pub(in crate::checks) async fn weights_info(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let model = context.model().await?;
    let state = save_state(context, &model, "info").await?;
    let weights = save_weights(context, &model, "info").await?;
    for path in [&state, &weights] {
        let info = offered(rest.get_weights_info_by_tinker_path(path).await)?;
        ensure_field("base_model", &info.base_model, &context.settings.model)?;
        ensure_field("is_lora", info.is_lora, true)?;
        if let Some(rank) = info.lora_rank {
            ensure_field("lora_rank", rank, context.settings.rank)?;
        }
    }
    ensure_missing(
        rest.get_weights_info_by_tinker_path(format!("{state}-missing"))
            .await,
        "the description of a missing checkpoint",
    )?;
    Ok(String::new())
}

pub(in crate::checks) async fn search(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let search = || rest.search_checkpoints();
    offered(search().page_size(1).page(None).await)?;
    let model = context.model().await?;
    let mark = context.name("mark");
    let metadata = || BTreeMap::from([("conformance".to_owned(), mark.clone())]);
    // The metadata distinguishes the checkpoints of this check from all others.
    let saved = model.save_state(context.name("found"));
    let saved = saved.user_metadata(metadata()).await;
    let saved = saved.map_err(|error| CheckError::from_optional_setting(&error))?;
    let state = register(context, Some(&saved.path), CheckpointKind::Training)?;
    let saved = model.save_weights_for_sampler(context.name("found"));
    let saved = saved.user_metadata(metadata()).await?;
    let weights = register(context, saved.path.as_ref(), CheckpointKind::Sampler)?;
    save_state(context, &model, "not-found").await?;

    let marked = || search().user_metadata("conformance", &mark);
    let base = &context.settings.model;
    let (state, weights) = (&*state, &*weights);
    for (what, search, expected) in [
        ("the metadata", marked(), vec![weights, state]),
        (
            "the kind",
            marked().kind(CheckpointKind::Sampler),
            vec![weights],
        ),
        (
            "the base model",
            marked().base_models([base]),
            vec![weights, state],
        ),
        (
            "another base model",
            marked().base_models(["no-such-model"]),
            vec![],
        ),
        (
            "other metadata",
            search().user_metadata("conformance", format!("{mark}-missing")),
            vec![],
        ),
    ] {
        let page = search.page(None).await?;
        let found: Vec<&str> = page
            .checkpoints
            .iter()
            .map(|one| &*one.tinker_path)
            .collect();
        ensure_field(&format!("the checkpoints with {what}"), found, expected)?;
    }
    let first = marked().page_size(1).page(None).await?;
    let cursor = first.next_cursor.ok_or_else(|| {
        CheckError::failed("the first page of two has no cursor of the next page")
    })?;
    let second = marked().page_size(1).page(Some(cursor)).await?;
    let found: Vec<&str> = [&first.checkpoints, &second.checkpoints]
        .into_iter()
        .flatten()
        .map(|one| &*one.tinker_path)
        .collect();
    ensure_field("two pages of 1", found, vec![weights, state])?;
    ensure(second.next_cursor.is_none(), || {
        "the last page has a cursor of the next page".to_owned()
    })?;
    Ok(String::new())
}
