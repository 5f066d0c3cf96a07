//! Checks of losses and their options.

use tinkers_wire::{InvalidInput, Loss, LossConfigValue, LossFn};

/// Checks that the engine supports a loss function and that the options of the loss function are valid.
pub(super) fn check(known: &[LossFn], loss: &Loss) -> Result<(), InvalidInput> {
    if !known.contains(&loss.name) {
        let names: Vec<&str> = known.iter().map(LossFn::name).collect();
        return Err(InvalidInput::new(
            "loss_fn",
            format!("one of {}, got {:?}", names.join(", "), loss.name.name()),
        ));
    }
    loss.validate()?;
    // The options of losses that only the engine knows are checked by the engine.
    let Some(options) = loss.name.options() else {
        return Ok(());
    };
    for (name, value) in &loss.config {
        let field = || format!("loss_fn_config.{name}");
        if !options.iter().any(|(option, _)| option == name) {
            let names: Vec<&str> = options.iter().map(|(option, _)| *option).collect();
            let expected = match names.as_slice() {
                [] => format!("nothing, {} has no options", loss.name),
                names => format!("an option of {}: {}", loss.name, names.join(", ")),
            };
            return Err(InvalidInput::new(field(), expected));
        }
        match value {
            LossConfigValue::Number(number) if fits_f32(*number) => {}
            LossConfigValue::Number(number) => {
                let expected = format!("a number that fits 32 bits, got {number}");
                return Err(InvalidInput::new(field(), expected));
            }
            LossConfigValue::Text(text) => {
                let expected = format!("a number, got the text {text:?}");
                return Err(InvalidInput::new(field(), expected));
            }
        }
    }
    let value = |option: &str| match loss.config.get(option) {
        Some(LossConfigValue::Number(number)) => Some(*number),
        _ => options
            .iter()
            .find(|(name, _)| *name == option)
            .map(|(_, default)| *default),
    };
    match (value("clip_low_threshold"), value("clip_high_threshold")) {
        (Some(low), Some(high)) if low > high => Err(InvalidInput::new(
            "loss_fn_config.clip_low_threshold",
            format!("at most clip_high_threshold, {high}, got {low}"),
        )),
        _ => Ok(()),
    }
}

/// Returns whether a number is still finite after its conversion to `f32`, the type in which engines compute.
pub(super) fn fits_f32(number: f64) -> bool {
    number.abs() <= f64::from(f32::MAX)
}
