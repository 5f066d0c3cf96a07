//! Saved states: loading them, going on from them, finding them.

use tinkers::prelude::*;
use tinkers::transport::RouteClass;
use tinkers::wire::{CheckpointList, routes};
use tinkers_core::Call;

use super::text::{self, SAME};
use crate::context::Context;
use crate::verdict::{Findings, Stop as Ended, chain, ensure};

async fn look(client: &TrainingClient, data: &[Datum]) -> Result<Vec<f32>, Ended> {
    Ok(text::look(client, data).await?.concat())
}

/// What is said where results of a mock cannot be compared.
const MOCK: &str = "a mock in place of a model: only that it is done";

pub(super) async fn save_load(context: &Context) -> Findings {
    let data = text::data(&context.setting, 2, 16);
    let model = context.model().await?;
    text::train(&model, &data, 2).await?;
    let saved = model.save_state(context.name("state")).await?;
    let at_save = look(&model, &data).await?;
    text::train(&model, &data, 2).await?;
    let later = look(&model, &data).await?;
    let compares = context.compares();
    let mut note = if compares { "" } else { MOCK }.to_owned();
    let loaded = match model.load_state_with_optimizer(saved.path.as_str()).await {
        Ok(_) => look(&model, &data).await?,
        // Some servers load into fresh models alone.
        Err(error) => {
            note = format!("not into a used model ({})", chain(&error));
            let fresh = context.model().await?;
            fresh.load_state_with_optimizer(saved.path.as_str()).await?;
            look(&fresh, &data).await?
        }
    };
    if !compares {
        return Ok(note);
    }
    ensure(text::distance(&at_save, &later) > SAME, || {
        "training on after the save changed nothing".to_owned()
    })?;
    let apart = text::distance(&at_save, &loaded);
    ensure(apart < SAME, || {
        format!("log-probabilities after loading lie {apart} from those at the save")
    })?;
    Ok(note)
}

/// A model that was trained and saved, and one of a later session that was made from the save.
async fn resumed(
    context: &Context,
    data: &[Datum],
) -> Result<(TrainingClient, Vec<f32>, TrainingClient), Ended> {
    let model = context.model().await?;
    text::train(&model, data, 3).await?;
    let saved = model.save_state(context.name("resume")).await?;
    let at_save = look(&model, data).await?;
    let later = context.connect().await?;
    let resumed = later
        .training_from_state(saved.path.as_str(), RestoreOptimizer::Yes)
        .create()
        .await?;
    context.free_later(&resumed);
    Ok((model, at_save, resumed))
}

pub(super) async fn resume(context: &Context) -> Findings {
    let data = text::data(&context.setting, 2, 16);
    let (_, at_save, resumed) = resumed(context, &data).await?;
    let apart = text::distance(&at_save, &look(&resumed, &data).await?);
    text::train(&resumed, &data, 1).await?;
    if !context.compares() {
        return Ok(MOCK.to_owned());
    }
    ensure(apart < SAME, || {
        format!("log-probabilities of the resumed model lie {apart} from those at the save")
    })?;
    Ok(String::new())
}

pub(super) async fn resume_optimizer(context: &Context) -> Findings {
    context.needs_a_model().await?;
    let data = text::data(&context.setting, 2, 16);
    let (model, _, resumed) = resumed(context, &data).await?;
    // With the optimizer's state both go the same way from here.
    let expected = text::train(&model, &data, 1).await?[1];
    let found = text::train(&resumed, &data, 1).await?[1];
    ensure(
        (found - expected).abs() < 0.05 * expected.abs().max(1.0),
        || {
            format!(
                "a step further the loss is {expected:.3}, and {found:.3} where it is resumed: the optimizer began anew"
            )
        },
    )?;
    Ok(String::new())
}

pub(super) async fn listed(context: &Context) -> Findings {
    let model = context.model().await?;
    let name = context.name("listed");
    model.save_state(name.clone()).await?;
    let route = routes::run_checkpoints(model.model_id());
    let call = Call::get(route, RouteClass::Rest);
    let answer = context.service().await?.context().caller().call(call).await;
    let answer = answer.map_err(|error| Ended::of_optional(&error))?;
    let list = CheckpointList::read(&answer.response.body)
        .map_err(|error| Ended::failed(format!("the list cannot be read: {error}")))?;
    let found = list
        .checkpoints
        .iter()
        .any(|listed| listed.checkpoint_id.ends_with(&name));
    ensure(found, || {
        format!("{name} is not among {:?}", list.checkpoints)
    })?;
    Ok(String::new())
}

pub(super) async fn overwrite(context: &Context) -> Findings {
    let model = context.model().await?;
    let name = context.name("twice");
    model.save_state(name.clone()).await?;
    let again = model.save_state(name.clone()).await;
    let first = match again {
        Ok(_) => "a second save of a name replaces the first".to_owned(),
        Err(error) => {
            ensure(error.sent() == tinkers::Sent::Answered, || chain(&error))?;
            model.recover()?;
            String::new()
        }
    };
    let replaced = model.save_state(SaveState::named(name).overwrite()).await;
    match replaced {
        Ok(_) => Ok(first),
        Err(error) => Err(Ended::of_choice(&error)),
    }
}
