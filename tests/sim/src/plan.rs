//! The plan of a run, which is derived from a seed: server, clients, programs and faults.

use std::time::Duration;

use crate::fault::{Fault, FaultRates, TimedFault};
use crate::fault_schedule::{client_faults, rates, runtime_faults, server_faults};
use crate::named_enum::named_enum;
use crate::rng::Rng;
use crate::simulation::MAX_POLL_DELAY;

/// The options of a simulation run: restrictions of its plan, and the engine of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOptions {
    /// The engine that the simulated server uses.
    pub engine: EngineKind,
    /// The virtual time during which faults are injected, in hours.
    pub hours: u64,
    /// The maximum number of simulated clients.
    pub clients: usize,
    /// The maximum number of tasks in the plan. A task is a sequence of calls that a simulated user
    /// program makes on one client.
    pub tasks: usize,
    /// The maximum number of steps of a task. Each step is a pause followed by concurrent calls.
    pub steps: usize,
    /// The kinds of faults that are not injected.
    pub without: Vec<Fault>,
    /// The only kind of fault that is injected, with a high probability. `None` if all kinds may be
    /// injected.
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
    /// The kind of engine that the simulated server uses.
    pub enum EngineKind {
        /// The scripted engine, which returns fixed results. A hash stands for the weights of each
        /// model.
        Scripted = "scripted",
        /// The built-in model, which computes real tensors. The simulation also keeps a hash that
        /// stands for the weights of each model, as with the scripted engine.
        Real = "real",
    }
}

impl EngineKind {
    /// Returns the name of the base model that this engine offers.
    pub const fn base_model(self) -> &'static str {
        match self {
            Self::Scripted => "tinkers/scripted",
            Self::Real => tinkers_engine::builtin::NAME,
        }
    }
}

/// The plan of a simulation run. It is drawn from a seed before the run starts.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The engine that the simulated server uses.
    pub engine: EngineKind,
    /// The seed from which the plan and the random events of the run are drawn.
    pub seed: u64,
    /// The time at which the injection of faults ends, since the beginning of the run.
    pub faults_end: Duration,
    /// The configuration of the simulated server.
    pub server: ServerPlan,
    /// The configuration of each simulated client.
    pub clients: Vec<ClientPlan>,
    /// The tasks of the simulated user programs. Each task makes a sequence of calls on one client.
    pub tasks: Vec<TaskPlan>,
    /// The probabilities of the faults that are drawn at random for each request, job or log line.
    pub rates: FaultRates,
    /// The faults that start at a planned time and last for a period of the run.
    pub timed_faults: Vec<TimedFault>,
}

/// The configuration of the simulated server.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// Whether the server announces that it applies a repeated submission only once.
    pub deduplicates: bool,
    /// Whether the server supports shared polls, each of which asks for all results of a sampling
    /// client.
    pub shared_polls: bool,
    /// The maximum number of samples in flight. The server refuses further samples with 429. `None`
    /// if there is no limit.
    pub window: Option<u32>,
    /// The maximum duration of a job of the engine.
    pub latency: Duration,
    /// The time after which the server ends a session that has sent no heartbeat.
    pub expiry: Duration,
}

/// The configuration of a simulated client.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// Whether the client sends the bodies of forward and backward passes as JSON instead of
    /// protobuf.
    pub json: bool,
    /// The time without progress after which an operation fails (error kind `Stalled`).
    pub progress_deadline: Duration,
    /// The time after which a pending operation fails. `None` for no limit.
    pub operation_deadline: Option<Duration>,
}

/// A task of a simulated user program. It makes a sequence of calls on one client.
#[derive(Debug, Clone)]
pub struct TaskPlan {
    /// The index of the client that the task uses.
    pub client: usize,
    /// The steps of the task, in order.
    pub steps: Vec<Step>,
}

/// A step of a task: a pause and then one or more concurrent calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The pause before the calls of the step.
    pub pause: Duration,
    /// The calls of the step, each with the way in which the program uses its handle (the future of
    /// the result). The calls are made concurrently.
    pub calls: Vec<(CallKind, HandleUse)>,
}

