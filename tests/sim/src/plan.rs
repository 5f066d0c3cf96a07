//! The plan of a run, which is derived from a seed: server, clients, programs and faults.

use std::time::Duration;

use crate::fault::{Fault, FaultRates, TimedFault};
use crate::fault_schedule::{client_faults, rates, runtime_faults, server_faults};
use crate::named_enum::named_enum;
use crate::rng::Rng;
use crate::simulation::MAX_POLL_DELAY;

/// Options that restrict a plan, and the choice of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOptions {
    /// The engine of the server.
    pub engine: EngineKind,
    /// The length of the period with faults, in hours of virtual time.
    pub hours: u64,
    /// The maximum number of clients.
    pub clients: usize,
    /// The maximum number of tasks of the programs.
    pub tasks: usize,
    /// The maximum number of steps of a task.
    pub steps: usize,
    /// The faults that do not occur.
    pub without: Vec<Fault>,
    /// The only kind of fault that occurs, with a high probability. `None` if all kinds may occur.
    pub only: Option<Fault>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            engine: EngineKind::Scripted,
            hours: 1,
            clients: usize::MAX,
            tasks: usize::MAX,
            steps: usize::MAX,
            without: Vec::new(),
            only: None,
        }
    }
}

named_enum! {
    /// The kind of engine that the server uses.
    pub enum EngineKind {
        /// The scripted engine, which returns fixed results. Hashes stand for the weights of
        /// models.
        Scripted = "scripted",
        /// The built-in model, with real tensors. Hashes stand for the weights of models in
        /// addition.
        Real = "real",
    }
}

impl EngineKind {
    /// Returns the name of the base model that the engine offers.
    pub const fn base_model(self) -> &'static str {
        match self {
            Self::Scripted => "tinkers/scripted",
            Self::Real => tinkers_engine::builtin::NAME,
        }
    }
}

/// The plan of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The engine of the server.
    pub engine: EngineKind,
    /// The seed of the run.
    pub seed: u64,
    /// The time since the beginning of the run at which the injection of faults ends.
    pub faults_end: Duration,
    /// The configuration of the server.
    pub server: ServerPlan,
    /// The configuration of each client.
    pub clients: Vec<ClientPlan>,
    /// The tasks of the programs.
    pub tasks: Vec<TaskPlan>,
    /// The probabilities of the faults that are drawn separately for each request.
    pub rates: FaultRates,
    /// The faults that last for a period of time.
    pub timed_faults: Vec<TimedFault>,
}

/// The configuration of the server.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// Whether the server announces that it applies a repeated submission only once.
    pub deduplicates: bool,
    /// Whether the server supports shared polls.
    pub shared_polls: bool,
    /// The maximum number of samples in flight. The server refuses further samples with 429. `None`
    /// for no limit.
    pub window: Option<u32>,
    /// The maximum duration of a job of the engine.
    pub latency: Duration,
    /// The time after which a session without heartbeats expires.
    pub expiry: Duration,
}

/// The configuration of a client.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// Whether the client sends the bodies of forward and backward passes as JSON instead of
    /// protobuf.
    pub json: bool,
    /// The time without progress after which an operation fails as stalled.
    pub progress_deadline: Duration,
    /// The maximum duration of an operation. `None` for no limit.
    pub operation_deadline: Option<Duration>,
}

/// A task of a user's program.
#[derive(Debug, Clone)]
pub struct TaskPlan {
    /// The index of the client that the task uses.
    pub client: usize,
    /// The steps of the task, in order.
    pub steps: Vec<Step>,
}

/// A step of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The pause before the calls of the step.
    pub pause: Duration,
    /// The calls of the step, each with the way in which the program uses its handle. The calls are
    /// made concurrently.
    pub calls: Vec<(CallKind, HandleUse)>,
}

/// A method of a client and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    /// `forward` with the given number of data.
    Forward(u8),
    /// `forward_backward` with the given number of data.
    ForwardBackward(u8),
    /// `optim_step`.
    OptimStep,
    /// `save_state` with a unique name.
    SaveState,
    /// `save_weights_for_sampler` with a unique name.
    SaveForSampler,
    /// `save_weights_and_get_sampling_client`.
    SaveAndSample,
    /// `load_state_with_optimizer` of the last saved state. The call is skipped if there is no
    /// saved state.
    Load,
    /// `sample`, as many times as given.
    Sample(u8),
    /// `capabilities`.
    Capabilities,
    /// The creation of a training client. A program makes this call automatically if it has no
    /// training client.
    CreateModel,
    /// The creation of a sampling client. A program makes this call automatically if it has no
    /// sampling client.
    CreateSampler,
}

impl CallKind {
    /// The names of the calls that return a handle.
    pub const NAMES: [&'static str; 8] = [
        "forward",
        "forward_backward",
        "optim_step",
        "save_state",
        "save_for_sampler",
        "save_and_sample",
        "load_state",
        "sample",
    ];

