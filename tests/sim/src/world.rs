//! One run: server, network, clients and programs put together, run to their end, and looked at.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tinkers_core::{Clock, ManualClock, SplitMix, Timestamp};
use tinkers_local::{HintForm, InProcess, LocalConfig, LocalServer, Window};
use tinkers_session::Endpoints;

use crate::book::{Book, Outcome};
use crate::caller::Client;
use crate::chance::Chance;
use crate::check;
use crate::control::Control;
use crate::cover::Cover;
use crate::executor::{Executor, Owner, Stop};
use crate::fault::Kind;
use crate::foreign;
use crate::layer::Layers;
use crate::ledger::{Answers, LedgerEngine, LedgerParts};
use crate::listen::{CANARY, Listener};
use crate::misfortune::Misfortune;
use crate::network::Network;
use crate::plan::{EngineKind, Plan};
use crate::real::RealEngine;
use crate::shared_polls::SharedPolls;
use crate::spells;
use crate::stage::Stage;
use crate::trace::{Keep, Trace};
use crate::turns::Turns;
use crate::waits::Waits;
use crate::watch::{Rule, Violation, Watch};

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The hash of its trace.
    pub hash: u64,
    /// The lines of its trace that were kept.
    pub lines: Vec<String>,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// What met what.
    pub cover: Cover,
    /// How much there was of it.
    pub size: Size,
}

/// How much there was of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Calls of the programs.
    pub calls: u64,
    /// Those that ended well.
    pub ok: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that nobody waited for.
    pub left: u64,
    /// Requests on the network.
    pub requests: u64,
    /// Models whose real weights were compared with those of a run without faults.
    pub models: u64,
    /// Virtual time.
    pub time: Duration,
}

/// How long after the calm everything must have ended: what may pause for billing or wait for news, twice.
const AFTER_CALM: Duration = Duration::from_secs(4 * 3600);
/// How late a task of a busy client is polled at most.
pub const LATEST_POLL: Duration = Duration::from_secs(2);
/// How long what is left may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(900);

/// Runs `plan`.
pub fn run(plan: &Plan, control: Option<Control>, keep: Keep) -> Ran {
    let listener = Listener::default();
    tracing::subscriber::with_default(listener.clone(), || {
        Run::new(plan, control, keep).run(&listener)
    })
}

struct Run {
    clock: ManualClock,
    executor: Executor,
    stage: Arc<Stage>,
    engine: Arc<LedgerEngine>,
    clients: Vec<Arc<Client>>,
}

impl Run {
    fn new(plan: &Plan, control: Option<Control>, keep: Keep) -> Self {
        let chance = Chance::new(plan.seed).stream(100);
        let clock = ManualClock::new();
        let trace = Trace::new(clock.clone(), keep);
        let executor = Executor::new(clock.clone(), chance.stream(1));
        let server_side = executor.spawner(Owner::Server);
        let misfortune = Arc::new(Misfortune::new(plan, clock.clone(), &chance.stream(2)));
        let twice = control.and_then(Control::twice);
        // A fault in the real engine is its own: the ledger knows nothing of it, and the weights alone tell.
        let answers = match plan.engine {
            EngineKind::Scripted => Answers::Scripted(Box::default()),
            EngineKind::Real => Answers::Real(Box::new(
                RealEngine::new(twice).expect("threads and a directory for the engine"),
            )),
        };
        let engine = Arc::new(LedgerEngine::new(LedgerParts {
            latency: plan.server.latency,
            clock: clock.clone(),
            spawn: Arc::clone(&server_side),
            chance: chance.stream(3),
            misfortune: Arc::clone(&misfortune),
            trace: trace.clone(),
            answers,
            twice: twice.filter(|_| plan.engine == EngineKind::Scripted),
        }));
        let server = LocalServer::builder(
            Arc::<LedgerEngine>::clone(&engine),
            Arc::new(clock.clone()),
            Arc::clone(&server_side),
        )
        .config(config(plan))
        .jitter(Arc::new(SplitMix::new(chance.stream(4).bits())))
        .build()
        .expect("an engine that lists its checkpoints");
        let watch = Watch::new(&trace);
        let is_busy = plan.spells.iter().any(|spell| spell.kind == Kind::Busy);
        let ingress = [
            Kind::Tls,
            Kind::Redirect,
            Kind::Undecodable,
            Kind::Status4xx,
        ];
        let network = Network {
            clock: clock.clone(),
            chance: chance.stream(5),
            misfortune,
            shared_polls: SharedPolls::new(watch.clone()),
            // Grants that are collected late are not in turn.
            turns: Turns::new(watch.clone(), !is_busy),
            watch,
            waits: Waits::default(),
            ingress: *chance.stream(7).pick(&ingress),
            old_limiter: Arc::default(),
            old_turns: Arc::default(),
            layers: Layers::default(),
            trace,
            server: InProcess::new(server).with_api_key(CANARY),
            spawn: Arc::clone(&server_side),
            deduplicates: plan.server.deduplicates,
            control,
            count: AtomicU64::new(0),
        };
        let stage = Arc::new(Stage {
            plan: plan.clone(),
            control,
            book: Book::default(),
            engine: Arc::clone(&engine),
            network: Arc::new(network),
            caller_side: executor.spawner(Owner::Caller),
            client_side: executor.spawner(Owner::Client),
            server_side,
            endpoints: Endpoints::new(),
            endpoint: Mutex::new(None),
            chance: chance.stream(6),
            connects: AtomicU64::new(0),
            closed: Mutex::default(),
            recovered_errors: Arc::default(),
        });
        let client = |index| Arc::new(Client::new(Arc::clone(&stage), index));
        let clients = (0..plan.clients.len()).map(client).collect();
        Self {
            clock,
            executor,
            stage,
            engine,
            clients,
        }
    }

