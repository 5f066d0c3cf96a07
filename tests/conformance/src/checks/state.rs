//! Checks of saving, loading, resuming, listing and overwriting states.

use tinkers::prelude::*;
use tinkers::transport::RouteClass;
use tinkers::wire::{CheckpointList, routes};
use tinkers_core::Call;

use super::text::{self, TOLERANCE};
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, chain, ensure};

async fn current_logprobs(client: &TrainingClient, data: &[Datum]) -> Result<Vec<f32>, CheckError> {
    Ok(text::current_logprobs(client, data).await?.concat())
}

/// The note of a check that passes on a server with a mock model. The results of such a server mean
/// nothing and are not compared.
const MOCK: &str = "mock model: results were not compared";

pub(super) async fn save_load(context: &Context) -> CheckResult {
    let data = text::data(&context.settings, 2, 16);
    let model = context.model().await?;
    text::train(&model, &data, 2).await?;
    let saved = model.save_state(context.name("state")).await?;
    let at_save = current_logprobs(&model, &data).await?;
    text::train(&model, &data, 2).await?;
    let later = current_logprobs(&model, &data).await?;
    let has_real_model = context.has_real_model();
    let mut note = if has_real_model { "" } else { MOCK }.to_owned();
    let loaded = match model.load_state_with_optimizer(saved.path.as_str()).await {
        Ok(_) => current_logprobs(&model, &data).await?,
        // Some servers load a state only into a new model.
        Err(error) => {
            note = format!("cannot load into a trained model ({})", chain(&error));
            let fresh = context.model().await?;
            fresh.load_state_with_optimizer(saved.path.as_str()).await?;
            current_logprobs(&fresh, &data).await?
        }
    };
    if !has_real_model {
        return Ok(note);
    }
    ensure(text::distance(&at_save, &later) > TOLERANCE, || {
        "training after the save changed nothing".to_owned()
    })?;
    let apart = text::distance(&at_save, &loaded);
    ensure(apart < TOLERANCE, || {
        format!("log-probabilities after loading differ by {apart} from those at the save")
    })?;
    Ok(note)
}

/// Trains a model, saves its state, and creates a model from the state in a new session. Returns
/// the first model, its log-probabilities at the time of the save, and the new model.
async fn resumed(
    context: &Context,
    data: &[Datum],
) -> Result<(TrainingClient, Vec<f32>, TrainingClient), CheckError> {
    let model = context.model().await?;
    text::train(&model, data, 3).await?;
    let saved = model.save_state(context.name("resume")).await?;
    let at_save = current_logprobs(&model, data).await?;
    let later = context.connect().await?;
    let resumed = later
        .create_training_client_from_state_with_optimizer(saved.path.as_str())
        .await?;
    context.unload_later(&resumed);
    Ok((model, at_save, resumed))
}

pub(super) async fn resume(context: &Context) -> CheckResult {
    let data = text::data(&context.settings, 2, 16);
    let (_, at_save, resumed) = resumed(context, &data).await?;
    let apart = text::distance(&at_save, &current_logprobs(&resumed, &data).await?);
    text::train(&resumed, &data, 1).await?;
    if !context.has_real_model() {
        return Ok(MOCK.to_owned());
    }
    ensure(apart < TOLERANCE, || {
        format!("log-probabilities of the resumed model differ by {apart} from those at the save")
    })?;
    Ok(String::new())
}

pub(super) async fn resume_optimizer(context: &Context) -> CheckResult {
    context.require_real_model().await?;
    let data = text::data(&context.settings, 2, 16);
    let (model, _, resumed) = resumed(context, &data).await?;
    // If the optimizer state was restored, both models take the same step.
    let expected = text::train(&model, &data, 1).await?[1];
    let found = text::train(&resumed, &data, 1).await?[1];
    ensure(
        (found - expected).abs() < 0.05 * expected.abs().max(1.0),
        || {
            format!(
                "after another step the loss is {expected:.3}, but {found:.3} for the resumed model: its optimizer state is missing"
            )
        },
    )?;
    Ok(String::new())
}

pub(super) async fn listed(context: &Context) -> CheckResult {
    let model = context.model().await?;
    let name = context.name("listed");
    model.save_state(name.clone()).await?;
    let route = routes::run_checkpoints(model.model_id());
    let call = Call::get(route, RouteClass::Rest);
    let answer = context.service().await?.context().caller().call(call).await;
    let answer = answer.map_err(|error| CheckError::from_optional_route(&error))?;
    let list = CheckpointList::read(&answer.response.body).map_err(|error| {
        CheckError::failed(format!("cannot decode the checkpoint list: {error}"))
    })?;
    let found = list
        .checkpoints
        .iter()
        .any(|listed| listed.checkpoint_id.ends_with(&name));
    ensure(found, || {
        format!("{name} is not listed in {:?}", list.checkpoints)
    })?;
    Ok(String::new())
}

pub(super) async fn overwrite(context: &Context) -> CheckResult {
    let model = context.model().await?;
    let name = context.name("twice");
    model.save_state(name.clone()).await?;
    let again = model.save_state(name.clone()).await;
    let first = match again {
        Ok(_) => "a second save with the same name replaces the first".to_owned(),
        Err(error) => {
            ensure(error.sent() == tinkers::Sent::Answered, || chain(&error))?;
            model.recover()?;
            String::new()
        }
    };
    let replaced = model.save_state(name).overwrite().await;
    match replaced {
        Ok(_) => Ok(first),
        Err(error) => Err(CheckError::from_optional_setting(&error)),
    }
}