    /// Returns the name of the call in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward(_) => "forward",
            Self::ForwardBackward(_) => "forward_backward",
            Self::OptimStep => "optim_step",
            Self::SaveState => "save_state",
            Self::SaveForSampler => "save_for_sampler",
            Self::SaveAndSample => "save_and_sample",
            Self::Load => "load_state",
            Self::Sample(_) => "sample",
            Self::Capabilities => "capabilities",
            Self::CreateModel => "create_model",
            Self::CreateSampler => "create_sampler",
        }
    }
}

/// The way in which the program uses the handle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleUse {
    /// The program awaits the handle at once.
    Await,
    /// The program awaits the handle after a pause.
    AwaitLate(Duration),
    /// The program awaits the handle with a timeout.
    Timeout(Duration),
    /// The program cancels the call after a pause.
    Cancel(Duration),
    /// The program drops the handle at once.
    Drop,
}

impl HandleUse {
    /// The names of all ways to use a handle.
    pub const NAMES: [&'static str; 5] = [
        "awaited",
        "awaited late",
        "awaited with timeout",
        "cancelled",
        "dropped",
    ];

    /// Returns the name of the handle use in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Await => Self::NAMES[0],
            Self::AwaitLate(_) => Self::NAMES[1],
            Self::Timeout(_) => Self::NAMES[2],
            Self::Cancel(_) => Self::NAMES[3],
            Self::Drop => Self::NAMES[4],
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);
/// The number of samples that a client submits in a [`Fault::Burst`].
pub const BURST: u8 = 250;
/// The number of samples that each client submits in a [`Fault::ConcurrentBursts`].
const CONCURRENT_BURST: u8 = 50;
/// The number of calls that a client submits in a [`Fault::LongQueue`].
const LONG_QUEUE: usize = 24;
/// A progress deadline that is shorter than the waiting time of calls in many queues.
const SHORT_PROGRESS_DEADLINE: Duration = Duration::from_secs(180);

impl Plan {
    /// Draws the plan of a seed, and restricts it by `options`.
    pub fn new(seed: u64, options: &PlanOptions) -> Self {
        let rng = Rng::new(seed);
        let faults_end = Duration::from_secs(3600 * options.hours.max(1));
        let clients = clients(&rng.fork(1));
        let tasks = tasks(&rng.fork(2), clients.len(), faults_end);
        let server = server(&rng.fork(3));
        let mut timed_faults =
            server_faults(&rng.fork(5), faults_end, clients.len(), server.expiry);
        timed_faults.extend(runtime_faults(&rng.fork(6), faults_end, clients.len()));
        timed_faults.extend(client_faults(&rng.fork(8), faults_end, clients.len()));
        let mut plan = Self {
            engine: options.engine,
            seed,
            faults_end,
            rates: rates(&rng.fork(4)),
            timed_faults,
            server,
            clients,
            tasks,
        };
        plan.restrict(options);
        plan.add_bursts();
        plan.add_concurrent_bursts();
        plan.add_long_queues();
        if !options.without.contains(&Fault::RateLimitedLongHint) && rng.fork(7).gen_bool(0.3) {
            plan.clients[0].progress_deadline = SHORT_PROGRESS_DEADLINE;
        }
        plan
    }

    /// Returns the longest accepted time between the deadline of a call and its completion. On a
    /// busy runtime, several tasks take part in the completion, and each of these tasks may be
    /// polled late.
    pub fn max_completion_delay(&self) -> Duration {
        match self.has_timed(Fault::BusyRuntime) {
            true => 4 * MAX_POLL_DELAY,
            false => Duration::ZERO,
        }
    }

    /// Returns whether the plan has timed faults of this kind.
    pub(crate) fn has_timed(&self, fault: Fault) -> bool {
        self.timed_faults.iter().any(|timed| timed.fault == fault)
    }

    /// Returns the timed faults of this kind.
    fn timed(&self, fault: Fault) -> Vec<TimedFault> {
        let timed_faults = self.timed_faults.iter().copied();
        timed_faults.filter(|timed| timed.fault == fault).collect()
    }

    fn restrict(&mut self, options: &PlanOptions) {
        self.clients.truncate(options.clients.max(1));
        self.tasks.truncate(options.tasks.max(1));
        for task in &mut self.tasks {
            task.client %= self.clients.len();
            task.steps.truncate(options.steps.max(1));
        }
        for timed in &mut self.timed_faults {
            timed.client = timed.client.map(|client| client % self.clients.len());
        }
        let is_enabled = |fault: Fault| {
            !options.without.contains(&fault) && options.only.is_none_or(|only| only == fault)
        };
        self.rates.0.retain(|(fault, _)| is_enabled(*fault));
        self.timed_faults.retain(|timed| is_enabled(timed.fault));
        if let Some(only) = options.only.filter(|only| !only.is_timed())
            && self.rates.0.is_empty()
        {
            self.rates.0.push((only, 0.1));
        }
    }

    /// Adds a task for each [`Fault::Burst`], and a probability that the requests of the task are
    /// refused.
    fn add_bursts(&mut self) {
        let bursts = self.timed(Fault::Burst);
        if !bursts.is_empty() && !self.rates.0.is_empty() {
            self.rates.0.push((Fault::RateLimitedMs, 0.01));
        }
        let task = |timed: &TimedFault| burst(timed, timed.client.unwrap_or(0), BURST);
        self.tasks.extend(bursts.iter().map(task));
    }

