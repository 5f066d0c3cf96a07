//! `tinkers checkpoint delete`: shows what will be deleted, asks, deletes, and reports each failure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::Result;
use serde_json::{Value, json};
use tinkers::rest::{Checkpoint, FailedDelete};
use tinkers::{Error, ErrorKind, RestClient, Sent};

use super::cells::size_text;
use super::connection::{client, now};
use super::find::{CHECKPOINTS, find};
use super::table::{List, Table, field, print_json};
use crate::args::{FilterArgs, ManageArgs, OutputFormat, is_checkpoint_path};
use crate::blocking::run_blocking;
use crate::exit::{self, ExitCode, Failed};
use crate::output::{self, Counter, Screen, TextStream};

/// The number of deletions between two updates of the progress bar. The client sends as many at a time.
const BATCH: usize = 16;

/// The largest number of checkpoints that are shown before the question.
const SHOWN: usize = 50;

/// The outcome of each deletion, for CSV.
const OUTCOMES: Table = Table {
    list: "checkpoints",
    noun: "checkpoints",
    fields: &[field("tinker_path"), field("deleted"), field("error")],
    columns: &[],
};

/// Deletes the checkpoints at these paths, or those that match the filter.
///
/// # Errors
/// If the checkpoints cannot be listed, the user does not agree, or a deletion fails, after the other deletions.
pub(super) async fn execute(
    args: &ManageArgs,
    paths: &[String],
    filter: &FilterArgs,
    is_agreed: bool,
) -> Result<()> {
    let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !is_agreed && !can_ask {
        let message = "cannot ask whether to delete, since there is no terminal; nothing is deleted: add --yes";
        return Err(Failed::new(ExitCode::Usage, message).into());
    }
    let client = client(args)?;
    let mut paths = paths.to_vec();
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    let chosen = match paths.is_empty() {
        true => find(&client, filter, None).await?.items,
        // The sizes are only needed for the question.
        false if is_agreed => Vec::new(),
        false => look_up(&client, &paths).await?,
    };
    if paths.is_empty() {
        paths = chosen.iter().map(|one| one.tinker_path.clone()).collect();
    }
    if paths.is_empty() {
        return report(args.format(), &[], &[]);
    }
    if is_agreed {
        show(args, &chosen)?;
    } else if !confirm(args, &chosen).await? {
        let message = "not confirmed; nothing is deleted";
        return Err(Failed::new(ExitCode::Failure, message).into());
    }
    let (deleted, failed) = delete(&client, &paths).await?;
    let reported = report(args.format(), &deleted, &failed);
    let worst = failed.iter().max_by_key(|one| exit::code_of(&one.error));
    let Some(worst) = worst else {
        return reported;
    };
    // The exit code and the next step are those of the worst failure, also if stdout is closed or full: a script must not take a failed
    // deletion for a success.
    let mut message = format!("{} of {} deletions failed", failed.len(), paths.len());
    if let Err(error) = reported {
        message += &format!("; the report cannot be written: {error}");
    }
    Err(anyhow::Error::new(worst.error.clone()).context(message))
}

