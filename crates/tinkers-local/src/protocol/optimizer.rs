//! The optimizer of every engine, AdamW.

use tinkers_wire::OptimizerConfig;

use crate::read::Refusal;

pub(super) fn adamw() -> OptimizerConfig {
    OptimizerConfig::new("adamw")
}

/// Checks that a request asks for the optimizer AdamW, the only one of this server, or names no optimizer.
pub(super) fn check_optimizer(config: Option<&OptimizerConfig>) -> Result<(), Refusal> {
    match config {
        Some(config) if config.family != "adamw" => {
            let reason = format!(
                "expected adamw, the one optimizer of this server, got {:?}",
                config.family
            );
            Err(Refusal::field("optimizer_config.type", reason))
        }
        Some(config) => match config.fields.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(Refusal::field(
                &format!("optimizer_config.{name}"),
                "expected nothing beside type: adamw has no fields, and a step has its own parameters",
            )),
            None => Ok(()),
        },
        None => Ok(()),
    }
}
