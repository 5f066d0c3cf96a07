//! What a user of a server can do about what was found.

use super::findings::Findings;

/// A clock that is further off than this is worth a word, in seconds. The server's dates have no fractions.
const SKEW: f64 = 5.0;
/// A round trip that is longer shows in a loop that waits for each call, in milliseconds.
const FAR: f64 = 100.0;

/// One sentence or two for each thing; none where there is nothing to do.
pub(super) fn advice(found: &Findings) -> Vec<String> {
    let mut advice = Vec::new();
    let mut say = |text: String| advice.push(text);
    if let Some(error) = &found.pass_error {
        say(format!("the pass that was tried failed: {error}"));
    }
    match found.repeats_applied_once {
        "unknown" => say(
            "it is not known to apply a repeated pass or step once: one whose reply is lost ends with OutcomeUnknown, \
             and the training client with it. Save states often, and go on from the last one."
                .to_owned(),
        ),
        "passes and steps" => say(
            "a save whose reply is lost is looked for before it is repeated: give checkpoints names of their own.".to_owned(),
        ),
        _ => {}
    }
    if let Some(most) = found.limits.samples_in_flight {
        say(format!(
            "each sample in flight holds a poll, and beyond {most} samples wait for each other. More clients do not help."
        ));
    }
    if found.is_strict == Some(true) {
        say(
            "what a field is not known for is refused by its name: leave out options that are newer than the server.".to_owned(),
        );
    }
    if let Some(ahead) = found.clock_ahead_seconds.filter(|ahead| ahead.abs() > SKEW) {
        say(format!(
            "its clock is {ahead:+.0} s off. Hints to wait are read against the server's own date, so nothing waits too \
             short; tokens and signed links may end early. Set one of the clocks."
        ));
    }
    if found.latency_ms > FAR {
        say(
            "it is far away: send forward_backward and optim_step ahead and await them later, so that a step costs one round trip \
             and not four."
                .to_owned(),
        );
    }
    if let Some(error) = &found.models_error {
        say(format!(
            "ask whoever runs it for the names of its models: it does not list them ({error})."
        ));
    }
    advice
}
