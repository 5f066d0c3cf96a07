//! Checks of the descriptions and the list of training runs.

use super::{
    PAGE, client, ensure_field, ensure_missing, find, offered, save_state, save_weights, time,
};
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, ensure};

pub(in crate::checks) async fn info(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let model = context.model().await?;
    let run = offered(rest.get_training_run(model.model_id()).await)?;
    ensure_field("training_run_id", &*run.training_run_id, model.model_id())?;
    ensure_field("base_model", &run.base_model, &context.settings.model)?;
    ensure_field("is_lora", run.is_lora, true)?;
    if let Some(rank) = run.lora_rank {
        ensure_field("lora_rank", rank, context.settings.rank)?;
    }
    ensure_field("corrupted", run.corrupted, false)?;
    time("last_request_time", &run.last_request_time)?;
    ensure(run.last_checkpoint.is_none(), || {
        format!("a new run has the checkpoint {:?}", run.last_checkpoint)
    })?;

    let state = save_state(context, &model, "run").await?;
    let weights = save_weights(context, &model, "run").await?;
    let run = rest.get_training_run_by_tinker_path(&state).await?;
    ensure_field("training_run_id", &*run.training_run_id, model.model_id())?;
    let last = run.last_checkpoint.map(|one| one.tinker_path);
    ensure_field("last_checkpoint", last, Some(state))?;
    let last = run.last_sampler_checkpoint.map(|one| one.tinker_path);
    ensure_field("last_sampler_checkpoint", last, Some(weights))?;
    ensure_missing(
        rest.get_training_run("no-such-run").await,
        "the description of a missing run",
    )?;
    Ok(String::new())
}

pub(in crate::checks) async fn list(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let (one, other) = (context.model().await?, context.model().await?);
    let runs = rest.list_training_runs();
    let page = offered(runs.page(0, 1).await)?;
    ensure_field("the length of a page of 1", page.training_runs.len(), 1)?;
    let cursor = page
        .cursor
        .ok_or_else(|| CheckError::failed("the page has no cursor"))?;
    ensure_field("cursor.offset", cursor.offset, 0)?;
    ensure_field("cursor.limit", cursor.limit, 1)?;
    ensure(cursor.total_count >= 2, || {
        format!(
            "cursor.total_count: expected at least 2, got {}",
            cursor.total_count
        )
    })?;
    let wanted = [one.model_id(), other.model_id()];
    let all = runs.clone().page_size(PAGE).stream();
    find(all, |run| &run.training_run_id, &wanted).await?;
    let behind = runs.page(cursor.total_count + 1000, 1).await?;
    let behind = behind.training_runs.len();
    ensure_field("the length of a page behind the end", behind, 0)?;
    Ok(String::new())
}
