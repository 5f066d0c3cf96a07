//! What a seed stands for: servers, clients, programs, faults.

use std::time::Duration;

use crate::chance::Chance;
use crate::draw::{mix, spells, spells_of_clients, spells_of_waits};
use crate::fault::{Kind, Mix, Spell};
use crate::world::LATEST_POLL;

/// What a user may leave out of a plan, to find out what a failure needs, and over which engine it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// What computes.
    pub engine: EngineKind,
    /// Virtual hours in which things go wrong.
    pub hours: u64,
    /// At most so many clients.
    pub clients: usize,
    /// At most so many tasks.
    pub tasks: usize,
    /// At most so many steps for each task.
    pub steps: usize,
    /// Kinds of faults that do not happen.
    pub without: Vec<Kind>,
    /// The one kind of fault that happens, often.
    pub only: Option<Kind>,
}

impl Default for Cut {
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

/// What computes on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Canned results, and a chain of hashes for weights.
    Scripted,
    /// The same chain, and beside it the built-in model.
    Real,
}

impl EngineKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Scripted, Self::Real];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scripted => "scripted",
            Self::Real => "real",
        }
    }

    /// The engine of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// The base model that it offers.
    pub const fn base_model(self) -> &'static str {
        match self {
            Self::Scripted => "tinkers/scripted",
            Self::Real => tinkers_engine::builtin::NAME,
        }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What computes.
    pub engine: EngineKind,
    /// Where it comes from.
    pub seed: u64,
    /// When things stop going wrong.
    pub calm_at: Duration,
    /// The server.
    pub server: ServerPlan,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// The programs: for each task its client and its steps.
    pub tasks: Vec<TaskPlan>,
    /// How often requests are struck.
    pub mix: Mix,
    /// What goes wrong for a while.
    pub spells: Vec<Spell>,
}

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// Whether it tells that it applies a repeated number once.
    pub deduplicates: bool,
    /// Whether it offers one poll for all samples of a client.
    pub session_polls: bool,
    /// How many samples it takes at once, when that is bounded.
    pub window: Option<u32>,
    /// How long a job takes at most.
    pub latency: Duration,
    /// How long a session lives without a heartbeat.
    pub expiry: Duration,
}

/// How a client is set up.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// Whether its passes go as JSON.
    pub json: bool,
    /// How long an operation may go without news.
    pub progress_deadline: Duration,
    /// How long an operation may take.
    pub operation_deadline: Option<Duration>,
}

/// One task of a user's program.
#[derive(Debug, Clone)]
pub struct TaskPlan {
    /// Which client it uses.
    pub client: usize,
    /// What it does, one after the other.
    pub steps: Vec<Step>,
}

/// One step of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The task does nothing for so long before.
    pub pause: Duration,
    /// What it calls, all at once.
    pub calls: Vec<(Verb, Behaviour)>,
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `forward` of so many data.
    Forward(u8),
    /// `forward_backward` of so many data.
    ForwardBackward(u8),
    /// `optim_step`.
    OptimStep,
    /// `save_state` under a name of its own.
    SaveState,
    /// `save_weights_for_sampler` under a name of its own.
    SaveForSampler,
    /// `save_weights_and_get_sampling_client`.
    Export,
    /// `load_state` of the last save, if there is one.
    Load,
    /// So many samples.
    Sample(u8),
    /// What the server offers.
    Capabilities,
    /// A model; made where a program has none.
    CreateModel,
    /// A sampler; made where a program has none.
    CreateSampler,
}

impl Verb {
    /// The names of what programs call on a handle.
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

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward(_) => "forward",
            Self::ForwardBackward(_) => "forward_backward",
            Self::OptimStep => "optim_step",
            Self::SaveState => "save_state",
            Self::SaveForSampler => "save_for_sampler",
            Self::Export => "save_and_sample",
            Self::Load => "load_state",
            Self::Sample(_) => "sample",
            Self::Capabilities => "capabilities",
            Self::CreateModel => "create_model",
            Self::CreateSampler => "create_sampler",
        }
    }
}

