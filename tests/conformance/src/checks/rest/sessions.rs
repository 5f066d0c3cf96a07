//! Checks of the management of sessions and samplers.

use tinkers::rest::{SessionStatus, SessionStatusFilter};
use tinkers::transport::RouteClass;
use tinkers::wire::routes;
use tinkers::{ErrorKind, FinishReason};
use tinkers_core::Call;

use super::{
    PAGE, client, ensure_field, ensure_missing, ensure_refused, find, offered, save_weights,
};
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, chain, ensure};

pub(in crate::checks) async fn info(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let service = context.session().await?;
    let id = service.session_id();
    let empty = offered(rest.get_session(id).await)?;
    ensure_field("training_run_ids", empty.training_run_ids, Vec::new())?;
    let model = context.model_in(&service).await?;
    let sampler = service
        .create_sampling_client(&context.settings.model)
        .await?;
    let info = rest.get_session(id).await?;
    let runs = vec![model.model_id().to_owned()];
    ensure_field("training_run_ids", info.training_run_ids, runs)?;
    let samplers = info.sampler_ids;
    ensure(
        samplers.iter().any(|one| one == sampler.sampler_id()),
        || format!("sampler_ids: {samplers:?} without {}", sampler.sampler_id()),
    )?;
    ensure_missing(
        rest.get_session("no-such-session").await,
        "the description of a missing session",
    )?;
    Ok(String::new())
}

pub(in crate::checks) async fn list(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let older = context.session().await?;
    let newer = context.session().await?;
    let page = offered(rest.list_sessions().page(0, 1).await)?;
    ensure_field("the length of a page of 1", page.sessions.len(), 1)?;
    let items = rest.list_sessions().page_size(PAGE).stream();
    let wanted = [newer.session_id(), older.session_id()];
    let found = find(items, |id| id, &wanted).await?;
    ensure(found[0] < found[1], || {
        format!(
            "the newer session has the position {}, the older one {}",
            found[0], found[1]
        )
    })?;
    Ok(String::new())
}

pub(in crate::checks) async fn search(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let service = context.session().await?;
    let id = service.session_id();
    let by_id = rest.search_sessions().session_id(id);
    let found = offered(by_id.page(None).await)?.sessions;
    let ids: Vec<&str> = found.iter().map(|one| &*one.session_id).collect();
    ensure_field("the sessions with the id", ids, vec![id])?;
    let status = found[0].status.clone();
    ensure_field("the status", status, Some(SessionStatus::Active))?;
    let failed = by_id.clone().status(SessionStatusFilter::Failed);
    let failed = failed.page(None).await?.sessions.len();
    ensure_field("the failed sessions with the id", failed, 0)?;
    let missing = rest.search_sessions().session_id("no-such-session");
    let missing = missing.page(None).await?.sessions.len();
    ensure_field("the sessions with a missing id", missing, 0)?;

    // There are at least two sessions: that of this check, and that of all checks.
    let pages = rest.search_sessions().page_size(1);
    let first = pages.page(None).await?;
    ensure_field("the length of a page of 1", first.sessions.len(), 1)?;
    let cursor = first.next_cursor.ok_or_else(|| {
        CheckError::failed("the first page of several has no cursor of the next page")
    })?;
    let second = pages.page(Some(cursor)).await?;
    let second: Vec<&str> = second.sessions.iter().map(|one| &*one.session_id).collect();
    ensure(
        second.len() == 1 && second[0] != first.sessions[0].session_id,
        || {
            format!(
                "after {}, the second page contains {second:?}",
                first.sessions[0].session_id
            )
        },
    )?;

    // The client would ignore that the server cannot finish sessions.
    let body = r#"{"reason": {"type": "success"}, "detail": null}"#;
    let finish = routes::finish_session(id);
    let finish = Call::post(finish, body.into(), RouteClass::Control);
    if let Err(error) = service.context().caller().call(finish).await {
        return match CheckError::from_optional_route(&error) {
            CheckError::NotOffered(why) => Ok(format!("cannot finish the session: {why}")),
            failed => Err(failed),
        };
    }
    for (reason, expected) in [(FinishReason::Success, 1), (FinishReason::Interrupted, 0)] {
        let finished = by_id.clone().finished([reason]).page(None).await?;
        let field = format!(
            "the sessions with the id that finished with {}",
            reason.name()
        );
        ensure_field(&field, finished.sessions.len(), expected)?;
    }
    Ok(String::new())
}

pub(in crate::checks) async fn project(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let project = context.require_project()?;
    let service = context.session().await?;
    let model = context.model_in(&service).await?;
    let id = service.session_id();
    offered(rest.assign_session_project(id, project).await)?;
    let runs = rest.list_training_runs().project_id(project);
    let runs = runs.page_size(PAGE).stream();
    find(runs, |run| &run.training_run_id, &[model.model_id()]).await?;
    for (project, expected) in [(project, 1), ("no-such-project", 0)] {
        let found = rest.search_sessions().session_id(id).project_ids([project]);
        match found.page(None).await {
            Ok(found) => {
                let field = format!("the sessions with the id in {project}");
                ensure_field(&field, found.sessions.len(), expected)?;
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return Ok(format!("the project is not searched: {}", chain(&error)));
            }
            // A server may refuse a search in a project that the user cannot list.
            refused if expected == 0 => {
                ensure_refused(
                    refused,
                    "a search in a missing project",
                    &[400, 403, 404, 422],
                )?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    ensure_missing(
        rest.assign_session_project("no-such-session", project)
            .await,
        "the move of a missing session",
    )?;
    Ok(String::new())
}

pub(in crate::checks) async fn sampler(context: &Context) -> CheckResult {
    let rest = client(context).await?;
    let service = context.service().await?;
    let base = &context.settings.model;
    let of_base = service.create_sampling_client(base).await?;
    let info = offered(rest.get_sampler(of_base.sampler_id()).await)?;
    ensure_field("sampler_id", &*info.sampler_id, of_base.sampler_id())?;
    ensure_field("base_model", &info.base_model, base)?;
    ensure_field("model_path", info.model_path.as_deref(), None)?;

    let model = context.model().await?;
    let path = save_weights(context, &model, "sampler").await?;
    let of_weights = service.create_sampling_client(&path).await?;
    let info = rest.get_sampler(of_weights.sampler_id()).await?;
    ensure_field("base_model", &info.base_model, base)?;
    ensure_field("model_path", info.model_path.as_deref(), Some(&*path))?;
    ensure_missing(
        rest.get_sampler("no-such-sampler").await,
        "the description of a missing sampler",
    )?;
    Ok(String::new())
}