/// Returns the descriptions of the checkpoints at these paths. Unknown checkpoints have no size.
async fn look_up(client: &RestClient, paths: &[String]) -> Result<Vec<Checkpoint>> {
    let mut by_path = BTreeMap::new();
    let runs = paths.iter().filter_map(|path| run_of(path));
    let runs: BTreeSet<&str> = runs.collect();
    for run in runs {
        match client.list_checkpoints(run).await {
            Ok(all) => by_path.extend(all.into_iter().map(|one| (one.tinker_path.clone(), one))),
            // The deletion reports that the run does not exist.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let unknown = |path: &String| {
        let id = path.rsplitn(3, '/').collect::<Vec<_>>();
        let id = format!("{}/{}", id[1], id[0]);
        let kind = tinkers::rest::CheckpointType::Other("not found".to_owned());
        Checkpoint::new(id, kind, "", path.clone())
    };
    let found = paths.iter().map(|path| {
        let known = by_path.get(path).cloned();
        known.unwrap_or_else(|| unknown(path))
    });
    Ok(found.collect())
}

fn run_of(path: &str) -> Option<&str> {
    path.strip_prefix("tinker://")?.split('/').next()
}

/// Returns the number of checkpoints with their total size and the server, such as `2 checkpoints (2.0 KB) on the hosted service`.
fn summary(args: &ManageArgs, chosen: &[Checkpoint]) -> String {
    let sizes = chosen.iter().filter_map(|one| one.size_bytes);
    let size = sizes.fold(0, u64::saturating_add);
    let is_known = chosen.iter().all(|one| one.size_bytes.is_some());
    format!(
        "{} checkpoint{} ({}{}) on {}",
        chosen.len(),
        if chosen.len() == 1 { "" } else { "s" },
        if is_known { "" } else { "at least " },
        size_text(size),
        args.server_name()
    )
}

/// Writes the path and the size of each checkpoint that the filter has chosen to stderr, so that a log shows what was deleted without a
/// question. Writes nothing if the paths come from the command line, where they are known.
///
/// # Errors
/// If stderr cannot be written. The error is not that of a closed pipe, with which the program would report success.
fn show(args: &ManageArgs, chosen: &[Checkpoint]) -> Result<()> {
    if chosen.is_empty() {
        return Ok(());
    }
    let mut text = format!("deleting {}", summary(args, chosen));
    for one in chosen {
        let size = one.size_bytes.map(size_text);
        let size = size.as_deref().unwrap_or("unknown size");
        text += &format!("\n  {} ({size})", output::one_line(&one.tinker_path));
    }
    let shown = Screen::new(TextStream::Stderr).line(text);
    shown.map_err(|error| {
        let message = format!("cannot show the checkpoints on stderr; nothing is deleted: {error}");
        Failed::new(ExitCode::Failure, message).into()
    })
}

/// Shows the checkpoints, and asks whether to delete them.
async fn confirm(args: &ManageArgs, chosen: &[Checkpoint]) -> Result<bool> {
    let screen = Screen::new(TextStream::Stderr);
    let shown = List::new(chosen.iter().take(SHOWN), false)?;
    screen.line(CHECKPOINTS.text(&shown.rows, now()))?;
    if chosen.len() > SHOWN {
        screen.line(format_args!("and {} more", chosen.len() - SHOWN))?;
    }
    let question = format!(
        "Delete {}? Deleted checkpoints cannot be restored. [y/N] ",
        summary(args, chosen)
    );
    let answer = run_blocking(move || -> io::Result<String> {
        write!(io::stderr().lock(), "{question}")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.await??;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

/// A checkpoint that could not be deleted.
struct Failure {
    tinker_path: String,
    error: Error,
}

impl From<FailedDelete> for Failure {
    fn from(failed: FailedDelete) -> Self {
        Self {
            tinker_path: failed.tinker_path,
            error: failed.error,
        }
    }
}

/// The number of deletions so far. If it is dropped before the end, since a signal interrupted the command, it says so on stderr.
struct Tally {
    deleted: usize,
    total: usize,
    is_complete: bool,
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.is_complete {
            let Self { deleted, total, .. } = self;
            // A failure to write to stderr cannot be reported.
            let _ = Screen::new(TextStream::Stderr).line(format_args!(
                "at least {deleted} of {total} checkpoints are deleted; `tinkers checkpoint list` shows the others"
            ));
        }
    }
}

async fn delete(client: &RestClient, paths: &[String]) -> Result<(Vec<String>, Vec<Failure>)> {
    let mut tally = Tally {
        deleted: 0,
        total: paths.len(),
        is_complete: false,
    };
    let total = u64::try_from(paths.len()).ok();
    let counter = Counter::start("deleting".to_owned(), total);
    let (mut deleted, mut failed) = (Vec::new(), Vec::new());
    for batch in paths.chunks(BATCH) {
        // Some servers list paths of other forms.
        let (valid, invalid): (Vec<&String>, Vec<&String>) =
            batch.iter().partition(|path| is_checkpoint_path(path));
        failed.extend(invalid.into_iter().map(|path| Failure {
            tinker_path: path.clone(),
            error: unknown_form(path),
        }));
        let outcome = client.delete_checkpoints(valid).await?;
        deleted.extend(outcome.deleted);
        failed.extend(outcome.failed.into_iter().map(Failure::from));
        counter.set((deleted.len() + failed.len()) as u64);
        tally.deleted = deleted.len();
    }
    tally.is_complete = true;
    Ok((deleted, failed))
}

fn unknown_form(path: &str) -> Error {
    let message = format!("the path {path} has a form that this version cannot delete");
    Error::new(ErrorKind::Unsupported, Sent::NotSent, message)
}

fn report(format: OutputFormat, deleted: &[String], failed: &[Failure]) -> Result<()> {
    let text = |failure: &Failure| output::one_line(&failure.error.to_string()).into_owned();
    match format {
        OutputFormat::Table => {
            for failure in failed {
                Screen::new(TextStream::Stderr).line(format_args!(
                    "not deleted: {}: {}",
                    output::one_line(&failure.tinker_path),
                    text(failure)
                ))?;
            }
            if !deleted.is_empty() || failed.is_empty() {
                output::print_line(format_args!(
                    "deleted {} checkpoint{}",
                    deleted.len(),
                    if deleted.len() == 1 { "" } else { "s" }
                ))?;
            }
            Ok(())
        }
        OutputFormat::Json => {
            let failed = failed
                .iter()
                .map(|one| json!({"tinker_path": one.tinker_path, "error": text(one)}));
            print_json(&json!({
                "deleted_count": deleted.len(),
                "failed": failed.collect::<Vec<_>>(),
            }))
        }
        OutputFormat::Csv => {
            let done = deleted
                .iter()
                .map(|path| json!({"tinker_path": path, "deleted": true}));
            let not = failed.iter().map(
                |one| json!({"tinker_path": one.tinker_path, "deleted": false, "error": text(one)}),
            );
            let rows: Vec<Value> = done.chain(not).collect();
            Ok(io::stdout().lock().write_all(&OUTCOMES.csv(&rows)?)?)
        }
    }
}