/// What the program does with the handle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Awaits it.
    Await,
    /// Does nothing with it for a while, then awaits it.
    AwaitLate(Duration),
    /// Waits so long and no longer.
    Within(Duration),
    /// Cancels it after a while.
    Cancel(Duration),
    /// Drops it at once.
    Drop,
}

const MINUTE: Duration = Duration::from_secs(60);
/// How many samples a crowd has.
pub const CROWD: u8 = 250;
/// How many samples each client sends at once beside the others.
const RIVALS: u8 = 50;
/// How many calls a long queue has.
const LONG_QUEUE: usize = 24;

impl Plan {
    /// The plan of a seed, cut down to `cut`.
    pub fn new(seed: u64, cut: &Cut) -> Self {
        let chance = Chance::new(seed);
        let calm_at = Duration::from_secs(3600 * cut.hours.max(1));
        let clients = clients(&chance.stream(1));
        let tasks = tasks(&chance.stream(2), clients.len(), calm_at);
        let server = server(&chance.stream(3));
        let mut spells = spells(&chance.stream(5), calm_at, clients.len(), server.expiry);
        spells.extend(spells_of_waits(&chance.stream(6), calm_at, clients.len()));
        spells.extend(spells_of_clients(&chance.stream(8), calm_at, clients.len()));
        let mut plan = Self {
            engine: cut.engine,
            seed,
            calm_at,
            mix: mix(&chance.stream(4)),
            spells,
            server,
            clients,
            tasks,
        };
        plan.cut(cut);
        plan.crowd();
        plan.rivals();
        plan.long_queues();
        if !cut.without.contains(&Kind::LongHint) && chance.stream(7).happens(0.3) {
            // Shorter than many a queue.
            plan.clients[0].progress_deadline = 3 * MINUTE;
        }
        plan
    }

    /// How long after its deadline a call may end: as late as tasks are polled, for each of the tasks that its end goes through.
    pub fn latest_end(&self) -> Duration {
        match self.spells.iter().any(|spell| spell.kind == Kind::Busy) {
            true => 4 * LATEST_POLL,
            false => Duration::ZERO,
        }
    }

    fn cut(&mut self, cut: &Cut) {
        self.clients.truncate(cut.clients.max(1));
        self.tasks.truncate(cut.tasks.max(1));
        for task in &mut self.tasks {
            task.client %= self.clients.len();
            task.steps.truncate(cut.steps.max(1));
        }
        for spell in &mut self.spells {
            spell.client = spell.client.map(|client| client % self.clients.len());
        }
        let happens =
            |kind: Kind| !cut.without.contains(&kind) && cut.only.is_none_or(|only| only == kind);
        self.mix.0.retain(|(kind, _)| happens(*kind));
        self.spells.retain(|spell| happens(spell.kind));
        if let Some(only) = cut.only.filter(|only| !only.lasts())
            && self.mix.0.is_empty()
        {
            self.mix.0.push((only, 0.1));
        }
    }

    /// A task for each crowd, and refusals that meet it.
    fn crowd(&mut self) {
        let crowds = self.spells.iter().filter(|spell| spell.kind == Kind::Crowd);
        let tasks: Vec<TaskPlan> = crowds
            .map(|spell| TaskPlan {
                client: spell.client.unwrap_or(0),
                steps: vec![Step {
                    pause: spell.from,
                    calls: vec![(Verb::Sample(CROWD), Behaviour::Await)],
                }],
            })
            .collect();
        if !tasks.is_empty() && !self.mix.0.is_empty() {
            self.mix.0.push((Kind::LimitedMs, 0.01));
        }
        self.tasks.extend(tasks);
    }

    /// A task of each client for each time that all send at once.
    fn rivals(&mut self) {
        for spell in self
            .spells
            .iter()
            .filter(|spell| spell.kind == Kind::Rivals)
        {
            let task = |client| TaskPlan {
                client,
                steps: vec![Step {
                    pause: spell.from,
                    calls: vec![(Verb::Sample(RIVALS), Behaviour::Await)],
                }],
            };
            self.tasks.extend((0..self.clients.len()).map(task));
            if !self.mix.0.is_empty() {
                self.mix.0.push((Kind::LimitedMs, 0.02));
            }
        }
    }

