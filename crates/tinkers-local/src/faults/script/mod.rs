//! Parses fault scripts from TOML, strictly.

mod fault;
mod fields;
mod position;

use std::time::Duration;

use tinkers_core::{Jitter, RouteClass, SplitMix};
use tinkers_wire::routes;
use toml::{Table, Value};

pub use self::fields::InvalidScript;

use self::fault::parse_fault;
use self::fields::Fields;
use super::{Faults, Rule};

impl Faults {
    /// Parses a fault script in TOML: an optional `seed` for random decisions (default 1) and any number of `[[rule]]`s in the order
    /// of their precedence, as described at [`Faults`].
    ///
    /// ```
    /// # use tinkers_local::Faults;
    /// let faults = Faults::from_script(r#"
    ///     seed = 7
    ///
    ///     [[rule]]
    ///     name = "busy"
    ///     on = "sample"          # about every tenth sample, for a minute
    ///     after_s = 5
    ///     for_s = 60
    ///     probability = 0.1
    ///     fault = "rate_limited"
    ///     retry_after_s = 2
    ///
    ///     [[rule]]
    ///     on = "/api/v1/optim_step"
    ///     nth = 3
    ///     fault = "cut_after"    # applied, but the response is lost
    /// "#)?;
    /// assert_eq!(faults.counts()[0].rule.to_string(), "rule 1 (busy)");
    /// # Ok::<(), tinkers_local::InvalidScript>(())
    /// ```
    ///
    /// Each rule selects requests:
    ///
    /// | field | meaning |
    /// |---|---|
    /// | `on` | a class (`sample`, `train`, `poll`, `rest`, `control`), a path such as `/api/v1/asample`, one that ends in `*`, or `"*"` for all |
    /// | `name` | a name for the journal and the counters; default none |
    /// | `after_s`, `for_s` | the rule becomes active this many seconds after the server was built, for this many seconds; default at once, without end |
    /// | `nth` | the first matching request that can get the fault, counted from 1 while the rule is active; default 1 |
    /// | `times` | the maximum number of requests that get the fault of this rule, or `"always"`; default 1, with `probability` `"always"` |
    /// | `probability` | the probability that a matching request gets the fault, from 0 to 1; default 1 |
    /// | `seed` | the seed of the random decisions of this rule; default derived from the seed of the script |
    ///
    /// Each rule also names the `fault` that these requests get. The fault has its own fields:
    ///
    /// | `fault` | fields (defaults) | effect |
    /// |---|---|---|
    /// | `answer` | `status`, `body` (empty), `content_type` (`application/json`) | this response instead of the server's |
    /// | `rate_limited` | `hint` (`ms`), `retry_after_s` (1), `text` | 429. The hint is `ms`, `seconds`, `date`, `body`, `none`, or `text` with any text in `Retry-After` |
    /// | `empty_400`, `payment_required`, `gone` | | 400 without a body, 402, 410 |
    /// | `html` | `status` (502) | an HTML page as from a proxy |
    /// | `poll_timeout` | `queue_state` (`paused_capacity`), `reason` (none) | 408, as some servers send at the end of a poll |
    /// | `unknown_queue_state` | | "try again" with an unknown queue state |
    /// | `delay`, `delay_answer` | `delay_s` | a delay of the request before it is applied, or of the response |
    /// | `refuse`, `cut_before` | | the connection is refused or cut; the request is not applied |
    /// | `cut_after`, `cut_body` | | the request is applied; the connection is cut before the response, or in the middle of it |
    /// | `truncate` | | the request is applied; the response has half of its body and is otherwise complete |
    /// | `duplicate` | | the request is applied twice, with one response |
    /// | `pause_capacity` | `pause_s` | a simulated lack of capacity: no operation starts for this time, and polls report the lack |
    /// | `expire_sessions` | | all sessions end right before the request |
    /// | `revoke_tokens` | | all tokens that API keys were exchanged for become invalid right before the request |
    /// | `revoke_key` | | the API key of the request is revoked right before the request, which gets a 401 |
    /// | `restart` | | the server restarts: all state except checkpoints is lost, and all running requests, including this one, are cut |
    ///
    /// # Errors
    /// If the script is not TOML or a field is invalid or unknown. The error names the line and column, the rule, the field and the expected value.
    pub fn from_script(text: &str) -> Result<Self, InvalidScript> {
        let document: Table = text
            .parse()
            .map_err(|error: toml::de::Error| InvalidScript::Syntax(error.to_string()))?;
        let mut document = Fields::of_document(text, document);
        let seed = document.whole("seed", 0)?.unwrap_or(1);
        let rules = match document.take("rule") {
            Some(Value::Array(rules)) if !rules.is_empty() => rules,
            _ => return Err(document.invalid("rule", "at least one [[rule]]")),
        };
        document.finish("a script")?;
        let faults = Self::new();
        for (i, rule) in rules.into_iter().enumerate() {
            let mut fields = Fields::of_rule(text, i + 1, rule)?;
            let default_seed = SplitMix::new(seed ^ ((i as u64 + 1) << 32)).bits();
            let rule = parse_rule(&mut fields, default_seed)?;
            let (kind, fault) = parse_fault(&mut fields)?;
            fields.finish(&format!("a rule with fault = {kind:?}"))?;
            faults.add(rule, fault);
        }
        Ok(faults)
    }
}

