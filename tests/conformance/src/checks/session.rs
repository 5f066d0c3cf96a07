//! Checks of sessions, capabilities and unloading.

use tinkers::ErrorKind;
use tinkers::transport::RouteClass;
use tinkers::wire::{FinishReason, routes};
use tinkers_core::Call;

use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, chain, ensure};

pub(super) async fn session(context: &Context) -> CheckResult {
    let service = context.service().await?;
    let other = context.connect().await?;
    ensure(service.session_id() != other.session_id(), || {
        format!("two sessions have the id {}", other.session_id())
    })?;
    let heartbeat = serde_json::json!({ "session_id": service.session_id() });
    let heartbeat = Call::post(
        routes::SESSION_HEARTBEAT,
        heartbeat.to_string().into(),
        RouteClass::Control,
    );
    service.context().caller().call(heartbeat).await?;
    service.health().await?;
    // A server without a route to close sessions ends the session after a timeout.
    let ended = other.close(FinishReason::Success, None).await;
    Ok(match ended {
        Ok(()) => String::new(),
        Err(error) => format!("cannot close the session: {}", chain(&error)),
    })
}

pub(super) async fn capabilities(context: &Context) -> CheckResult {
    let capabilities = context.service().await?.capabilities().await;
    let capabilities = capabilities.map_err(|error| CheckError::from_optional_route(&error))?;
    let names: Vec<String> = capabilities
        .supported_models
        .iter()
        .filter_map(|model| model.model_name.clone())
        .collect();
    let listed = names.contains(&context.settings.model);
    ensure(!names.is_empty(), || "the list is empty".to_owned())?;
    Ok(if listed {
        String::new()
    } else {
        format!("lists {names:?}, but not {}", context.settings.model)
    })
}

pub(super) async fn unload(context: &Context) -> CheckResult {
    let unloaded = context.model().await?.unload().await;
    unloaded.map_err(|error| CheckError::from_optional_route(&error))?;
    Ok(String::new())
}

pub(super) async fn finish(context: &Context) -> CheckResult {
    let service = context.connect().await?;
    let ended = service.close(FinishReason::Success, None).await;
    let after = service.health().await.err().map(|error| error.kind());
    ensure(after == Some(ErrorKind::Closed), || {
        format!(
            "a closed session gives {after:?}, expected {:?}",
            ErrorKind::Closed
        )
    })?;
    ended.map_err(|error| CheckError::from_optional_route(&error))?;
    Ok(String::new())
}
