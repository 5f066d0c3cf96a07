//! What can be said of the scripted engine: how long it takes, how much it sends, and how many samples it takes at once.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tinkers_local::{HintForm, InvalidWindow, Script, Window};

use super::numbers::{seconds, whole};

/// The options of `--engine scripted`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Scripted engine")]
pub(crate) struct ScriptedArgs {
    /// How long each job takes, in milliseconds [default: 0]
    #[arg(long, value_name = "MS", value_parser = whole::<u64>)]
    latency: Option<u64>,
    /// Tokens in each sample, where a request has room for so many [default: as many as it has room for]
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    sample_tokens: Option<u32>,
    /// How much is added to each result of a pass, in bytes [default: 0]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    scripted_bytes: Option<usize>,
    /// The most samples in flight; a submission beyond is answered 429 [default: no bound]
    #[arg(long, value_name = "W", value_parser = whole::<u32>, conflicts_with_all = ["window_steps", "window_walk"])]
    window: Option<u32>,
    /// The same, one level after the other, over and over, such as 20,50,10
    #[arg(
        long,
        value_name = "W,W,..",
        value_delimiter = ',',
        value_parser = whole::<u32>,
        requires = "window_every",
        conflicts_with = "window_walk"
    )]
    window_steps: Vec<u32>,
    /// The same, at random up and down between the two
    #[arg(long, value_name = "LOW,HIGH", requires = "window_every")]
    window_walk: Option<Ends>,
    /// How long each level holds, in seconds from the first submission on
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    window_every: Option<Duration>,
    /// Seed of the walk [default: 1]
    #[arg(long, value_name = "N", value_parser = whole::<u64>, requires = "window_walk")]
    window_seed: Option<u64>,
    /// What a 429 says of when to come back, in milliseconds [default: 1000]
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    hint_ms: Option<u64>,
    /// How it says so [default: ms]
    #[arg(long, value_enum, value_name = "FORM")]
    hint_form: Option<HintName>,
}

/// The ends of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends(u32, u32);

impl FromStr for Ends {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ends = text.split_once(',').and_then(|(low, high)| {
            let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            Some(Self(low, high))
        });
        ends.ok_or("expected two numbers with a comma between, such as 5,80")
    }
}

/// Where a hint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HintName {
    // retry-after-ms.
    Ms,
    // Retry-After in whole seconds.
    Seconds,
    // Retry-After as a date.
    Date,
    // retry_after_ms in the body.
    Body,
    // Nowhere.
    None,
}

impl ScriptedArgs {
    /// Whether any of them was given.
    pub(crate) fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// What is wrong with them together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let changes = !self.window_steps.is_empty() || self.window_walk.is_some();
        if self.window_every.is_some() && !changes {
            return Err("--window-every goes with --window-steps or --window-walk".to_owned());
        }
        let is_bound = self.window.is_some() || changes;
        if !is_bound && (self.hint_ms.is_some() || self.hint_form.is_some()) {
            let message = "--hint-ms and --hint-form are of the 429s beyond a window: give --window, --window-steps or --window-walk too";
            return Err(message.to_owned());
        }
        match self.window() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("the window cannot be: {error}")),
        }
    }

    /// How long each job takes.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_millis(self.latency.unwrap_or(0))
    }

    /// What is answered.
    pub(crate) fn script(&self) -> Script {
        let mut script = Script::default();
        script.padding_bytes = self.scripted_bytes.unwrap_or(0);
        if let Some(tokens) = self.sample_tokens {
            script.sample_tokens = tokens;
            script.longest_sample = Some(tokens);
        }
        script
    }

    /// How many samples are taken at once; they are counted where there is no bound too.
    pub(crate) fn window(&self) -> Result<Window, InvalidWindow> {
        let every = self.window_every.unwrap_or_default();
        let window = match (self.window, self.window_walk) {
            (Some(most), _) => Window::fixed(most),
            (None, Some(Ends(low, high))) => {
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

    fn read(line: &str) -> Result<ScriptedArgs, clap::Error> {
        let line = format!("tinkers serve --engine scripted {line}");
        let Cli { command, .. } = parse(line.split_whitespace())?;
        match command {
            Command::Serve(args) => Ok(args.scripted),
            _ => unreachable!("asked for serve"),
        }
    }

    #[test]
    fn each_kind_of_window_is_read() {
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
            let window = format!("{:?}", read(line).unwrap().window().unwrap());
            assert!(window.contains(shown), "{line}: {window}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, reason) in [
            ("--window 1 --window-walk 1,2 --window-every 1", "--window"),
            ("--window-steps 1,2", "--window-every"),
            ("--window-walk 1,2", "--window-every"),
            ("--window-every 1", "--window-steps"),
            ("--window-walk 9,2 --window-every 1", "at most high"),
            ("--window-walk 9 --window-every 1", "two numbers"),
            ("--window-steps 1,x --window-every 1", "--window-steps"),
            ("--window-steps 1,2 --window-every 0.001", "at least 10ms"),
            ("--window-steps 1,2 --window-every 0", "above 0"),
            ("--window-steps 1,2 --window-every NaN", "above 0"),
            ("--window-seed 1", "--window-walk"),
            ("--hint-ms 1", "--window"),
            ("--window 1 --hint-form soon", "soon"),
        ] {
            let error = read(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn a_number_of_tokens_bounds_every_sample() {
        assert_eq!(read("").unwrap().script().longest_sample, None);
        let script = read("--sample-tokens 7").unwrap().script();
        assert_eq!((script.sample_tokens, script.longest_sample), (7, Some(7)));
    }
}
