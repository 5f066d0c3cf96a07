//! A script of faults as text, read strictly.

mod fault;
mod fields;

use std::time::Duration;

use tinkers_core::{Jitter, RouteClass, SplitMix};
use tinkers_wire::routes;
use toml::{Table, Value};

pub use self::fields::InvalidScript;

use self::fault::read_fault;
use self::fields::Fields;
use super::{Faults, Rule};

impl Faults {
    /// A script from a text in TOML: a `seed` for all that is left to chance (1 unless given), and any number of `[[rule]]`s, in
    /// the order in which they are asked. See [`Faults`] for which of them strikes.
    ///
    /// ```
    /// # use tinkers_local::Faults;
    /// let faults = Faults::from_script(r#"
    ///     seed = 7
    ///
    ///     [[rule]]
    ///     name = "busy"
    ///     on = "sample"          # every tenth sample or so, for a minute
    ///     after_s = 5
    ///     for_s = 60
    ///     probability = 0.1
    ///     fault = "rate_limited"
    ///     retry_after_s = 2
    ///
    ///     [[rule]]
    ///     on = "/api/v1/optim_step"
    ///     nth = 3
    ///     fault = "cut_after"    # applied, and the answer is lost
    /// "#)?;
    /// assert_eq!(faults.counts()[0].rule.to_string(), "rule 1 (busy)");
    /// # Ok::<(), tinkers_local::InvalidScript>(())
    /// ```
    ///
    /// Each rule says which requests it is for:
    ///
    /// | field | meaning |
    /// |---|---|
    /// | `on` | a class (`sample`, `train`, `poll`, `rest`, `control`), a path such as `/api/v1/asample`, one that ends in `*`, or `"*"` for all |
    /// | `name` | for the journal and the counts; none unless given |
    /// | `after_s`, `for_s` | it opens so many seconds after the server was built, and closes so many seconds later; at once and never |
    /// | `nth` | from this match on, counted from 1 while it is open, whichever rule strikes; 1 |
    /// | `times` | so many requests are struck, or `"always"`; 1. With a probability, `"always"`. Requests that an earlier rule strikes are not counted |
    /// | `probability` | for each of them with this probability, from 0 to 1 |
    /// | `seed` | of this rule alone; drawn from the script's unless given |
    ///
    /// And what happens to them, as `fault`, with fields of its own:
    ///
    /// | `fault` | fields | |
    /// |---|---|---|
    /// | `answer` | `status`, `body` (empty), `content_type` (`application/json`) | this answer instead of the server's |
    /// | `rate_limited` | `hint` (`ms`), `retry_after_s` (1), `text` | 429. The hint is `ms`, `seconds`, `date`, `body`, `none`, or `text` with any text in `Retry-After` |
    /// | `empty_400`, `payment_required`, `gone` | | 400 without a body, 402, 410 |
    /// | `html` | `status` (502) | a page as from a proxy |
    /// | `poll_timeout` | `queue_state` (`paused_capacity`), `reason` (none) | 408, as some servers end a poll |
    /// | `unknown_queue_state` | | "not yet", with a queue state that nobody knows |
    /// | `delay`, `delay_answer` | `delay_s` | before the request is applied, or after |
    /// | `refuse`, `cut_before` | | no connection, or one that breaks; not applied |
    /// | `cut_after`, `cut_body` | | applied; the connection breaks before the answer, or half way through it |
    /// | `truncate` | | applied; half of the answer's body as if it were whole |
    /// | `duplicate` | | applied twice, answered once |
    /// | `pause_capacity` | `pause_s` | from now on no work starts for so long, and polls are told so |
    /// | `expire_sessions` | | all sessions end right before the request |
    /// | `restart` | | everything but checkpoints is forgotten; this request and all under way are cut |
    ///
    /// # Errors
    /// Names the rule, the field and what was expected: nothing is guessed, and a field that means nothing here is refused.
    pub fn from_script(text: &str) -> Result<Self, InvalidScript> {
        let document: Table = text
            .parse()
            .map_err(|error: toml::de::Error| InvalidScript::Syntax(error.to_string()))?;
        let mut document = Fields::of_document(document);
        let seed = document.whole("seed", 0)?.unwrap_or(1);
        let rules = match document.take("rule") {
            Some(Value::Array(rules)) if !rules.is_empty() => rules,
            _ => return Err(document.refused("rule", "at least one [[rule]]")),
        };
        document.finish("a script")?;
        let faults = Self::new();
        for (i, rule) in rules.into_iter().enumerate() {
            let mut fields = Fields::of_rule(i + 1, rule)?;
            let own_seed = SplitMix::new(seed ^ ((i as u64 + 1) << 32)).bits();
            let rule = read_rule(&mut fields, own_seed)?;
            let (kind, fault) = read_fault(&mut fields)?;
            fields.finish(&format!("a rule with fault = {kind:?}"))?;
            faults.add(rule, fault);
        }
        Ok(faults)
    }
}