    fn run(self, listener: &Listener) -> Ran {
        spells::start(&self.stage, &self.clients, &self.executor);
        let stage = Arc::downgrade(&self.stage);
        listener.when_expired(move |session| {
            if let Some(stage) = stage.upgrade() {
                stage.session_expired(session);
            }
        });
        let stage = Arc::downgrade(&self.stage);
        listener.when_logged(move || {
            if let Some(stage) = stage.upgrade() {
                foreign::logged(&stage);
            }
        });
        let plan = &self.stage.plan;
        for task in plan.tasks.clone() {
            let client = Arc::clone(&self.clients[task.client]);
            let work = async move { client.run(task).await };
            self.stage.caller_side.spawn(Box::pin(work)).detach();
        }
        let end = Timestamp::from_origin(plan.calm_at).after(AFTER_CALM);
        self.run_callers(end);
        for client in &self.clients {
            let client = Arc::clone(client);
            let work = async move { client.leave().await };
            self.stage.caller_side.spawn(Box::pin(work)).detach();
        }
        let watch = &self.stage.network.watch;
        self.run_callers(end.after(GOODBYE));
        let end = self.clock.now().after(GOODBYE);
        self.executor
            .run_until(end, || self.executor.live(Owner::Client) == 0);
        let panics = self.executor.escaped_panics();
        if panics > 0 {
            watch.report(Rule::Panic, format!("{panics} panics reached nobody"));
        }
        let alive = self.executor.live(Owner::Client);
        if alive > 0 {
            watch.report(
                Rule::Baseline,
                format!("{alive} tasks of the clients live on"),
            );
        }
        self.stage.look_at_limits();
        let network = &self.stage.network;
        let mut violations = watch.violations();
        // What came of the models is part of what a seed replays.
        let ends = self.engine.real().map(RealEngine::ends);
        let ends = ends.and_then(Result::ok).unwrap_or_default();
        for (model, end) in &ends {
            let trace = &network.trace;
            trace.note(format_args!("{model} came to {end:016x}"));
        }
        violations.extend(check::all(&self.stage.book, &self.engine));
        let counted = self.stage.recovered_errors.snapshot();
        violations.extend(check::heard(&listener.heard(), watch));
        violations.extend(check::counted(&listener.heard(), &counted));
        let calls = self.stage.book.entries();
        violations.extend(network.waits.check(&self.stage.plan, &calls));
        let count = |is: fn(&Outcome) -> bool| {
            let all = calls.iter().filter_map(|(_, call)| call.outcome.as_ref());
            all.filter(|(_, outcome)| is(outcome)).count() as u64
        };
        let mut cover = network.misfortune.cover();
        for (_, call) in &calls {
            if let Some((_, Outcome::Failed { kind, sent, .. })) = &call.outcome {
                cover.failed(*kind, *sent);
            }
        }
        cover.went_on(&counted);
        let ran = Ran {
            hash: network.trace.hash(),
            lines: network.trace.lines(),
            violations,
            cover,
            size: Size {
                calls: calls.len() as u64,
                ok: count(|outcome| *outcome == Outcome::Ok),
                failed: count(|outcome| matches!(outcome, Outcome::Failed { .. })),
                left: calls.iter().filter(|(_, call)| call.left).count() as u64,
                requests: network.count.load(Ordering::Relaxed),
                models: ends.len() as u64,
                time: self.clock.now().since_origin(),
            },
        };
        self.executor.clear();
        ran
    }

    fn run_callers(&self, end: Timestamp) {
        let stop = self
            .executor
            .run_until(end, || self.executor.live(Owner::Caller) == 0);
        if stop == Stop::Reached {
            return;
        }
        let watch = &self.stage.network.watch;
        watch.report(
            Rule::Progress,
            format!("{stop:?}: the programs did not come to their end"),
        );
        for (call, entry) in self.stage.book.open().into_iter().take(5) {
            watch.report(
                Rule::EndsOnce,
                format!("call {call} never ended: {entry:?}"),
            );
        }
    }
}

fn config(plan: &Plan) -> LocalConfig {
    let mut config = LocalConfig::default().with_api_key(CANARY);
    config.session_expiry = plan.server.expiry;
    config.announces_deduplication = plan.server.deduplicates;
    config.session_polls = plan.server.session_polls;
    config.chunk_len = 3;
    config.window = plan.server.window.map(|at_once| {
        Window::fixed(at_once).with_hint(Duration::from_secs(2), HintForm::Milliseconds)
    });
    config
}
