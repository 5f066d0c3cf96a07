//! A run of the program that cannot outlive its test, nor a limit.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Far above what any run takes; whatever reaches it hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// What the environment of whoever runs the tests must not change.
const FOREIGN: [&str; 21] = [
    "CLOUDFLARE_ACCESS_CLIENT_ID",
    "CLOUDFLARE_ACCESS_CLIENT_SECRET",
    "REQUEST_METHOD",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TINKER_PROJECT_ID",
    "TINKER_TAGS",
    "TINKER_BASE_URL",
    "TINKER_API_KEY",
    "TINKER_LOG",
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// One run. Its streams are pipes, read line by line; dropping it kills it.
pub(crate) struct Program {
    child: Arc<Mutex<Child>>,
    lines: Receiver<Line>,
    /// Two until both streams have ended.
    open: usize,
    stdout: String,
    stderr: String,
    is_overdue: Arc<AtomicBool>,
    /// Ends the watch when it goes.
    _watch: Sender<()>,
}

/// How a run ended and everything that it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

enum Line {
    Stdout(String),
    Stderr(String),
    End,
}

impl Program {
    /// Runs it with these arguments and an environment that says nothing to it; it keeps its data in `home`.
    pub(crate) fn start(home: &Path, arguments: &[&str]) -> Self {
        Self::start_with(home, arguments, &[])
    }

    /// The same, with these variables.
    pub(crate) fn start_with(home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = quiet(Command::new(env!("CARGO_BIN_EXE_tinkers")), home);
        command.args(arguments).envs(variables.iter().copied());
        Self::spawn(command)
    }

    /// The same, where files can have so many kilobytes at most.
    #[cfg(unix)]
    pub(crate) fn start_with_small_files(home: &Path, arguments: &[&str], kilobytes: u32) -> Self {
        let mut command = quiet(Command::new("bash"), home);
        let script = format!("ulimit -f {kilobytes} && exec \"$@\"");
        command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_tinkers")]);
        command.args(arguments);
        Self::spawn(command)
    }

    /// The same, ignoring SIGHUP from the start.
    #[cfg(unix)]
    pub(crate) fn start_under_nohup(home: &Path, arguments: &[&str]) -> Self {
        let mut command = quiet(Command::new("bash"), home);
        let script = "trap '' HUP && exec \"$@\"";
        command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_tinkers")]);
        command.args(arguments);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        read(child.stdout.take().unwrap(), Line::Stdout, sender.clone());
        read(child.stderr.take().unwrap(), Line::Stderr, sender);
        let child = Arc::new(Mutex::new(child));
        let is_overdue = Arc::new(AtomicBool::new(false));
        let watch = watch(Arc::clone(&child), Arc::clone(&is_overdue));
        Self {
            child,
            lines,
            open: 2,
            stdout: String::new(),
            stderr: String::new(),
            is_overdue,
            _watch: watch,
        }
    }

    /// Waits for a line on stdout that opens with `start` and gives what follows there.
    pub(crate) fn line(&mut self, start: &str) -> String {
        while let Some(line) = self.next() {
            if let Line::Stdout(line) = line
                && let Some(rest) = line.strip_prefix(start)
            {
                return rest.to_owned();
            }
        }
        panic!("it ended without a line {start:?}\n{self}");
    }

    /// The id of the process.
    #[cfg(unix)]
    pub(crate) fn id(&self) -> u32 {
        self.lock().id()
    }

    /// Sends a signal by its name, as `INT`.
    #[cfg(unix)]
    pub(crate) fn signal(&self, name: &str) {
        let id = self.lock().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success(), "kill -s {name} {id}");
    }

    /// Waits for its end after an interrupt, which comes at once whatever a server does. The limit is far above what it takes on
    /// a busy machine, and below every timeout of a request.
    #[cfg(unix)]
    pub(crate) fn finish_promptly(mut self) -> Outcome {
        const PROMPTLY: Duration = Duration::from_secs(15);
        while self.open > 0 {
            let line = self.lines.recv_timeout(PROMPTLY);
            let line = line.unwrap_or_else(|_| panic!("it goes on after an interrupt\n{self}"));
            self.take(line);
        }
        self.finish()
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Outcome {
        while self.next().is_some() {}
        // Both streams are closed, which the program does by ending.
        let status = self.lock().wait().unwrap();
        assert!(!self.is_overdue.load(Ordering::SeqCst), "it hung\n{self}");
        Outcome {
            code: status.code(),
            stdout: std::mem::take(&mut self.stdout),
            stderr: std::mem::take(&mut self.stderr),
        }
    }

    fn next(&mut self) -> Option<Line> {
        while self.open > 0 {
            let line = self.lines.recv().ok()?;
            if let Some(line) = self.take(line) {
                return Some(line);
            }
        }
        None
    }

    fn take(&mut self, line: Line) -> Option<Line> {
        match &line {
            Line::Stdout(line) => push(&mut self.stdout, line),
            Line::Stderr(line) => push(&mut self.stderr, line),
            Line::End => {
                self.open -= 1;
                return None;
            }
        }
        Some(line)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let mut child = self.lock();
        // Of one that has ended nothing is left to kill.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stdout:\n{}stderr:\n{}", self.stdout, self.stderr)
    }
}

impl Outcome {
    /// All that was written.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// It did what it was asked to.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// It ended with `code`, nothing on stdout and all of these on stderr.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, needles: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        for needle in needles {
            assert!(self.stderr.contains(needle), "no {needle:?} in {self:#?}");
        }
        self
    }
}

/// One whole run.
pub(crate) fn run(home: &Path, arguments: &[&str]) -> Outcome {
    Program::start(home, arguments).finish()
}

/// In an environment that says nothing to it, with its data in `home`.
fn quiet(mut command: Command, home: &Path) -> Command {
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
        .env("HOME", home)
        .env("XDG_DATA_HOME", home)
        .env("APPDATA", home);
    command
}

fn read(
    stream: impl Read + Send + 'static,
    wrap: impl Fn(String) -> Line + Send + 'static,
    sender: Sender<Line>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Whoever no longer listens has seen enough; the stream is read on, so that the program does not block.
            let _ = sender.send(wrap(line));
        }
        let _ = sender.send(Line::End);
    });
}

fn watch(child: Arc<Mutex<Child>>, is_overdue: Arc<AtomicBool>) -> Sender<()> {
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            is_overdue.store(true, Ordering::SeqCst);
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
        }
    });
    sender
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