    /// A task for each long queue, longer than its client waits without news.
    fn long_queues(&mut self) {
        let of_queue = |spell: &&Spell| spell.kind == Kind::LongQueue;
        for spell in self.spells.iter().filter(of_queue) {
            let client = spell.client.unwrap_or(0);
            let usual = [
                Verb::ForwardBackward(1),
                Verb::OptimStep,
                Verb::Forward(1),
                Verb::SaveState,
            ];
            let calls = usual.iter().cycle().take(LONG_QUEUE);
            self.tasks.push(TaskPlan {
                client,
                steps: vec![Step {
                    pause: spell.from,
                    calls: calls.map(|verb| (*verb, Behaviour::Await)).collect(),
                }],
            });
            self.clients[client].progress_deadline = 3 * MINUTE;
        }
    }
}

fn server(chance: &Chance) -> ServerPlan {
    ServerPlan {
        deduplicates: chance.happens(0.7),
        session_polls: chance.happens(0.6),
        window: chance.happens(0.3).then(|| chance.between(1, 6) as u32),
        latency: *chance.pick(&[
            Duration::ZERO,
            Duration::from_millis(200),
            Duration::from_secs(5),
            Duration::from_secs(90),
        ]),
        expiry: *chance.pick(&[2 * MINUTE, 5 * MINUTE]),
    }
}

fn clients(chance: &Chance) -> Vec<ClientPlan> {
    let count = chance.between(1, 4);
    let client = |_| ClientPlan {
        json: chance.happens(0.3),
        progress_deadline: *chance.pick(&[10 * MINUTE, 30 * MINUTE]),
        operation_deadline: chance
            .happens(0.3)
            .then(|| chance.time(2 * MINUTE, 40 * MINUTE)),
    };
    (0..count).map(client).collect()
}

fn tasks(chance: &Chance, clients: usize, calm_at: Duration) -> Vec<TaskPlan> {
    let count = chance.between(1, 8);
    let most = calm_at / 8;
    let task = |_| TaskPlan {
        client: chance.below(clients as u64) as usize,
        steps: (0..chance.between(2, 9))
            .map(|_| step(chance, most))
            .collect(),
    };
    (0..count).map(task).collect()
}

fn step(chance: &Chance, longest_pause: Duration) -> Step {
    let usual = [
        (Verb::ForwardBackward(0), 5),
        (Verb::OptimStep, 4),
        (Verb::Forward(0), 2),
        (Verb::SaveState, 2),
        (Verb::SaveForSampler, 1),
        (Verb::Export, 1),
        (Verb::Load, 1),
        (Verb::Sample(0), 4),
        (Verb::Capabilities, 1),
    ];
    let all: Vec<Verb> = usual
        .iter()
        .flat_map(|(verb, times)| std::iter::repeat_n(*verb, *times))
        .collect();
    let call = |_| {
        let verb = match chance.pick(&all) {
            Verb::Forward(_) => Verb::Forward(chance.between(1, 7) as u8),
            Verb::ForwardBackward(_) => Verb::ForwardBackward(chance.between(1, 7) as u8),
            Verb::Sample(_) => Verb::Sample(chance.between(1, 12) as u8),
            other => *other,
        };
        (verb, behaviour(chance))
    };
    Step {
        pause: chance.time(Duration::ZERO, longest_pause),
        calls: (0..chance.between(1, 4)).map(call).collect(),
    }
}

fn behaviour(chance: &Chance) -> Behaviour {
    match chance.below(16) {
        0 => Behaviour::AwaitLate(chance.time(Duration::ZERO, 10 * MINUTE)),
        1 => Behaviour::Within(chance.time(Duration::ZERO, 2 * MINUTE)),
        2 => Behaviour::Cancel(chance.time(Duration::ZERO, MINUTE)),
        3 => Behaviour::Drop,
        _ => Behaviour::Await,
    }
}
