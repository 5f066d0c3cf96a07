//! The server, which runs in a separate process, so that measurements of this process cover only
//! the clients.

use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tinkers_local::{BlockingServer, Faults, LocalConfig, LocalServer, ScriptedEngine, TokioSpawn};
use tinkers_transport::TokioClock;

use super::control::Control;
use super::engine::{OrderedEngine, script};
use super::profile::Profile;
use crate::stopwatch::{Stopwatch, short_sleep};

/// The first command-line argument with which the program runs as the server instead of the
/// clients.
pub const SERVE: &str = "serve-for-stress";

/// The time that the server process may take to exit after its stdin has been closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the server of a profile until stdin ends. Prints the URL of the server at the start, and
/// the statistics of the server after each line that it reads from stdin.
///
/// # Errors
/// Fails if the arguments are invalid or the server cannot start.
pub fn serve(arguments: &[String]) -> Result<(), String> {
    let [name, seed, millis, control] = arguments else {
        return Err("expected the arguments PROFILE SEED MILLISECONDS CONTROL".to_owned());
    };
    let control = Control::named(control);
    let profile = Profile::named(name).ok_or_else(|| format!("unknown profile {name:?}"))?;
    let number = |text: &String| text.parse::<u64>().map_err(|error| error.to_string());
    let (seed, length) = (number(seed)?, Duration::from_millis(number(millis)?));
    let faults = match profile.script(seed, length) {
        Some(script) => Faults::from_script(&script).map_err(|error| error.to_string())?,
        None => Faults::new(),
    };
    let parts = Parts::start(profile, control, faults).map_err(|error| error.to_string())?;
    print_line(&json!({ "url": parts.server.url() }))?;
    for line in stdin().lines() {
        line.map_err(|error| error.to_string())?;
        print_line(&parts.counts())?;
    }
    Ok(())
}

fn print_line(value: &Value) -> Result<(), String> {
    let mut out = stdout().lock();
    writeln!(out, "{value}")
        .and_then(|()| out.flush())
        .map_err(|error| error.to_string())
}

struct Parts {
    server: BlockingServer,
    local: LocalServer,
    engine: Arc<ScriptedEngine>,
    order: Arc<OrderedEngine>,
    faults: Faults,
}

impl Parts {
    fn start(
        profile: Profile,
        control: Option<Control>,
        faults: Faults,
    ) -> Result<Self, tinkers_local::ServeError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let faults_of_server = faults.clone();
        let build = move |handle: &tokio::runtime::Handle| {
            let time = Arc::new(TokioClock::new(handle.clone()));
            let spawn = Arc::new(TokioSpawn::new(handle.clone()));
            let latency = Duration::from_millis(profile.latency_ms);
            let engine = Arc::new(ScriptedEngine::new(script()).with_latency(
                latency,
                Arc::<TokioClock>::clone(&time),
                Arc::<TokioSpawn>::clone(&spawn),
            ));
            let order = Arc::new(OrderedEngine::new(Arc::clone(&engine), control));
            let local = LocalServer::builder(Arc::<OrderedEngine>::clone(&order), time, spawn)
                .config(config(profile))
                .faults(faults_of_server)
                .build()?;
            // The receiver waits for this message below.
            let _ = sender.send((local.clone(), engine, order));
            Ok(local)
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = BlockingServer::start(address, NonZeroUsize::MIN, build)?;
        let (local, engine, order) = receiver
            .recv()
            .expect("a server that was built sends its parts");
        Ok(Self {
            server,
            local,
            engine,
            order,
            faults,
        })
    }

    fn counts(&self) -> Value {
        let engine = self.engine.counts();
        let faults = self.faults.counts();
        let faults: Vec<Value> = faults
            .iter()
            .map(|count| json!({ "rule": count.rule.to_string(), "struck": count.struck }))
            .collect();
        let window = self.local.window_counts();
        json!({
            "backwards": engine.backwards,
            "steps": engine.steps,
            "samples": engine.samples,
            "out_of_order": self.order.out_of_order(),
            "applied": self.order.applied(),
            "faults": faults,
            "refused": window.as_ref().map(|counts| counts.refused),
            "accepted": window.as_ref().map(|counts| counts.accepted),
            "events": window.as_ref().map(|counts| counts.events.iter().map(|event| json!([event.refused, event.in_flight])).collect::<Vec<_>>()),
        })
    }
}

fn config(profile: Profile) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.window = profile.window();
    config.session_polls = profile.session_polls;
    config.max_queued = 1 << 20;
    config.max_queued_bytes = 4 << 30;
    config.max_result_bytes = 4 << 30;
    config
}

/// The child process that runs the server. Dropping this value closes the stdin of the process and
/// waits until the process has exited.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// The base URL of the server.
    pub(super) url: String,
}

impl Child {
    /// Starts the server of a profile. Runs `program`, or the current executable if it is `None`.
    ///
    /// # Errors
    /// Fails if the process cannot be started or does not print its URL.
    pub(super) fn start(
        program: Option<&Path>,
        profile: &Profile,
        control: Option<Control>,
        seed: u64,
        length: Duration,
    ) -> Result<Self, String> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe().map_err(|error| error.to_string())?,
        };
        let mut process = Command::new(program)
            .arg(SERVE)
            .arg(profile.name)
            .arg(seed.to_string())
            .arg(length.as_millis().to_string())
            .arg(control.map_or("none", Control::name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start the server process: {error}"))?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("cannot open the pipes of the server process".to_owned());
        };
        let mut child = Self {
            process,
            input: Some(input),
            output: BufReader::new(output),
            url: String::new(),
        };
        let first = child.read()?;
        first["url"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut child.url);
        Ok(child)
    }

    /// Returns the statistics that the server process has counted so far, such as the number of
    /// times that it applied each call.
    ///
    /// # Errors
    /// Fails if the process has exited.
    pub(super) fn counts(&mut self) -> Result<Value, String> {
        let input = self.input.as_mut().ok_or("the server process has exited")?;
        writeln!(input, "counts").map_err(|error| error.to_string())?;
        self.read()
    }

    fn read(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        serde_json::from_str(&line).map_err(|error| {
            format!("cannot parse the output {line:?} of the server process: {error}")
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.input = None;
        // The process exits when its stdin ends. If it does not, it is killed, so that no process
        // is left behind.
        let watch = Stopwatch::start();
        while matches!(self.process.try_wait(), Ok(None)) && watch.elapsed() < EXIT_TIMEOUT {
            short_sleep();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
