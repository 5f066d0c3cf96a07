//! Sessions: their beginning, their life, their end.

use tinkers::ErrorKind;
use tinkers::transport::RouteClass;
use tinkers::wire::{FinishReason, routes};
use tinkers_core::Call;

use crate::context::Context;
use crate::verdict::{Findings, Stop, chain, ensure};

pub(super) async fn session(context: &Context) -> Findings {
    let service = context.service().await?;
    let other = context.connect().await?;
    ensure(service.session_id() != other.session_id(), || {
        format!("two sessions have the id {}", other.session_id())
    })?;
    let beat = serde_json::json!({ "session_id": service.session_id() });
    let beat = Call::post(
        routes::SESSION_HEARTBEAT,
        beat.to_string().into(),
        RouteClass::Control,
    );
    service.context().caller().call(beat).await?;
    service.health().await?;
    // It ends by itself where the server has no route for its end.
    let ended = other.close(FinishReason::Success, None).await;
    Ok(match ended {
        Ok(()) => String::new(),
        Err(error) => format!("its end could not be told: {}", chain(&error)),
    })
}

pub(super) async fn capabilities(context: &Context) -> Findings {
    let capabilities = context.service().await?.capabilities().await;
    let capabilities = capabilities.map_err(|error| Stop::of_optional(&error))?;
    let names: Vec<String> = capabilities
        .supported_models
        .iter()
        .filter_map(|model| model.model_name.clone())
        .collect();
    let listed = names.contains(&context.setting.model);
    ensure(!names.is_empty(), || "the list is empty".to_owned())?;
    Ok(if listed {
        String::new()
    } else {
        format!("lists {names:?}, and not {}", context.setting.model)
    })
}

pub(super) async fn unload(context: &Context) -> Findings {
    let unloaded = context.model().await?.unload().await;
    unloaded.map_err(|error| Stop::of_optional(&error))?;
    Ok(String::new())
}

pub(super) async fn finish(context: &Context) -> Findings {
    let service = context.connect().await?;
    let ended = service.close(FinishReason::Success, None).await;
    let after = service.health().await.err().map(|error| error.kind());
    ensure(after == Some(ErrorKind::Closed), || {
        format!("after its end the session answers {after:?}")
    })?;
    ended.map_err(|error| Stop::of_optional(&error))?;
    Ok(String::new())
}
