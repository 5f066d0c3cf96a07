//! Arguments of the scripted engine of `tinkers serve`.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tinkers_local::{HintForm, InvalidWindow, Script, Window};

use super::numbers::{integer, seconds};

/// The options of `--engine scripted`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Scripted engine")]
pub(crate) struct ScriptedArgs {
    /// Duration of each operation, in milliseconds [default: 0]
    #[arg(long, value_name = "MS", value_parser = integer::<u64>)]
    latency: Option<u64>,
    /// Tokens per sample, limited by the max_tokens of the request [default: max_tokens]
    #[arg(long, value_name = "N", value_parser = integer::<u32>)]
    sample_tokens: Option<u32>,
    /// Padding that is added to each forward_backward result, in bytes [default: 0]
    #[arg(long, value_name = "N", value_parser = integer::<usize>)]
    scripted_bytes: Option<usize>,
    /// Maximum number of samples in flight; further submissions get a 429 [default: no limit]
    #[arg(long, value_name = "W", value_parser = integer::<u32>, conflicts_with_all = ["window_steps", "window_walk"])]
    window: Option<u32>,
    /// Like --window, cycling through a list of limits, such as 20,50,10
    #[arg(
        long,
        value_name = "W,W,..",
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_parser = integer::<u32>,
        requires = "window_every",
        conflicts_with = "window_walk"
    )]
    window_steps: Vec<u32>,
    /// Like --window, as a random walk between two limits
    #[arg(
        long,
        value_name = "LOW,HIGH",
        allow_hyphen_values = true,
        requires = "window_every"
    )]
    window_walk: Option<WalkRange>,
    /// How long each limit lasts, in seconds; the first limit starts at the first submission
    #[arg(long, value_name = "SECS", allow_hyphen_values = true, value_parser = seconds)]
    window_every: Option<Duration>,
    /// Seed of the random walk [default: 1]
    #[arg(long, value_name = "N", value_parser = integer::<u64>, requires = "window_walk")]
    window_seed: Option<u64>,
    /// Retry delay that a 429 announces, in milliseconds [default: 1000]
    #[arg(long, value_name = "N", value_parser = integer::<u64>)]
    hint_ms: Option<u64>,
    /// Form of the announced retry delay [default: ms]
    #[arg(long, value_enum, value_name = "FORM")]
    hint_form: Option<HintName>,
}

/// The range of `--window-walk`: the lowest and the highest limit on the samples in flight, between which the limit changes at
/// random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WalkRange(u32, u32);

impl FromStr for WalkRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let range = text.split_once(',').and_then(|(low, high)| {
            let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            Some(Self(low, high))
        });
        range.ok_or("expected two numbers separated by a comma, such as 5,80")
    }
}

/// The form in which a 429 response announces its retry delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HintName {
    // Header retry-after-ms.
    Ms,
    // Header Retry-After, in seconds.
    Seconds,
    // Header Retry-After, as a date.
    Date,
    // Field retry_after_ms of the body.
    Body,
    // No retry delay.
    None,
}

