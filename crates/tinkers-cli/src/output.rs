//! Everything that is written: lines, progress, the log and complaints.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use console::Term;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// Columns where there is no terminal to ask.
const PLAIN_WIDTH: usize = 100;

/// Where words for people go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// To stdout, the result among them.
    Stdout,
    /// To stderr, since stdout is for one JSON object.
    Stderr,
}

/// Writes for people: with a bar that moves where stderr is a terminal, else in plain lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    words: Words,
}

impl Screen {
    pub(crate) fn new(words: Words) -> Self {
        Self { words }
    }

    /// One line.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        match self.words {
            Words::Stdout => writeln!(io::stdout().lock(), "{text}"),
            Words::Stderr => writeln!(io::stderr().lock(), "{text}"),
        }
    }

    /// A line that opens a section, behind an empty one.
    pub(crate) fn heading(&self, text: &str) -> io::Result<()> {
        // Bold only where the stream is a terminal and the environment does not ask for none (NO_COLOR).
        let styled = console::style(text).bold();
        match self.words {
            Words::Stdout => self.line(format_args!("\n{styled}")),
            Words::Stderr => self.line(format_args!("\n{}", styled.for_stderr())),
        }
    }

    /// Columns to fill.
    pub(crate) fn width(&self) -> usize {
        let columns = Term::stdout()
            .size_checked()
            .map(|(_, columns)| columns.into());
        columns.unwrap_or(PLAIN_WIDTH).clamp(60, 140)
    }

    /// Shows that something is being done, until the guard goes.
    pub(crate) fn busy(&self, what: &'static str) -> io::Result<Busy> {
        if !moves() {
            self.line(format_args!("{what} ..."))?;
            return Ok(Busy(None));
        }
        let style = style("{spinner} {msg}");
        let bar = ProgressBar::new_spinner()
            .with_style(style)
            .with_message(what)
            .with_finish(ProgressFinish::AndClear);
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Busy(Some(bar)))
    }

    /// Shows how far `steps` steps are.
    pub(crate) fn progress(&self, steps: u32) -> Progress {
        let bar = moves().then(|| {
            let style = style("{bar:32} {pos}/{len}  {msg}").progress_chars("━╸ ");
            ProgressBar::new(steps.into())
                .with_style(style)
                .with_finish(ProgressFinish::AndClear)
        });
        Progress {
            screen: *self,
            bar,
            steps,
        }
    }
}

/// Whether there is a terminal on which a bar can move.
fn moves() -> bool {
    io::stderr().is_terminal()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is one that the library reads")
}

/// Something is being done while this lives.
#[derive(Debug)]
pub(crate) struct Busy(
    #[expect(dead_code, reason = "its drop clears the line")] Option<ProgressBar>,
);

/// How far the steps are.
#[derive(Debug)]
pub(crate) struct Progress {
    screen: Screen,
    bar: Option<ProgressBar>,
    steps: u32,
}

impl Progress {
    /// Step `number`, from 1, is done.
    pub(crate) fn step(&self, number: u32, loss: f64, tokens_per_second: f64) -> io::Result<()> {
        let message = format!("loss {loss:.3}  {tokens_per_second:.0} tokens/s");
        if let Some(bar) = &self.bar {
            bar.set_message(message);
            bar.set_position(number.into());
            return Ok(());
        }
        // Ten lines or so, the first and the last step among them.
        let every = self.steps.div_ceil(10);
        if number == 1 || number == self.steps || number.is_multiple_of(every) {
            return self
                .screen
                .line(format_args!("step {number}/{}  {message}", self.steps));
        }
        Ok(())
    }
}

/// One JSON object on stdout.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(value).context("the result has no JSON form")?;
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// One line on stdout, there at once also where stdout is a pipe.
pub(crate) fn announce(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// One line on stderr.
pub(crate) fn complain(text: &str) {
    // Where stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{}", one_line(text));
}

/// Text from elsewhere as one line that cannot move the cursor or change colours.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    Cow::Owned(visible.collect())
}

/// Whether stdout was closed by its reader, as by `| head`.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Sends the log to stderr, as far as `filter` lets it.
pub(crate) fn log(filter: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .with_context(|| format!("--log (or TINKER_LOG) {filter} cannot be read"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(console::colors_enabled_stderr())
        .try_init()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("the log cannot be started")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\u{1b}[31mb\nc\u{9b}d"), "a [31mb c d");
        assert!(matches!(one_line("plain ü"), Cow::Borrowed("plain ü")));
    }

    #[test]
    fn only_a_closed_pipe_counts_as_one() {
        let error = |kind| anyhow::Error::from(io::Error::from(kind));
        assert!(is_broken_pipe(&error(io::ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&error(io::ErrorKind::NotFound)));
        assert!(!is_broken_pipe(&anyhow::anyhow!("another")));
    }
}
