//! Runs the program with a time limit, and kills it when the test ends.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The time limit of a program run. Only a program that hangs reaches it.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The environment variables that the tests clear, so that they do not depend on the environment.
const CLEARED_VARIABLES: [&str; 22] = [
    "TINKER_CREDENTIAL_CMD",
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

/// A running program. Its output is read line by line. Dropping this value kills the process.
pub(crate) struct Program {
    child: Arc<Mutex<Child>>,
    lines: Receiver<Line>,
    /// The number of output streams (stdout and stderr) that are still open.
    open_streams: usize,
    stdout: String,
    stderr: String,
    is_overdue: Arc<AtomicBool>,
    /// A channel to the watchdog thread. The thread ends when this value is dropped.
    _watchdog: Sender<()>,
}

/// The exit code and the output of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; `None` if a signal killed the process.
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
    /// Starts the program with its home directory set to `home`. All environment variables that it reads are cleared.
    pub(crate) fn start(home: &Path, arguments: &[&str]) -> Self {
        Self::start_with(home, arguments, &[])
    }

    /// Starts the program like [`Program::start`], with additional environment variables.
    pub(crate) fn start_with(home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinkers"));
        with_clean_environment(&mut command, home);
        command.args(arguments).envs(variables.iter().copied());
        Self::spawn(command)
    }

    /// Starts the program like [`Program::start`], with `input` on stdin.
    pub(crate) fn start_with_input(home: &Path, arguments: &[&str], input: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinkers"));
        with_clean_environment(&mut command, home);
        command.args(arguments).stdin(Stdio::piped());
        let program = Self::spawn_with(command);
        let stdin = program.lock().stdin.take();
        // The program may have ended before it reads.
        let _ = stdin.unwrap().write_all(input.as_bytes());
        program
    }

    /// Starts the program like [`Program::start`], with a file size limit.
    #[cfg(unix)]
    pub(crate) fn start_with_file_size_limit(
        home: &Path,
        arguments: &[&str],
        kilobytes: u32,
    ) -> Self {
        let mut command = Command::new("bash");
        with_clean_environment(&mut command, home);
        let script = format!("ulimit -f {kilobytes} && exec \"$@\"");
        command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_tinkers")]);
        command.args(arguments);
        Self::spawn(command)
    }

    /// Starts the program like [`Program::start`], with SIGHUP ignored.
    #[cfg(unix)]
    pub(crate) fn start_under_nohup(home: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("bash");
        with_clean_environment(&mut command, home);
        let script = "trap '' HUP && exec \"$@\"";
        command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_tinkers")]);
        command.args(arguments);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        Self::spawn_with(command)
    }

    fn spawn_with(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        read(child.stdout.take().unwrap(), Line::Stdout, sender.clone());
        read(child.stderr.take().unwrap(), Line::Stderr, sender);
        let child = Arc::new(Mutex::new(child));
        let is_overdue = Arc::new(AtomicBool::new(false));
        let watchdog = start_watchdog(Arc::clone(&child), Arc::clone(&is_overdue));
        Self {
            child,
            lines,
            open_streams: 2,
            stdout: String::new(),
            stderr: String::new(),
            is_overdue,
            _watchdog: watchdog,
        }
    }

    /// Waits for a line on stdout that starts with `start`, and returns the text after `start`.
    pub(crate) fn line(&mut self, start: &str) -> String {
        while let Some(line) = self.next() {
            if let Line::Stdout(line) = line
                && let Some(rest) = line.strip_prefix(start)
            {
                return rest.to_owned();
            }
        }
        panic!("the program ended without a line {start:?}\n{self}");
    }

    /// Returns the process id.
    #[cfg(unix)]
    pub(crate) fn id(&self) -> u32 {
        self.lock().id()
    }

    /// Sends a signal by its name, such as `INT`.
    #[cfg(unix)]
    pub(crate) fn signal(&self, name: &str) {
        let id = self.lock().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success(), "kill -s {name} {id}");
    }

    /// Waits until a program that was interrupted ends. Panics if the program prints nothing and does not end for 15 s. This time
    /// is long enough for a busy machine and shorter than every request timeout.
    #[cfg(unix)]
    pub(crate) fn finish_promptly(mut self) -> Outcome {
        const PROMPTLY: Duration = Duration::from_secs(15);
        while self.open_streams > 0 {
            let line = self.lines.recv_timeout(PROMPTLY);
            let line = line
                .unwrap_or_else(|_| panic!("the program did not end after an interrupt\n{self}"));
            self.take(line);
        }
        self.finish()
    }

    /// Waits until the program ends.
    pub(crate) fn finish(mut self) -> Outcome {
        while self.next().is_some() {}
        // Both streams are closed, so the process is ending.
        let status = self.lock().wait().unwrap();
        assert!(
            !self.is_overdue.load(Ordering::SeqCst),
            "the program exceeded the time limit\n{self}"
        );
        Outcome {
            code: status.code(),
            stdout: std::mem::take(&mut self.stdout),
            stderr: std::mem::take(&mut self.stderr),
        }
    }

    fn next(&mut self) -> Option<Line> {
        while self.open_streams > 0 {
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
                self.open_streams -= 1;
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
        // This fails if the process has already ended.
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
    /// Returns the output on stdout and stderr together.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Asserts that the program succeeded.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Asserts that the program exited with `code`, wrote nothing to stdout, and wrote a text to stderr that contains each of
    /// `needles`.
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

/// Runs the program to its end.
pub(crate) fn run(home: &Path, arguments: &[&str]) -> Outcome {
    Program::start(home, arguments).finish()
}

/// Clears the environment variables that the program reads, and sets its home directory.
pub(crate) fn with_clean_environment<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    for name in CLEARED_VARIABLES {
        command.env_remove(name);
    }
    command
        .env("HOME", home)
        .env("XDG_DATA_HOME", home)
        .env("APPDATA", home)
}

fn read(
    stream: impl Read + Send + 'static,
    wrap: impl Fn(String) -> Line + Send + 'static,
    sender: Sender<Line>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // The thread continues to read after the receiver is gone, since the program would block on a full pipe.
            let _ = sender.send(wrap(line));
        }
        let _ = sender.send(Line::End);
    });
}

fn start_watchdog(child: Arc<Mutex<Child>>, is_overdue: Arc<AtomicBool>) -> Sender<()> {
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(TIME_LIMIT) == Err(RecvTimeoutError::Timeout) {
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