fn read_rule(fields: &mut Fields, seed: u64) -> Result<Rule, InvalidScript> {
    let mut rule = read_target(fields)?;
    if let Some(name) = fields.text("name")? {
        rule = rule.named(&name);
    }
    rule = rule.after(fields.seconds("after_s")?.unwrap_or_default());
    if let Some(length) = fields.seconds("for_s")? {
        if length == Duration::ZERO {
            return Err(fields.refused("for_s", "seconds above 0"));
        }
        rule = rule.lasting(length);
    }
    rule = rule.nth(fields.whole("nth", 1)?.unwrap_or(1));
    let own_seed = fields.whole("seed", 0)?;
    let chance = fields.number("probability")?;
    match chance {
        Some(chance) if (0.0..=1.0).contains(&chance) => {
            rule = rule.always().with_chance(chance, own_seed.unwrap_or(seed));
        }
        Some(_) => return Err(fields.refused("probability", "a number from 0 to 1")),
        None if own_seed.is_some() => {
            return Err(fields.refused("seed", "a probability beside it"));
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

fn read_target(fields: &mut Fields) -> Result<Rule, InvalidScript> {
    const EXPECTED: &str =
        "sample, train, poll, rest, control, a path of the API such as /api/v1/asample, or *";
    let Some(on) = fields.text("on")? else {
        return Err(fields.refused("on", EXPECTED));
    };
    let class = RouteClass::ALL.into_iter().find(|class| class.name() == on);
    if let Some(class) = class {
        return Ok(Rule::class(class));
    }
    if !is_of_the_api(&on) {
        let classes = RouteClass::ALL.into_iter().map(|class| class.name());
        let known = classes.chain(routes::ALL.iter().copied());
        return Err(fields.unknown("on", EXPECTED, known));
    }
    Ok(Rule::on(on))
}

/// Whether there is a route that the path, which may end in `*`, can be of.
fn is_of_the_api(path: &str) -> bool {
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
    fn a_path_has_to_be_of_the_api() {
        for path in [
            "*",
            "/api/v1/*",
            "/api/v1/retrieve_*",
            "/api/v1/asample",
            "/api/v1/sessions/*",
            "/api/v1/sessions/s-1/finish",
        ] {
            assert!(is_of_the_api(path), "{path}");
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
            assert!(!is_of_the_api(path), "{path}");
        }
    }

    #[test]
    fn each_rule_without_a_seed_has_one_of_its_own() {
        let script = |seed: &str| {
            let rule = "[[rule]]\non = \"*\"\nprobability = 0.5\nfault = \"gone\"\n";
            Faults::from_script(&format!("{seed}{rule}{rule}")).unwrap()
        };
        let strikes = |faults: &Faults| -> Vec<Option<u64>> {
            let strike = |_| {
                let now = tinkers_core::Timestamp::ORIGIN;
                faults
                    .strike("/x", RouteClass::Rest, now)
                    .map(|strike| strike.by.number)
            };
            (0..200).map(strike).collect()
        };
        let one = strikes(&script(""));
        assert_eq!(one, strikes(&script("seed = 1\n")));
        assert_ne!(one, strikes(&script("seed = 2\n")));
        // Were they of one seed, the second would be due only where the first is.
        assert!(one.contains(&Some(1)) && one.contains(&Some(2)) && one.contains(&None));
    }
}
