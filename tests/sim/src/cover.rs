//! How often each kind of fault met each kind of operation.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};

use tinkers::{ErrorKind, RecoveredError, RecoveredErrorCounts, Sent};

use crate::fault::Kind;
use crate::op::Op;
use crate::plan::{Behaviour, Verb};

/// Counts of faults by operation, and of what programs did with the handles of their calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cover {
    faults: BTreeMap<(Kind, Op), u64>,
    handles: BTreeMap<(Habit, &'static str), u64>,
    failures: BTreeMap<String, u64>,
    recovered_errors: BTreeMap<&'static str, u64>,
    held: BTreeMap<Op, u64>,
}

/// What a program does with a handle, without the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "see `Behaviour`")]
pub enum Habit {
    Await,
    AwaitLate,
    Within,
    Cancel,
    Drop,
}

impl Habit {
    const ALL: [Self; 5] = [
        Self::Await,
        Self::AwaitLate,
        Self::Within,
        Self::Cancel,
        Self::Drop,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Await => "awaited",
            Self::AwaitLate => "awaited late",
            Self::Within => "waited for a while",
            Self::Cancel => "cancelled",
            Self::Drop => "dropped",
        }
    }
}

impl From<Behaviour> for Habit {
    fn from(behaviour: Behaviour) -> Self {
        match behaviour {
            Behaviour::Await => Self::Await,
            Behaviour::AwaitLate(_) => Self::AwaitLate,
            Behaviour::Within(_) => Self::Within,
            Behaviour::Cancel(_) => Self::Cancel,
            Behaviour::Drop => Self::Drop,
        }
    }
}

impl Cover {
    /// One more fault.
    pub fn met(&mut self, kind: Kind, op: Op) {
        *self.faults.entry((kind, op)).or_default() += 1;
    }

    /// One more handle.
    pub fn handled(&mut self, habit: Habit, verb: Verb) {
        *self.handles.entry((habit, verb.name())).or_default() += 1;
    }

    /// One more request that did not leave, since the gate had closed while it waited for a connection.
    pub fn held(&mut self, op: Op) {
        *self.held.entry(op).or_default() += 1;
    }

    /// How many requests did not leave.
    pub fn held_back(&self) -> u64 {
        self.held.values().sum()
    }

    /// One more call that failed.
    pub fn failed(&mut self, kind: ErrorKind, sent: Sent) {
        *self
            .failures
            .entry(format!("{kind:?} {sent:?}"))
            .or_default() += 1;
    }

    /// Errors that clients went on from.
    pub fn went_on(&mut self, counts: &RecoveredErrorCounts) {
        for (recovered_error, count) in counts.iter() {
            *self
                .recovered_errors
                .entry(recovered_error.name())
                .or_default() += count;
        }
    }

    /// How many errors of a kind clients went on from.
    pub fn recovered_errors(&self, recovered_error: RecoveredError) -> u64 {
        self.recovered_errors
            .get(recovered_error.name())
            .copied()
            .unwrap_or(0)
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        for (cell, count) in &other.faults {
            *self.faults.entry(*cell).or_default() += count;
        }
        for (cell, count) in &other.handles {
            *self.handles.entry(*cell).or_default() += count;
        }
        for (kind, count) in &other.failures {
            *self.failures.entry(kind.clone()).or_default() += count;
        }
        for (kind, count) in &other.recovered_errors {
            *self.recovered_errors.entry(kind).or_default() += count;
        }
        for (op, count) in &other.held {
            *self.held.entry(*op).or_default() += count;
        }
    }

    /// How many faults there were.
    pub fn total(&self) -> u64 {
        self.faults.values().sum()
    }

    /// The cells that should have met and did not.
    pub fn missing(&self) -> Vec<String> {
        let faults = Kind::ALL
            .into_iter()
            .flat_map(|kind| Op::ALL.map(|op| (kind, op)))
            .filter(|(kind, op)| kind.strikes(*op) && !self.faults.contains_key(&(*kind, *op)))
            .map(|(kind, op)| format!("{} x {}", kind.name(), op.name()));
        let handles = Habit::ALL
            .into_iter()
            .flat_map(|habit| Verb::NAMES.map(|verb| (habit, verb)))
            .filter(|cell| !self.handles.contains_key(cell))
            .map(|(habit, verb)| format!("{} x {verb}", habit.name()));
        faults.chain(handles).collect()
    }

    /// The tables, with a dot where a kind of fault cannot strike.
    pub fn table(&self) -> String {
        let mut faults = empty();
        faults.set_header(
            std::iter::once(String::new()).chain(Op::ALL.map(|op| op.name().to_owned())),
        );
        for kind in Kind::ALL {
            let cells = Op::ALL.map(|op| match self.faults.get(&(kind, op)) {
                Some(count) => count.to_string(),
                None if kind.strikes(op) => "0".to_owned(),
                None => ".".to_owned(),
            });
            faults.add_row(std::iter::once(kind.name().to_owned()).chain(cells));
        }
        let mut handles = empty();
        handles.set_header(std::iter::once("").chain(Verb::NAMES));
        for habit in Habit::ALL {
            let count = |verb| self.handles.get(&(habit, verb)).copied().unwrap_or(0);
            let cells = Verb::NAMES.map(|verb| count(verb).to_string());
            handles.add_row(std::iter::once(habit.name().to_owned()).chain(cells));
        }
        let failures = self.failures.iter();
        let failures: Vec<String> = failures
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        let failures = failures.join(", ");
        let recovered_errors = self
            .recovered_errors
            .iter()
            .filter(|(_, count)| **count > 0);
        let recovered_errors: Vec<String> = recovered_errors
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        let recovered_errors = recovered_errors.join(", ");
        let held = self.held.iter();
        let held: Vec<String> = held
            .map(|(op, count)| format!("{} {count}", op.name()))
            .collect();
        let held = held.join(", ");
        format!(
            "faults by the operations that they met:\n{faults}\n\nwhat programs did with the handles of their calls:\n{handles}\n\nhow calls failed, and what is known of their requests:\n  {failures}\n\nerrors that clients went on from:\n  {recovered_errors}\n\nrequests that did not leave, since the gate closed while they waited for a connection:\n  {held}"
        )
    }
}

fn empty() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}