fn parse_rule(fields: &mut Fields<'_>, default_seed: u64) -> Result<Rule, InvalidScript> {
    let mut rule = parse_target(fields)?;
    if let Some(name) = fields.text("name")? {
        rule = rule.named(&name);
    }
    rule = rule.after(fields.seconds("after_s")?.unwrap_or_default());
    if let Some(length) = fields.seconds("for_s")? {
        if length == Duration::ZERO {
            return Err(fields.invalid("for_s", "seconds above 0"));
        }
        rule = rule.lasting(length);
    }
    rule = rule.nth(fields.whole("nth", 1)?.unwrap_or(1));
    let seed = fields.whole("seed", 0)?;
    match fields.number("probability")? {
        Some(probability) if (0.0..=1.0).contains(&probability) => {
            let seed = seed.unwrap_or(default_seed);
            rule = rule.always().with_probability(probability, seed);
        }
        Some(_) => return Err(fields.invalid("probability", "a number from 0 to 1")),
        None if seed.is_some() => {
            return Err(fields.invalid("seed", "a probability beside it"));
        }
        None => {}
    }
    match fields.peek("times") {
        Some(Value::String(text)) if text == "always" => {
            fields.take("times");
            Ok(rule.always())
        }
        Some(Value::String(_)) => {
            Err(fields.unknown("times", "a number from 1, or \"always\"", ["always"]))
        }
        _ => Ok(match fields.whole("times", 1)? {
            Some(times) => rule.times(times),
            None => rule,
        }),
    }
}

fn parse_target(fields: &mut Fields<'_>) -> Result<Rule, InvalidScript> {
    const EXPECTED: &str =
        "sample, train, poll, rest, control, a path of the API such as /api/v1/asample, or *";
    let Some(on) = fields.text("on")? else {
        return Err(fields.invalid("on", EXPECTED));
    };
    let class = RouteClass::ALL.into_iter().find(|class| class.name() == on);
    if let Some(class) = class {
        return Ok(Rule::class(class));
    }
    if !is_api_path(&on) {
        let classes = RouteClass::ALL.into_iter().map(|class| class.name());
        let known = classes.chain(routes::ALL.iter().copied());
        return Err(fields.unknown("on", EXPECTED, known));
    }
    Ok(Rule::on(on))
}

/// Returns whether the path matches a route of the API. The path may end in `*`.
fn is_api_path(path: &str) -> bool {
    const WITH_IDS: [&str; 3] = [routes::SESSIONS, routes::SAMPLERS, routes::TRAINING_RUNS];
    let below = |route: &str, path: &str| {
        let rest = path.strip_prefix(route);
        rest.is_some_and(|rest| rest.starts_with('/') && rest.len() > 1)
    };
    match path.strip_suffix('*') {
        Some(start) => {
            routes::ALL.iter().any(|route| route.starts_with(start))
                || WITH_IDS.iter().any(|route| {
                    start
                        .strip_prefix(route)
                        .is_some_and(|rest| rest.starts_with('/'))
                })
        }
        None => routes::ALL.contains(&path) || WITH_IDS.iter().any(|route| below(route, path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_rule_path_must_be_an_api_path() {
        for path in [
            "*",
            "/api/v1/*",
            "/api/v1/retrieve_*",
            "/api/v1/asample",
            "/api/v1/sessions/*",
            "/api/v1/sessions/s-1/finish",
        ] {
            assert!(is_api_path(path), "{path}");
        }
        for path in [
            "",
            "samples",
            "/asample",
            "/api/v1/asmaple",
            "/api/v1/sessions/",
            "/api/v2/*",
            "/api/v1/sessionsx/*",
        ] {
            assert!(!is_api_path(path), "{path}");
        }
    }

    #[test]
    fn fault_rules_have_different_default_seeds() {
        let script = |seed: &str| {
            let rule = "[[rule]]\non = \"*\"\nprobability = 0.5\nfault = \"gone\"\n";
            Faults::from_script(&format!("{seed}{rule}{rule}")).unwrap()
        };
        let applied_rules = |faults: &Faults| -> Vec<Option<u64>> {
            let rule = |_| {
                let now = tinkers_core::Timestamp::ORIGIN;
                let selected = faults.select("/x", RouteClass::Rest, now);
                selected.map(|selected| selected.rule.number)
            };
            (0..200).map(rule).collect()
        };
        let one = applied_rules(&script(""));
        assert_eq!(one, applied_rules(&script("seed = 1\n")));
        assert_ne!(one, applied_rules(&script("seed = 2\n")));
        // With equal seeds, both rules would select the same requests, and the second rule would never apply its fault.
        assert!(one.contains(&Some(1)) && one.contains(&Some(2)) && one.contains(&None));
    }
}
