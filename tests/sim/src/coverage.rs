//! Counts of what happened in a run: faults by operation, uses of call handles, and errors.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};

use tinkers::{ErrorKind, RecoveredError, RecoveredErrorCounts, Sent};

use crate::fault::Fault;
use crate::op::Op;
use crate::plan::{CallKind, HandleUse};

/// Counts of what happened in one or more runs: injected faults by operation, uses of call handles
/// (the futures of results), and errors. They show which situations the simulation has covered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    faults: BTreeMap<(Fault, Op), u64>,
    handle_uses: BTreeMap<(&'static str, &'static str), u64>,
    failures: BTreeMap<String, u64>,
    recovered_errors: BTreeMap<&'static str, u64>,
    held: BTreeMap<Op, u64>,
}

impl Coverage {
    /// Counts a fault that was injected into a request of the operation `op`.
    pub fn record_fault(&mut self, fault: Fault, op: Op) {
        *self.faults.entry((fault, op)).or_default() += 1;
    }

    /// Counts a way in which the program has used the handle of a call (the future of its result),
    /// such as awaiting or dropping it.
    pub fn record_handle_use(&mut self, handle_use: HandleUse, kind: CallKind) {
        let cell = (handle_use.name(), kind.name());
        *self.handle_uses.entry(cell).or_default() += 1;
    }

    /// Counts a request that waited for a connection and was then not sent, because a 429 response
    /// had meanwhile stopped the requests of its route class.
    pub fn record_held(&mut self, op: Op) {
        *self.held.entry(op).or_default() += 1;
    }

    /// Counts a call that failed with an error of this kind.
    pub fn record_failure(&mut self, kind: ErrorKind, sent: Sent) {
        let failure = format!("{kind:?} {sent:?}");
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Adds the numbers of errors from which the client has recovered, for example by a retry, as
    /// the client library has counted them.
    pub fn record_recovered_errors(&mut self, counts: &RecoveredErrorCounts) {
        for (kind, count) in counts.iter() {
            *self.recovered_errors.entry(kind.name()).or_default() += count;
        }
    }

    /// Returns the number of requests that waited for a connection and were then not sent, because
    /// a 429 response had meanwhile stopped the requests of their route class.
    pub fn held(&self) -> u64 {
        self.held.values().sum()
    }

    /// Returns the number of errors of one kind from which the client has recovered, for example by
    /// a retry.
    pub fn recovered_errors(&self, kind: RecoveredError) -> u64 {
        self.recovered_errors.get(kind.name()).copied().unwrap_or(0)
    }

    /// Returns the number of injected faults.
    pub fn total_faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Adds the counts of `other` to these counts.
    pub fn add(&mut self, other: &Self) {
        add(&mut self.faults, &other.faults);
        add(&mut self.handle_uses, &other.handle_uses);
        add(&mut self.failures, &other.failures);
        add(&mut self.recovered_errors, &other.recovered_errors);
        add(&mut self.held, &other.held);
    }

    /// Describes the gaps in the coverage: each combination of fault and operation, or of handle
    /// use and call, that is possible but did not occur in any run.
    pub fn missing(&self) -> Vec<String> {
        let faults = Fault::ALL
            .into_iter()
            .flat_map(|fault| Op::ALL.map(|op| (fault, op)))
            .filter(|(fault, op)| fault.affects(*op) && !self.faults.contains_key(&(*fault, *op)))
            .map(|(fault, op)| format!("{} x {}", fault.name(), op.name()));
        let handle_uses = HandleUse::NAMES
            .into_iter()
            .flat_map(|handle_use| CallKind::NAMES.map(|kind| (handle_use, kind)))
            .filter(|cell| !self.handle_uses.contains_key(cell))
            .map(|(handle_use, kind)| format!("{handle_use} x {kind}"));
        faults.chain(handle_uses).collect()
    }

    /// Formats the counts of faults, handle uses and errors as tables. A dot marks a combination of
    /// fault and operation that is impossible.
    pub fn table(&self) -> String {
        let mut faults = table(Op::ALL.map(Op::name));
        for fault in Fault::ALL {
            let cells = Op::ALL.map(|op| match self.faults.get(&(fault, op)) {
                Some(count) => count.to_string(),
                None if fault.affects(op) => "0".to_owned(),
                None => ".".to_owned(),
            });
            faults.add_row(std::iter::once(fault.name().to_owned()).chain(cells));
        }
        let mut handle_uses = table(CallKind::NAMES);
        for handle_use in HandleUse::NAMES {
            let count = |kind| self.handle_uses.get(&(handle_use, kind)).copied();
            let cells = CallKind::NAMES.map(|kind| count(kind).unwrap_or(0).to_string());
            handle_uses.add_row(std::iter::once(handle_use.to_owned()).chain(cells));
        }
        let failures = list(self.failures.iter());
        let recovered_errors = list(
            self.recovered_errors
                .iter()
                .filter(|(_, count)| **count > 0),
        );
        let held = list(self.held.iter().map(|(op, count)| (op.name(), count)));
        format!(
            "faults by operation:\n{faults}\n\nuses of call handles:\n{handle_uses}\n\nfailed calls, by error kind and whether the request was sent:\n  {failures}\n\nrecovered errors:\n  {recovered_errors}\n\nrequests held back since the gate closed while they waited for a connection:\n  {held}"
        )
    }
}

fn add<K: Ord + Clone>(counts: &mut BTreeMap<K, u64>, other: &BTreeMap<K, u64>) {
    for (key, count) in other {
        *counts.entry(key.clone()).or_default() += count;
    }
}

fn list<'a>(counts: impl Iterator<Item = (impl std::fmt::Display, &'a u64)>) -> String {
    let items: Vec<String> = counts
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    items.join(", ")
}

fn table(columns: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(std::iter::once("").chain(columns));
    table
}