    /// Adds a task of each client for each [`Fault::ConcurrentBursts`], and a probability that the
    /// requests of these tasks are refused.
    fn add_concurrent_bursts(&mut self) {
        for timed in self.timed(Fault::ConcurrentBursts) {
            let task = |client| burst(&timed, client, CONCURRENT_BURST);
            self.tasks.extend((0..self.clients.len()).map(task));
            if !self.rates.0.is_empty() {
                self.rates.0.push((Fault::RateLimitedMs, 0.02));
            }
        }
    }

    /// Adds a task for each [`Fault::LongQueue`]. The calls of the task wait longer than the
    /// progress deadline of their client.
    fn add_long_queues(&mut self) {
        for timed in self.timed(Fault::LongQueue) {
            let client = timed.client.unwrap_or(0);
            let kinds = [
                CallKind::ForwardBackward(1),
                CallKind::OptimStep,
                CallKind::Forward(1),
                CallKind::SaveState,
            ];
            let calls = kinds.iter().cycle().take(LONG_QUEUE);
            let calls = calls.map(|kind| (*kind, HandleUse::Await)).collect();
            self.tasks.push(single_step(&timed, client, calls));
            self.clients[client].progress_deadline = SHORT_PROGRESS_DEADLINE;
        }
    }
}

/// Returns a task of a client that submits `samples` samples at once when a timed fault starts.
fn burst(timed: &TimedFault, client: usize, samples: u8) -> TaskPlan {
    let call = (CallKind::Sample(samples), HandleUse::Await);
    single_step(timed, client, vec![call])
}

fn single_step(timed: &TimedFault, client: usize, calls: Vec<(CallKind, HandleUse)>) -> TaskPlan {
    let pause = timed.start;
    let steps = vec![Step { pause, calls }];
    TaskPlan { client, steps }
}

fn server(rng: &Rng) -> ServerPlan {
    ServerPlan {
        deduplicates: rng.gen_bool(0.7),
        shared_polls: rng.gen_bool(0.6),
        window: rng.gen_bool(0.3).then(|| rng.between(1, 6) as u32),
        latency: *rng.choose(&[
            Duration::ZERO,
            Duration::from_millis(200),
            Duration::from_secs(5),
            Duration::from_secs(90),
        ]),
        expiry: *rng.choose(&[2 * MINUTE, 5 * MINUTE]),
    }
}

fn clients(rng: &Rng) -> Vec<ClientPlan> {
    let count = rng.between(1, 4);
    let client = |_| ClientPlan {
        json: rng.gen_bool(0.3),
        progress_deadline: *rng.choose(&[10 * MINUTE, 30 * MINUTE]),
        operation_deadline: rng
            .gen_bool(0.3)
            .then(|| rng.duration(2 * MINUTE, 40 * MINUTE)),
    };
    (0..count).map(client).collect()
}

fn tasks(rng: &Rng, clients: usize, faults_end: Duration) -> Vec<TaskPlan> {
    let count = rng.between(1, 8);
    let longest_pause = faults_end / 8;
    let task = |_| TaskPlan {
        client: rng.below(clients as u64) as usize,
        steps: (0..rng.between(2, 9))
            .map(|_| step(rng, longest_pause))
            .collect(),
    };
    (0..count).map(task).collect()
}

fn step(rng: &Rng, longest_pause: Duration) -> Step {
    let weighted = [
        (CallKind::ForwardBackward(0), 5),
        (CallKind::OptimStep, 4),
        (CallKind::Forward(0), 2),
        (CallKind::SaveState, 2),
        (CallKind::SaveForSampler, 1),
        (CallKind::SaveAndSample, 1),
        (CallKind::Load, 1),
        (CallKind::Sample(0), 4),
        (CallKind::Capabilities, 1),
    ];
    let kinds: Vec<CallKind> = weighted
        .iter()
        .flat_map(|(kind, weight)| std::iter::repeat_n(*kind, *weight))
        .collect();
    let call = |_| {
        let kind = match rng.choose(&kinds) {
            CallKind::Forward(_) => CallKind::Forward(rng.between(1, 7) as u8),
            CallKind::ForwardBackward(_) => CallKind::ForwardBackward(rng.between(1, 7) as u8),
            CallKind::Sample(_) => CallKind::Sample(rng.between(1, 12) as u8),
            other => *other,
        };
        (kind, handle_use(rng))
    };
    Step {
        pause: rng.duration(Duration::ZERO, longest_pause),
        calls: (0..rng.between(1, 4)).map(call).collect(),
    }
}

fn handle_use(rng: &Rng) -> HandleUse {
    match rng.below(16) {
        0 => HandleUse::AwaitLate(rng.duration(Duration::ZERO, 10 * MINUTE)),
        1 => HandleUse::Timeout(rng.duration(Duration::ZERO, 2 * MINUTE)),
        2 => HandleUse::Cancel(rng.duration(Duration::ZERO, MINUTE)),
        3 => HandleUse::Drop,
        _ => HandleUse::Await,
    }
}
