//! Creates the server, the network, the clients and their programs, runs them to the end, and
//! checks the invariants.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tinkers_core::{Clock, ManualClock, SplitMix, Timestamp};
use tinkers_local::{HintForm, InProcess, LocalConfig, LocalServer, Window};
use tinkers_session::Endpoints;

use crate::call_log::{CallLog, CallOutcome};
use crate::control::Control;
use crate::coverage::Coverage;
use crate::executor::{Executor, Owner, StopReason};
use crate::fairness::FairnessMonitor;
use crate::fault::Fault;
use crate::fault_injector::FaultInjector;
use crate::final_checks;
use crate::harness::Harness;
use crate::invariant::{Invariant, Violation};
use crate::log_faults;
use crate::log_recorder::{CANARY_KEY, LogRecorder};
use crate::monitor::Monitor;
use crate::nested_requests::NestedRequests;
use crate::network::Network;
use crate::plan::{EngineKind, Plan};
use crate::program::Client;
use crate::real_engine::RealEngine;
use crate::recording_engine::{RecordingEngine, RecordingEngineParts, ResultSource};
use crate::request_history::RequestHistory;
use crate::rng::Rng;
use crate::shared_polls::SharedPollMonitor;
use crate::timed_faults;
use crate::trace::{KeptLines, Trace};

/// The report of a simulation run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// The hash of all lines of the trace.
    pub hash: u64,
    /// The lines of the trace that were stored, as selected by [`KeptLines`].
    pub lines: Vec<String>,
    /// The violations of invariants that the checks have found.
    pub violations: Vec<Violation>,
    /// The counts of injected faults, errors and uses of call handles (the futures of results).
    pub coverage: Coverage,
    /// The numbers of calls and requests in this run.
    pub totals: Totals,
}

/// The numbers of calls, requests and compared models in one or more runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// The number of calls that the programs made.
    pub calls: u64,
    /// The number of calls that succeeded.
    pub succeeded: u64,
    /// The number of calls that failed.
    pub failed: u64,
    /// The number of calls whose outcome the program did not wait for.
    pub abandoned: u64,
    /// The number of requests that the clients sent.
    pub requests: u64,
    /// The number of models whose tensors were compared with those of a replay without injected
    /// faults.
    pub models: u64,
    /// The virtual time that has passed.
    pub time: Duration,
}

impl Totals {
    /// Adds the numbers of `other` to these numbers.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.abandoned += other.abandoned;
        self.requests += other.requests;
        self.models += other.models;
        self.time += other.time;
    }
}

/// The maximum time from the end of the injected faults to the end of all programs. It is twice the
/// longest time for which a call may wait after the faults, either for 402 responses to end or
/// until its progress deadline.
const TIME_AFTER_FAULTS: Duration = Duration::from_secs(4 * 3600);
/// The longest time for which the executor delays a poll of a client's task to simulate a busy
/// runtime.
pub const MAX_POLL_DELAY: Duration = Duration::from_secs(2);
/// The virtual time within which all clients must shut down at the end of a run.
const SHUTDOWN_TIME: Duration = Duration::from_secs(900);

/// Runs the simulation of a plan. If `control` is given, builds its bug into the client or the
/// engine. `kept` selects the stored lines of the trace.
pub fn run(plan: &Plan, control: Option<Control>, kept: KeptLines) -> RunReport {
    let recorder = LogRecorder::default();
    tracing::subscriber::with_default(recorder.clone(), || {
        Simulation::new(plan, control, kept).run(&recorder)
    })
}

struct Simulation {
    clock: ManualClock,
    executor: Executor,
    harness: Arc<Harness>,
    engine: Arc<RecordingEngine>,
    clients: Vec<Arc<Client>>,
}

