//! Terminal output: text, progress bars, the log and errors.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use console::{StyledObject, Term};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};
use tinkers_local::InvalidScript;

use crate::exit;

/// The width of human-readable output in columns if the stream is not a terminal.
const DEFAULT_WIDTH: usize = 100;

/// The minimum width in which text is laid out, in columns. The maximum is [`MAX_WIDTH`].
const MIN_WIDTH: usize = 24;
const MAX_WIDTH: usize = 120;

/// The minimum width in columns at which a progress bar is shown beside its numbers.
const MIN_BAR_WIDTH: usize = 64;

/// The progress bars on stderr. They are hidden while a log line is written.
static PROGRESS_BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The stream for human-readable output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextStream {
    /// All output goes to stdout.
    Stdout,
    /// Human-readable output goes to stderr, since stdout is reserved for one JSON object.
    Stderr,
}

/// Human-readable output. Progress is shown as bars if stderr is a terminal, otherwise as plain lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    stream: TextStream,
}

impl Screen {
    pub(crate) fn new(stream: TextStream) -> Self {
        Self { stream }
    }

    /// Writes a line.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        match self.stream {
            TextStream::Stdout => writeln!(io::stdout().lock(), "{text}"),
            TextStream::Stderr => writeln!(io::stderr().lock(), "{text}"),
        }
    }

    /// Writes an empty line and the heading of a section.
    pub(crate) fn heading(&self, text: &str) -> io::Result<()> {
        self.line(format_args!("\n{}", self.style(text).bold()))
    }

    /// Wraps text so that a style can be applied to it. The style has no effect if the stream is not a terminal or NO_COLOR is set.
    pub(crate) fn style<D>(&self, text: D) -> StyledObject<D> {
        match self.stream {
            TextStream::Stdout => console::style(text),
            TextStream::Stderr => console::style(text).for_stderr(),
        }
    }

    /// Returns the width for laying out text, in columns.
    pub(crate) fn width(&self) -> usize {
        columns(&match self.stream {
            TextStream::Stdout => Term::stdout(),
            TextStream::Stderr => Term::stderr(),
        })
        .clamp(MIN_WIDTH, MAX_WIDTH)
    }

    /// Shows a spinner until the returned guard is dropped. Without a terminal, writes a line instead.
    pub(crate) fn busy(&self, task: impl Into<Cow<'static, str>>) -> io::Result<Busy> {
        let task = task.into();
        if !is_interactive() {
            self.line(format_args!("{task} ..."))?;
            return Ok(Busy(None));
        }
        let style = style("{spinner:.cyan} {wide_msg}");
        let bar = ProgressBar::new_spinner()
            .with_style(style)
            .with_message(task)
            .with_finish(ProgressFinish::AndClear);
        let bar = PROGRESS_BARS.add(bar);
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Busy(Some(bar)))
    }

    /// Shows the progress of a training run of `steps` steps.
    pub(crate) fn progress(&self, steps: u32) -> Progress {
        let bar = is_interactive().then(|| {
            // The loss and the remaining time are unknown before the first step.
            let bar = ProgressBar::new(steps.into())
                .with_style(bar_style(columns(&Term::stderr()), false))
                .with_message("first step")
                .with_finish(ProgressFinish::AndClear);
            let bar = PROGRESS_BARS.add(bar);
            // Draws the bar before the first step, and updates the time during long steps.
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

/// Returns whether progress bars can be drawn on stderr.
fn is_interactive() -> bool {
    io::stderr().is_terminal()
}

fn columns(term: &Term) -> usize {
    let size = term.size_checked();
    size.map_or(DEFAULT_WIDTH, |(_, columns)| columns.into())
}

fn bar_style(columns: usize, is_timed: bool) -> ProgressStyle {
    // The remaining part of the bar is dimmed. Without colours it is blank instead, to differ from the completed part.
    let chars = if console::colors_enabled_stderr() {
        "━╸━"
    } else {
        "━╸ "
    };
    style(bar_template(columns, is_timed)).progress_chars(chars)
}

fn bar_template(columns: usize, is_timed: bool) -> &'static str {
    match (columns < MIN_BAR_WIDTH, is_timed) {
        (true, _) => "{pos}/{len}  {wide_msg}",
        (false, false) => "{wide_bar:.cyan/black.bright} {pos}/{len}  {msg}",
        (false, true) => "{wide_bar:.cyan/black.bright} {pos}/{len}  {msg}  eta {eta}",
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is valid")
}

/// A guard that shows a spinner until the guard is dropped.
#[derive(Debug)]
pub(crate) struct Busy(
    #[expect(dead_code, reason = "dropping it clears the line")] Option<ProgressBar>,
);

/// The progress display of a training run.
#[derive(Debug)]
pub(crate) struct Progress {
    screen: Screen,
    bar: Option<ProgressBar>,
    steps: u32,
}

impl Progress {
    /// Reports the completion of step `number`, counted from 1.
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
        // About ten lines are printed in total, including the first and the last step.
        let every = self.steps.div_ceil(10);
        if number == 1 || number == self.steps || number.is_multiple_of(every) {
            return self
                .screen
                .line(format_args!("step {number}/{}  {message}", self.steps));
        }
        Ok(())
    }
}

/// A counter on stderr for long lists and many deletions. It is shown only on a terminal, and removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Counter(Option<ProgressBar>);

impl Counter {
    /// Starts at 0. With a total, the counter is a bar.
    pub(crate) fn start(task: String, total: Option<u64>) -> Self {
        let bar = is_interactive().then(|| {
            let (bar, template) = match total {
                Some(total) => (ProgressBar::new(total), "{msg} {bar:30} {pos}/{len}"),
                None => (
                    ProgressBar::new_spinner(),
                    "{spinner:.cyan} {msg}: {human_pos}",
                ),
            };
            let bar = bar
                .with_style(style(template))
                .with_message(task)
                .with_finish(ProgressFinish::AndClear);
            let bar = PROGRESS_BARS.add(bar);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self(bar)
    }

    /// Sets the number of items that are done.
    pub(crate) fn set(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }
}

/// Prints one JSON object on stdout.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(value).context("cannot encode the result as JSON")?;
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Prints a line on stdout and flushes stdout. Without the flush, a pipe would not receive the line at once.
pub(crate) fn print_line(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// A writer to stderr that hides the progress bars while it writes.
struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        PROGRESS_BARS.suspend(|| io::stderr().lock().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Prints an error and its causes on stderr, each on its own line, and what to do about it.
pub(crate) fn print_error(error: &anyhow::Error) {
    let label = console::style("error:").red().bold().for_stderr();
    let lines = error_chain(error).join("\n  caused by: ");
    let mut stderr = io::stderr().lock();
    // A failure to write to stderr cannot be reported.
    let _ = writeln!(stderr, "{label} {lines}");
    if let Some(step) = exit::next_step(error) {
        let label = console::style("next step:").bold().for_stderr();
        let _ = writeln!(stderr, "{label} {step}");
    }
}

/// Prints on stderr that the command was interrupted.
pub(crate) fn print_interrupted() {
    let mut stderr = Term::stderr();
    if stderr.is_term() {
        // The terminal has printed ^C on the current line.
        let _ = stderr.clear_line();
    }
    let _ = writeln!(stderr, "interrupted");
}

/// Returns the messages of an error and of its causes. Leaves out a cause whose text is already part of an earlier message.
fn error_chain(error: &anyhow::Error) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = if cause.is::<InvalidScript>() {
            // This error quotes the invalid line of the fault script and marks the place below it.
            let lines: Vec<_> = text.lines().map(one_line).collect();
            lines.join("\n    ").trim_end().to_owned()
        } else {
            one_line(&text).into_owned()
        };
        if !messages.iter().any(|message| message.contains(&text)) {
            messages.push(text);
        }
    }
    messages
}

/// Formats a count with thousands separators.
pub(crate) fn count(number: f64) -> HumanCount {
    // Negative numbers and NaN become 0.
    HumanCount(number.round() as u64)
}

/// Replaces control characters by spaces, so that untrusted text cannot move the cursor or change colours.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    Cow::Owned(printable.collect())
}

/// Returns whether the error is a broken pipe. The reader of the pipe, for example `| head`, may have ended.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Starts logging to stderr with a filter.
pub(crate) fn init_log(filter: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        let message = format!("cannot parse the filter {filter} of --log (or TINKER_LOG): {error}");
        exit::Failed::new(exit::ExitCode::Usage, message)
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter)
        .with_ansi(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("cannot start the log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_messages_are_replaced() {
        assert_eq!(one_line("a\u{1b}[31mb\nc\u{9b}d"), "a [31mb c d");
        assert!(matches!(one_line("plain ü"), Cow::Borrowed("plain ü")));
    }

    #[test]
    fn repeated_error_causes_are_printed_once() {
        let error = anyhow::anyhow!("refused\u{1b}[2J")
            .context("h: cannot connect")
            .context("h: cannot connect")
            .context("no session");
        assert_eq!(
            error_chain(&error),
            ["no session", "h: cannot connect", "refused [2J"]
        );
        let repeated = anyhow::anyhow!("refused").context("h: refused");
        assert_eq!(error_chain(&repeated), ["h: refused"]);
    }

    #[test]
    fn progress_hides_the_remaining_time_before_the_first_step() {
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
    fn fault_script_error_keeps_its_line_breaks() {
        let error = tinkers_local::Faults::from_script("[[rule]]\non = \n").unwrap_err();
        let messages = error_chain(&anyhow::Error::new(error).context("the script"));
        let lines: Vec<&str> = messages[1].lines().collect();
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
    fn broken_pipe_is_distinguished_from_other_errors() {
        let error = |kind| anyhow::Error::from(io::Error::from(kind));
        assert!(is_broken_pipe(&error(io::ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&error(io::ErrorKind::NotFound)));
        assert!(!is_broken_pipe(&anyhow::anyhow!("another")));
    }
}