impl ScriptedArgs {
    /// Returns whether any option of the scripted engine is set.
    pub(crate) fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// Checks that the options of the scripted engine do not contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_variable = !self.window_steps.is_empty() || self.window_walk.is_some();
        if self.window_every.is_some() && !is_variable {
            return Err("--window-every requires --window-steps or --window-walk".to_owned());
        }
        let is_limited = self.window.is_some() || is_variable;
        if !is_limited && (self.hint_ms.is_some() || self.hint_form.is_some()) {
            let message =
                "--hint-ms and --hint-form require --window, --window-steps or --window-walk";
            return Err(message.to_owned());
        }
        match self.window() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("invalid window: {error}")),
        }
    }

    /// Returns the duration of each operation of the scripted engine.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_millis(self.latency.unwrap_or(0))
    }

    /// Returns the script of the scripted engine, from which it derives its results.
    pub(crate) fn script(&self) -> Script {
        let mut script = Script::default();
        script.padding_bytes = self.scripted_bytes.unwrap_or(0);
        if let Some(tokens) = self.sample_tokens {
            script.sample_tokens = tokens;
            script.longest_sample = Some(tokens);
        }
        script
    }

    /// Returns the limit on the samples in flight. If no option sets a limit, the server accepts all samples, but still counts
    /// them.
    pub(crate) fn window(&self) -> Result<Window, InvalidWindow> {
        let every = self.window_every.unwrap_or_default();
        let window = match (self.window, self.window_walk) {
            (Some(most), _) => Window::fixed(most),
            (None, Some(WalkRange(low, high))) => {
                Window::walk(low, high, every, self.window_seed.unwrap_or(1))?
            }
            (None, None) if !self.window_steps.is_empty() => {
                Window::steps(self.window_steps.iter().copied(), every)?
            }
            (None, None) => Window::unbounded(),
        };
        let hint = Duration::from_millis(self.hint_ms.unwrap_or(1000));
        Ok(window.with_hint(
            hint,
            match self.hint_form.unwrap_or(HintName::Ms) {
                HintName::Ms => HintForm::Milliseconds,
                HintName::Seconds => HintForm::Seconds,
                HintName::Date => HintForm::Date,
                HintName::Body => HintForm::Body,
                HintName::None => HintForm::None,
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command, parse};
    use super::*;

    fn parse_line(line: &str) -> Result<ScriptedArgs, clap::Error> {
        let line = format!("tinkers serve --engine scripted {line}");
        let Cli { command, .. } = parse(line.split_whitespace())?;
        match command {
            Command::Serve(args) => Ok(args.scripted),
            _ => unreachable!("the command is serve"),
        }
    }

    #[test]
    fn each_kind_of_in_flight_limit_is_parsed() {
        for (line, shown) in [
            ("", "Fixed(4294967295)"),
            ("--window 20", "Fixed(20)"),
            (
                "--window-steps 20,50,10 --window-every 0.5",
                "levels: [20, 50, 10], every: 500ms",
            ),
            (
                "--window-walk 5,80 --window-every 2 --window-seed 9",
                "low: 5, high: 80, every: 2s, seed: 9",
            ),
            (
                "--window 1 --hint-ms 200 --hint-form date",
                "hint: 200ms, form: Date",
            ),
            ("--window 1", "hint: 1s, form: Milliseconds"),
        ] {
            let window = format!("{:?}", parse_line(line).unwrap().window().unwrap());
            assert!(window.contains(shown), "{line}: {window}");
        }
    }

    #[test]
    fn inconsistent_limit_options_are_usage_errors() {
        for (line, reason) in [
            ("--window 1 --window-walk 1,2 --window-every 1", "--window"),
            ("--window-steps 1,2", "--window-every"),
            ("--window-walk 1,2", "--window-every"),
            ("--window-every 1", "--window-steps"),
            ("--window-walk 9,2 --window-every 1", "at most high"),
            ("--window-walk 9 --window-every 1", "two numbers"),
            ("--window-walk -1,2 --window-every 1", "--window-walk"),
            ("--window-steps -1,2 --window-every 1", "--window-steps"),
            ("--window-steps 1,x --window-every 1", "--window-steps"),
            ("--window-steps 1,2 --window-every 0.001", "at least 10ms"),
            ("--window-steps 1,2 --window-every 0", "above 0"),
            ("--window-steps 1,2 --window-every NaN", "above 0"),
            ("--window-seed 1", "--window-walk"),
            ("--hint-ms 1", "--window"),
            ("--window 1 --hint-form soon", "soon"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn sample_tokens_option_limits_the_length_of_samples() {
        assert_eq!(parse_line("").unwrap().script().longest_sample, None);
        let script = parse_line("--sample-tokens 7").unwrap().script();
        assert_eq!((script.sample_tokens, script.longest_sample), (7, Some(7)));
    }
}