impl Simulation {
    fn new(plan: &Plan, control: Option<Control>, kept: KeptLines) -> Self {
        let rng = Rng::new(plan.seed).fork(100);
        let clock = ManualClock::new();
        let trace = Trace::new(clock.clone(), kept);
        let executor = Executor::new(clock.clone(), rng.fork(1));
        let server_spawner = executor.spawner(Owner::Server);
        let injector = Arc::new(FaultInjector::new(plan, clock.clone(), &rng.fork(2)));
        let applied_twice = control.and_then(Control::applied_twice);
        // The bug of a negative control is either in the real engine, where only the weights reveal
        // it, or in the recording engine.
        let results = match plan.engine {
            EngineKind::Scripted => ResultSource::Scripted(Box::default()),
            EngineKind::Real => ResultSource::Real(Box::new(
                RealEngine::new(applied_twice).expect("a temporary directory and threads"),
            )),
        };
        let engine = Arc::new(RecordingEngine::new(RecordingEngineParts {
            latency: plan.server.latency,
            clock: clock.clone(),
            spawner: Arc::clone(&server_spawner),
            rng: rng.fork(3),
            injector: Arc::clone(&injector),
            trace: trace.clone(),
            results,
            applied_twice: applied_twice.filter(|_| plan.engine == EngineKind::Scripted),
        }));
        let server = LocalServer::builder(
            Arc::<RecordingEngine>::clone(&engine),
            Arc::new(clock.clone()),
            Arc::clone(&server_spawner),
        )
        .config(config(plan))
        .jitter(Arc::new(SplitMix::new(rng.fork(4).bits())))
        .build()
        .expect("the engine lists its checkpoints");
        let monitor = Monitor::new(&trace);
        let poll_faults = [
            Fault::Tls,
            Fault::Redirect,
            Fault::Undecodable,
            Fault::ProxyPage4xx,
        ];
        let network = Network {
            clock: clock.clone(),
            rng: rng.fork(5),
            injector,
            shared_polls: SharedPollMonitor::new(monitor.clone()),
            // On a busy runtime, permits are collected late and out of order, so fairness cannot be
            // checked.
            fairness: FairnessMonitor::new(monitor.clone(), !plan.has_timed(Fault::BusyRuntime)),
            monitor,
            history: RequestHistory::default(),
            shared_poll_fault: *rng.fork(7).choose(&poll_faults),
            faulty_limiter: Arc::default(),
            faulty_queue: Arc::default(),
            nested_requests: NestedRequests::default(),
            trace,
            server: InProcess::new(server).with_api_key(CANARY_KEY),
            spawner: Arc::clone(&server_spawner),
            deduplicates: plan.server.deduplicates,
            control,
            request_count: AtomicU64::new(0),
        };
        let harness = Arc::new(Harness {
            plan: plan.clone(),
            control,
            calls: CallLog::default(),
            engine: Arc::clone(&engine),
            network: Arc::new(network),
            program_spawner: executor.spawner(Owner::Program),
            client_spawner: executor.spawner(Owner::Client),
            server_spawner,
            endpoints: Endpoints::new(),
            endpoint: Mutex::new(None),
            rng: rng.fork(6),
            session_count: AtomicU64::new(0),
            closed_flags: Mutex::default(),
            recovered_errors: Arc::default(),
        });
        let client = |index| Arc::new(Client::new(Arc::clone(&harness), index));
        let clients = (0..plan.clients.len()).map(client).collect();
        Self {
            clock,
            executor,
            harness,
            engine,
            clients,
        }
    }

    fn run(self, recorder: &LogRecorder) -> RunReport {
        timed_faults::start(&self.harness, &self.clients, &self.executor);
        let harness = Arc::downgrade(&self.harness);
        recorder.on_session_expired(move |session| {
            if let Some(harness) = harness.upgrade() {
                harness.session_expired(session);
            }
        });
        let harness = Arc::downgrade(&self.harness);
        recorder.on_client_line(move || {
            if let Some(harness) = harness.upgrade() {
                log_faults::inject(&harness);
            }
        });
        let plan = &self.harness.plan;
        for task in plan.tasks.clone() {
            let client = Arc::clone(&self.clients[task.client]);
            let work = async move { client.run(task).await };
            self.harness.program_spawner.spawn(Box::pin(work)).detach();
        }
        let end = Timestamp::from_origin(plan.faults_end).after(TIME_AFTER_FAULTS);
        self.run_programs(end);
        for client in &self.clients {
            let client = Arc::clone(client);
            let work = async move { client.shut_down().await };
            self.harness.program_spawner.spawn(Box::pin(work)).detach();
        }
        self.run_programs(end.after(SHUTDOWN_TIME));
        let end = self.clock.now().after(SHUTDOWN_TIME);
        self.executor
            .run_until(end, || self.executor.task_count(Owner::Client) == 0);
        self.check_tasks();
        self.harness.check_limits();
        let report = self.report(recorder);
        self.executor.clear();
        report
    }

