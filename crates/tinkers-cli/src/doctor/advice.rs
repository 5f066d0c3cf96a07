//! Advice on the findings about a server.

use super::findings::Findings;

/// The difference between the clock of the server and the local clock above which advice is given, in seconds. The dates in
/// responses have a resolution of one second.
const MAX_CLOCK_SKEW: f64 = 5.0;
/// The round trip time above which advice is given, in milliseconds.
const HIGH_LATENCY_MS: f64 = 100.0;

/// Returns the advice that follows from the findings: one text for each problem.
pub(super) fn advice(found: &Findings) -> Vec<String> {
    let mut advice = Vec::new();
    let mut add = |text: String| advice.push(text);
    if let Some(error) = &found.pass_error {
        add(format!("the test pass failed: {error}"));
    }
    match found.repeats_applied_once {
        "unknown" => add(
            "the server is not known to deduplicate repeated passes and steps. If the response to one is lost, it fails with \
             OutcomeUnknown, and the training client cannot be used further. Save states often, and resume from the last one."
                .to_owned(),
        ),
        "passes and steps" => add(
            "the server does not deduplicate saves. If the response to one is lost, the client looks for the checkpoint by its \
             name before it retries. Give each checkpoint a unique name.".to_owned(),
        ),
        _ => {}
    }
    if let Some(limit) = found.limits.samples_in_flight {
        add(format!(
            "each sample in flight needs its own poll, and at most {limit} samples are in flight at a time. Additional clients do not \
             raise that limit."
        ));
    }
    if found.is_strict == Some(true) {
        add(
            "the server rejects unknown fields. Do not set options that are newer than the server."
                .to_owned(),
        );
    }
    if let Some(ahead) = found
        .clock_ahead_seconds
        .filter(|ahead| ahead.abs() > MAX_CLOCK_SKEW)
    {
        add(format!(
            "the server's clock differs from this machine's by {ahead:+.0} s. Retry delays are not affected, but tokens and signed links \
             may expire early. Correct one of the clocks."
        ));
    }
    if found.latency_ms > HIGH_LATENCY_MS {
        add(
            "the round trip is long. Submit forward_backward and optim_step without waiting in between, and await both later, so that \
             a step costs one round trip instead of four."
                .to_owned(),
        );
    }
    if let Some(error) = &found.models_error {
        add(format!(
            "the server does not list its models ({error}). Ask its operator for their names."
        ));
    }
    advice
}
