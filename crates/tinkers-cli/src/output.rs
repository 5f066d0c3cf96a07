//! Everything that is written: lines, progress, the log and complaints.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use console::{StyledObject, Term};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};
use tinkers_local::InvalidScript;

/// Columns where there is no terminal to ask.
const PLAIN_WIDTH: usize = 100;

/// Text is hard to read in wider lines, and nothing is left to lay out in narrower ones.
const WIDTHS: (usize, usize) = (24, 120);

/// Below so many columns there is no place for a bar beside its figures.
const BAR_WIDTH: usize = 64;

/// What moves on stderr; it steps aside for the log.
static MOVING: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

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

    /// Text with its line end.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        match self.words {
            Words::Stdout => writeln!(io::stdout().lock(), "{text}"),
            Words::Stderr => writeln!(io::stderr().lock(), "{text}"),
        }
    }

    /// A line that opens a section, behind an empty one.
    pub(crate) fn heading(&self, text: &str) -> io::Result<()> {
        self.line(format_args!("\n{}", self.style(text).bold()))
    }

    /// Text that can be given a style, which shows only where the stream is a terminal and the environment does not ask for
    /// none (NO_COLOR).
    pub(crate) fn style<D>(&self, text: D) -> StyledObject<D> {
        match self.words {
            Words::Stdout => console::style(text),
            Words::Stderr => console::style(text).for_stderr(),
        }
    }

    /// Columns to fill.
    pub(crate) fn width(&self) -> usize {
        columns(&match self.words {
            Words::Stdout => Term::stdout(),
            Words::Stderr => Term::stderr(),
        })
        .clamp(WIDTHS.0, WIDTHS.1)
    }

    /// Shows that something is being done, until the guard goes.
    pub(crate) fn busy(&self, what: impl Into<Cow<'static, str>>) -> io::Result<Busy> {
        let what = what.into();
        if !moves() {
            self.line(format_args!("{what} ..."))?;
            return Ok(Busy(None));
        }
        let style = style("{spinner:.cyan} {wide_msg}");
        let bar = ProgressBar::new_spinner()
            .with_style(style)
            .with_message(what)
            .with_finish(ProgressFinish::AndClear);
        let bar = MOVING.add(bar);
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Busy(Some(bar)))
    }

    /// Shows how far `steps` steps are.
    pub(crate) fn progress(&self, steps: u32) -> Progress {
        let bar = moves().then(|| {
            // Before the first step there is no loss to show, nor a speed to tell the time left from.
            let bar = ProgressBar::new(steps.into())
                .with_style(bar_style(columns(&Term::stderr()), false))
                .with_message("first step")
                .with_finish(ProgressFinish::AndClear);
            let bar = MOVING.add(bar);
            // Seen before the first step is done, and the time goes on where a step takes long.
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
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

fn columns(term: &Term) -> usize {
    let size = term.size_checked();
    size.map_or(PLAIN_WIDTH, |(_, columns)| columns.into())
}

fn bar_style(columns: usize, is_timed: bool) -> ProgressStyle {
    // What is left is drawn dim; without colours it would look like what is done.
    let chars = if console::colors_enabled_stderr() {
        "━╸━"
    } else {
        "━╸ "
    };
    style(bar_template(columns, is_timed)).progress_chars(chars)
}

fn bar_template(columns: usize, is_timed: bool) -> &'static str {
    match (columns < BAR_WIDTH, is_timed) {
        (true, _) => "{pos}/{len}  {wide_msg}",
        (false, false) => "{wide_bar:.cyan/black.bright} {pos}/{len}  {msg}",
        (false, true) => "{wide_bar:.cyan/black.bright} {pos}/{len}  {msg}  eta {eta}",
    }
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
        let message = format!("loss {loss:.3}  {} tokens/s", count(tokens_per_second));
        if let Some(bar) = &self.bar {
            if number == 1 {
                bar.set_style(bar_style(columns(&Term::stderr()), true));
            }
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

/// Stderr, between two pictures of what moves there.
struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        MOVING.suspend(|| io::stderr().lock().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// What went wrong, on stderr, with each cause on a line of its own.
pub(crate) fn complain(error: &anyhow::Error) {
    let label = console::style("error:").red().bold().for_stderr();
    let lines = reasons(error).join("\n  caused by: ");
    // Where stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{label} {lines}");
}

/// Says on stderr that the work was stopped.
pub(crate) fn interrupted() {
    let mut stderr = Term::stderr();
    if stderr.is_term() {
        // The terminal has written ^C where the cursor was.
        let _ = stderr.clear_line();
    }
    let _ = writeln!(stderr, "interrupted");
}

/// The error and its causes, without those that say again what was said before them.
fn reasons(error: &anyhow::Error) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = if cause.is::<InvalidScript>() {
            // Shows the place in the user's own file, below which the fault is marked.
            let lines: Vec<_> = text.lines().map(one_line).collect();
            lines.join("\n    ").trim_end().to_owned()
        } else {
            one_line(&text).into_owned()
        };
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
    }
    said
}

/// A number of things, with its thousands apart.
pub(crate) fn count(number: f64) -> HumanCount {
    // Rounded, and 0 where it is none.
    HumanCount(number.round() as u64)
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
        .with_writer(|| Log)
        .with_ansi(false)
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
    fn a_cause_is_said_once_and_cannot_steer_the_terminal() {
        let error = anyhow::anyhow!("refused\u{1b}[2J")
            .context("h: cannot connect")
            .context("h: cannot connect")
            .context("no session");
        assert_eq!(
            reasons(&error),
            ["no session", "h: cannot connect", "refused [2J"]
        );
        let said = anyhow::anyhow!("refused").context("h: refused");
        assert_eq!(reasons(&said), ["h: refused"]);
    }

    #[test]
    fn progress_tells_no_time_before_the_first_step() {
        for columns in [20, 200] {
            let template = bar_template(columns, false);
            assert!(
                !template.contains("eta") && !template.contains("loss"),
                "{template}"
            );
        }
        assert!(bar_template(200, true).contains("eta"));
    }

    #[test]
    fn a_script_of_faults_keeps_the_lines_of_its_error() {
        let error = tinkers_local::Faults::from_script("[[rule]]\non = \n").unwrap_err();
        let reasons = reasons(&anyhow::Error::new(error).context("the script"));
        let lines: Vec<&str> = reasons[1].lines().collect();
        assert!(
            lines.len() > 3 && lines.iter().any(|line| line.contains("on = ")),
            "{lines:?}"
        );
        assert!(
            lines[1..].iter().all(|line| line.starts_with("    ")),
            "{lines:?}"
        );
    }

    #[test]
    fn only_a_closed_pipe_counts_as_one() {
        let error = |kind| anyhow::Error::from(io::Error::from(kind));
        assert!(is_broken_pipe(&error(io::ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&error(io::ErrorKind::NotFound)));
        assert!(!is_broken_pipe(&anyhow::anyhow!("another")));
    }
}