    /// Checks at the end of the run that no task of the client library has panicked, and that no
    /// such task is left.
    fn check_tasks(&self) {
        let monitor = &self.harness.network.monitor;
        let panics = self.executor.escaped_panics();
        if panics > 0 {
            let text = format!("{panics} panics were not caught by the client library");
            monitor.report(Invariant::PanicIsolation, text);
        }
        let tasks = self.executor.task_count(Owner::Client);
        if tasks > 0 {
            let text = format!("{tasks} tasks of the clients are left");
            monitor.report(Invariant::NoLeaks, text);
        }
    }

    fn report(&self, recorder: &LogRecorder) -> RunReport {
        let network = &self.harness.network;
        let mut violations = network.monitor.violations();
        // The trace contains the final states of the models, so that two runs of a seed are
        // compared by these states, too.
        let states = self.engine.real().map(RealEngine::final_states);
        let states = states.and_then(Result::ok).unwrap_or_default();
        for (model, state) in &states {
            let trace = &network.trace;
            trace.push(format_args!("final state of {model}: {state:016x}"));
        }
        let calls = self.harness.calls.all();
        let (log, recovered) = (recorder.summary(), self.harness.recovered_errors.snapshot());
        violations.extend(final_checks::calls_and_models(&calls, &self.engine));
        violations.extend(final_checks::log_lines(&log, &network.monitor));
        violations.extend(final_checks::error_counters(&log, &recovered));
        violations.extend(network.history.check(&self.harness.plan, &calls));
        let mut coverage = network.injector.coverage();
        let mut totals = Totals {
            calls: calls.len() as u64,
            abandoned: calls.iter().filter(|(_, call)| call.is_abandoned).count() as u64,
            requests: network.request_count.load(Ordering::Relaxed),
            models: states.len() as u64,
            time: self.clock.now().since_origin(),
            ..Totals::default()
        };
        let outcomes = calls.iter().filter_map(|(_, call)| call.outcome.as_ref());
        for (_, outcome) in outcomes {
            match outcome {
                CallOutcome::Ok => totals.succeeded += 1,
                CallOutcome::WrongResult(_) => {}
                CallOutcome::Failed { kind, sent, .. } => {
                    totals.failed += 1;
                    coverage.record_failure(*kind, *sent);
                }
            }
        }
        coverage.record_recovered_errors(&recovered);
        RunReport {
            hash: network.trace.hash(),
            lines: network.trace.lines(),
            violations,
            coverage,
            totals,
        }
    }

    /// Runs the simulation until all tasks of the user programs have ended. Reports a violation if
    /// a task is still running at the time `end`.
    fn run_programs(&self, end: Timestamp) {
        let reason = self
            .executor
            .run_until(end, || self.executor.task_count(Owner::Program) == 0);
        if reason == StopReason::ConditionMet {
            return;
        }
        let monitor = &self.harness.network.monitor;
        let text = format!("{reason:?}: the programs did not end");
        monitor.report(Invariant::Termination, text);
        for (call, record) in self.harness.calls.pending().into_iter().take(5) {
            let text = format!("call {call} did not complete: {record:?}");
            monitor.report(Invariant::Completion, text);
        }
    }
}

fn config(plan: &Plan) -> LocalConfig {
    let mut config = LocalConfig::default().with_api_key(CANARY_KEY);
    config.session_expiry = plan.server.expiry;
    config.announces_deduplication = plan.server.deduplicates;
    config.session_polls = plan.server.shared_polls;
    config.chunk_len = 3;
    config.window = plan
        .server
        .window
        .map(|size| Window::fixed(size).with_hint(Duration::from_secs(2), HintForm::Milliseconds));
    config
}
