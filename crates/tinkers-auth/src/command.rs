//! The credential command, which prints a credential.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tinkers_core::{BoxFuture, Clock};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::claims::Claims;
use crate::failure::Failure;
use crate::token_cache::TokenSource;

/// The time limit of the command. A command that waits for input would otherwise block all requests.
const LIMIT: Duration = Duration::from_secs(60);
/// The maximum length of the output in bytes.
const MAX_OUTPUT: u64 = 64 << 10;

/// A credential command, and the clock for its time limit.
#[derive(Debug)]
pub(crate) struct CredentialCommand {
    pub(crate) command: SecretString,
    /// The name of the source of the command, for errors.
    pub(crate) source: &'static str,
    pub(crate) clock: Arc<dyn Clock>,
}

impl CredentialCommand {
    /// Runs the command in the system shell and returns its output without surrounding white space. Only the output counts, as in the
    /// official SDK: the exit code and stderr are ignored. Dropping the future kills the shell.
    ///
    /// # Errors
    /// If the shell cannot be started, the command does not end within a minute, or its output is empty, too long or an expired token.
    pub(crate) async fn run(&self) -> Result<SecretString, Failure> {
        let failure = |cause: &str| Failure::local(format!("{} {cause}", self.source));
        let spawned = shell(self.command.expose_secret())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        // Without the error of the system as text, which may contain the command.
        let mut child = spawned.map_err(|_| failure("cannot be run by the system shell"))?;
        let stdout = child.stdout.take();
        let child = Arc::new(Mutex::new(child));
        let _kill = KillOnDrop(Arc::clone(&child));
        let (sender, output) = oneshot::channel();
        let read = move || {
            let mut text = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT as usize + 1));
            let read = stdout.map(|stdout| stdout.take(MAX_OUTPUT + 1).read_to_end(&mut text));
            // The receiver may be gone.
            let _ = sender.send(read.is_some_and(|read| read.is_ok()).then_some(text));
            if let Ok(mut child) = child.lock() {
                let _ = child.wait();
            }
        };
        std::thread::Builder::new()
            .name("tinkers-credential".to_owned())
            .spawn(read)
            .map_err(|_| failure("cannot be run: no thread can be started"))?;
        let deadline = self.clock.now().after(LIMIT);
        let output = self.clock.deadline(deadline, output).await;
        let output = output.ok_or_else(|| failure("did not end within 60 s"))?;
        let output = output
            .ok()
            .flatten()
            .ok_or_else(|| failure("has no readable output"))?;
        let text = std::str::from_utf8(&output).unwrap_or_default().trim();
        if text.is_empty() || output.len() as u64 > MAX_OUTPUT {
            return Err(failure(
                "printed no credential; it must print an API key or a JWT",
            ));
        }
        if Claims::is_token(text) {
            let claims = Claims::of(text).ok_or_else(|| failure("printed an invalid JWT"))?;
            let left = claims.left(self.clock.wall());
            if left.is_some_and(|left| left.is_zero()) {
                return Err(failure("printed a JWT that has expired"));
            }
        }
        Ok(SecretString::from(text))
    }
}

impl TokenSource for CredentialCommand {
    fn fetch(&self, _attempts: u32) -> BoxFuture<'_, Result<SecretString, Failure>> {
        Box::pin(self.run())
    }
}

fn shell(text: &str) -> Command {
    let (program, option) = match cfg!(windows) {
        true => ("cmd", "/C"),
        false => ("/bin/sh", "-c"),
    };
    let mut command = Command::new(program);
    command.arg(option).arg(text);
    command
}

/// A guard that kills a child process when it is dropped, unless the process has closed its output and is waited for.
struct KillOnDrop(Arc<Mutex<Child>>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Ok(mut child) = self.0.try_lock() {
            let _ = child.kill();
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::claims::tests::token;
    use tinkers_core::ManualClock;

    async fn run(text: &str) -> Result<SecretString, Failure> {
        let command = CredentialCommand {
            command: text.into(),
            source: "TINKER_CREDENTIAL_CMD",
            clock: Arc::new(ManualClock::new()),
        };
        command.run().await
    }

    #[tokio::test]
    async fn only_the_trimmed_output_of_the_command_counts() {
        let output = run("echo '  tml-hush '; echo noise >&2; exit 3").await;
        assert_eq!(output.expect("a key").expose_secret(), "tml-hush");
    }

    #[tokio::test]
    async fn command_without_a_usable_credential_fails_by_name() {
        let expired = token(&serde_json::json!({ "exp": 0 }));
        for (text, cause) in [
            ("true".to_owned(), "printed no credential"),
            ("echo eyJhush".to_owned(), "invalid JWT"),
            (format!("echo {expired}"), "has expired"),
        ] {
            let failure = run(&text).await.expect_err("no credential");
            let shown = failure.to_string();
            assert!(shown.contains("TINKER_CREDENTIAL_CMD"), "{shown}");
            assert!(shown.contains(cause), "{shown}");
            assert!(!shown.contains("eyJ"), "{shown}");
        }
    }

    #[tokio::test]
    async fn hanging_command_is_killed_when_its_future_is_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pid");
        let text = format!("echo $$ > {}; exec sleep 600", path.display());
        let clock = ManualClock::new();
        let command = CredentialCommand {
            command: text.into(),
            source: "TINKER_CREDENTIAL_CMD",
            clock: Arc::new(clock.clone()),
        };
        let wait = async {
            while !std::fs::read_to_string(&path).is_ok_and(|pid| pid.ends_with('\n')) {
                tokio::task::yield_now().await;
            }
            clock.advance(LIMIT);
            std::future::pending::<()>().await;
        };
        let failure = tokio::select! {
            biased;
            failure = command.run() => failure.expect_err("it hangs"),
            () = wait => unreachable!("it never ends"),
        };
        assert!(failure.to_string().contains("within 60 s"), "{failure}");
        let pid = std::fs::read_to_string(&path).expect("a pid");
        let process = format!("/proc/{}/stat", pid.trim());
        // The process is gone when its reader thread has waited for it.
        while std::fs::read_to_string(&process).is_ok_and(|stat| stat.contains("(sleep)")) {
            tokio::task::yield_now().await;
        }
    }
}