/// A method of a client that a program calls, with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    /// A call of `forward` with the given number of data.
    Forward(u8),
    /// A call of `forward_backward` with the given number of data.
    ForwardBackward(u8),
    /// A call of `optim_step`.
    OptimStep,
    /// A call of `save_state` with a unique checkpoint name.
    SaveState,
    /// A call of `save_weights_for_sampler` with a unique checkpoint name.
    SaveForSampler,
    /// A call of `save_weights_and_get_sampling_client`.
    SaveAndSample,
    /// A call of `load_state_with_optimizer` with the training state that was saved last. The call
    /// is skipped if no state was saved.
    Load,
    /// The given number of concurrent calls of `sample`.
    Sample(u8),
    /// A call of `capabilities`.
    Capabilities,
    /// The creation of a training client. A program makes this call automatically if it has no
    /// training client.
    CreateModel,
    /// The creation of a sampling client. A program makes this call automatically if it has no
    /// sampling client.
    CreateSampler,
}

impl CallKind {
    /// The names of the kinds of calls that return a handle (the future of the result), which the
    /// program can use in different ways.
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

    /// Returns the name that tables show for this kind of call.
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

/// The way in which a program uses the handle of a call, which is the future of its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleUse {
    /// The program awaits the handle of the call (the future of its result) at once.
    Await,
    /// The program awaits the handle of the call (the future of its result) after a pause.
    AwaitLate(Duration),
    /// The program awaits the handle of the call (the future of its result), and stops waiting
    /// after the given timeout.
    Timeout(Duration),
    /// The program cancels the call if it is still pending after the given pause.
    Cancel(Duration),
    /// The program drops the handle of the call (the future of its result) at once.
    Drop,
}

impl HandleUse {
    /// The names of all ways in which a program can use the handle of a call.
    pub const NAMES: [&'static str; 5] = [
        "awaited",
        "awaited late",
        "awaited with timeout",
        "cancelled",
        "dropped",
    ];

    /// Returns the name that tables show for this way to use a handle.
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
/// The number of samples that a client submits at once during a [`Fault::Burst`].
pub const BURST: u8 = 250;
/// The number of samples that each client submits at once during a [`Fault::ConcurrentBursts`].
const CONCURRENT_BURST: u8 = 50;
/// The number of training calls that a client makes at once during a [`Fault::LongQueue`].
const LONG_QUEUE: usize = 24;
/// A progress deadline (the time without progress after which a call fails) that is shorter than
/// the time for which calls wait during a [`Fault::LongQueue`].
const SHORT_PROGRESS_DEADLINE: Duration = Duration::from_secs(180);

impl Plan {
    /// Draws the plan of a run from `seed`, and restricts it by `options`.
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

    /// Returns whether the plan contains a fault of this kind that lasts for a period.
    pub(crate) fn has_timed(&self, fault: Fault) -> bool {
        self.timed_faults.iter().any(|timed| timed.fault == fault)
    }

    /// Returns the planned faults of this kind that last for a period.
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

    /// Adds a task that submits many samples for each [`Fault::Burst`] in the plan, and a
    /// probability that requests are refused with 429.
    fn add_bursts(&mut self) {
        let bursts = self.timed(Fault::Burst);
        if !bursts.is_empty() && !self.rates.0.is_empty() {
            self.rates.0.push((Fault::RateLimitedMs, 0.01));
        }
        let task = |timed: &TimedFault| burst(timed, timed.client.unwrap_or(0), BURST);
        self.tasks.extend(bursts.iter().map(task));
    }

    /// Adds, for each [`Fault::ConcurrentBursts`] in the plan, a task of each client that submits
    /// many samples, and a probability that requests are refused with 429.
    fn add_concurrent_bursts(&mut self) {
        for timed in self.timed(Fault::ConcurrentBursts) {
            let task = |client| burst(&timed, client, CONCURRENT_BURST);
            self.tasks.extend((0..self.clients.len()).map(task));
            if !self.rates.0.is_empty() {
                self.rates.0.push((Fault::RateLimitedMs, 0.02));
            }
        }
    }

    /// Adds a task that makes many training calls for each [`Fault::LongQueue`] in the plan. The
    /// calls wait longer than the progress deadline of their client.
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

/// Returns a task that submits `samples` samples at once on the client with the index `client`,
/// when the fault `timed` starts.
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
