//! What must hold of every run, asked when it is over.

use std::collections::{BTreeMap, BTreeSet};

use tinkers::{RecoveredErrorCounts, Sent};

use crate::book::{Book, CallId, Entry, Outcome};
use crate::ledger::{LedgerEngine, Piece, Record, Weights};
use crate::listen::Heard;
use crate::plan::Verb;
use crate::real::RealEngine;
use crate::watch::{Rule, Violation, Watch};

/// Everything that the book and the engine's record must agree on.
pub fn all(book: &Book, engine: &LedgerEngine) -> Vec<Violation> {
    let calls = book.entries();
    let records = engine.records();
    let mut found = Vec::new();
    ends(&calls, &mut found);
    truth(&calls, &records, &mut found);
    order(&calls, &records, &mut found);
    weights(&records, &mut found);
    if let Some(real) = engine.real() {
        tensors(real, &mut found);
    }
    found
}

/// What was logged.
pub fn heard(heard: &Heard, watch: &Watch) -> Vec<Violation> {
    let mut found = Vec::new();
    for line in &heard.with_key {
        found.push(broken(Rule::Key, format!("logged: {line}")));
    }
    for (id, lines) in &heard.by_request {
        let polls = watch.polls_of(id);
        let most = 6 + 2 * u64::from((1 + polls).ilog2());
        if *lines > most {
            found.push(broken(
                Rule::Log,
                format!("{lines} lines on {id} for {polls} polls"),
            ));
        }
    }
    found
}

/// Every error that a client went on from is on its counter: each such line of the log was counted once, and no line tells of
/// an error that has no counter.
pub fn counted(heard: &Heard, counts: &RecoveredErrorCounts) -> Vec<Violation> {
    let mut found = Vec::new();
    for (recovered_error, counted) in counts.iter() {
        let logged = heard
            .recovered_errors
            .get(recovered_error.name())
            .copied()
            .unwrap_or(0);
        if logged != counted {
            let name = recovered_error.name();
            let what =
                format!("{logged} errors of the kind {name} were logged and {counted} counted");
            found.push(broken(Rule::Counted, what));
        }
    }
    for line in &heard.uncounted {
        found.push(broken(Rule::Counted, format!("on no counter: {line}")));
    }
    found
}

fn broken(rule: Rule, what: impl Into<String>) -> Violation {
    let what = what.into();
    Violation { rule, what }
}

/// Each call ends once, within its deadline, with its own result.
fn ends(calls: &[(CallId, Entry)], found: &mut Vec<Violation>) {
    for (call, entry) in calls {
        if entry.ended > 1 {
            found.push(broken(
                Rule::EndsOnce,
                format!("call {call} ended {} times", entry.ended),
            ));
        }
        if let (Some(deadline), Some((at, _))) = (entry.deadline, &entry.outcome)
            && *at > deadline
        {
            let late = at.since(deadline);
            found.push(broken(
                Rule::EndsOnce,
                format!("call {call} ({:?}) ended {late:?} late", entry.verb),
            ));
        }
        if let Some((_, Outcome::Wrong(what))) = &entry.outcome {
            found.push(broken(Rule::Truth, format!("call {call}: {what}")));
        }
    }
}

/// What a call makes a model do, in order.
fn pieces(call: CallId, entry: &Entry) -> Vec<Piece> {
    let data = |count: u8| 0..u32::from(count);
    match entry.verb {
        Verb::Forward(count) => data(count)
            .map(|place| Piece::Forward(call, place))
            .collect(),
        Verb::ForwardBackward(count) => data(count)
            .map(|place| Piece::Backward(call, place))
            .collect(),
        Verb::OptimStep => vec![Piece::Step(call)],
        Verb::SaveState => vec![Piece::Save(call)],
        Verb::SaveForSampler => vec![Piece::Export(call)],
        Verb::Load => entry.loads.map(Piece::Load).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// A success was applied, and what was not sent was not.
fn truth(
    calls: &[(CallId, Entry)],
    records: &BTreeMap<String, Record>,
    found: &mut Vec<Violation>,
) {
    for (call, entry) in calls {
        // Loads bear no number of their own; their order is checked.
        let Some(record) = entry.model.as_ref().and_then(|model| records.get(model)) else {
            continue;
        };
        if entry.verb == Verb::Load {
            continue;
        }
        let pieces = pieces(*call, entry);
        let applied = pieces
            .iter()
            .filter(|piece| record.pieces.contains(piece))
            .count();
        match &entry.outcome {
            Some((_, Outcome::Ok)) if applied < pieces.len() => {
                let what = format!(
                    "call {call} succeeded and {applied} of {} pieces were applied",
                    pieces.len()
                );
                found.push(broken(Rule::Truth, what));
            }
            Some((
                _,
                Outcome::Failed {
                    sent: Sent::NotSent,
                    kind,
                    text,
                    ..
                },
            )) if applied > 0 => {
                let what = format!(
                    "call {call} ended in {kind:?}, not sent, and {applied} pieces were applied: {text}"
                );
                found.push(broken(Rule::Truth, what));
            }
            _ => {}
        }
    }
}

/// Each model did what its calls asked for, each once at most, in their order.
fn order(
    calls: &[(CallId, Entry)],
    records: &BTreeMap<String, Record>,
    found: &mut Vec<Violation>,
) {
    for (model, record) in records {
        let of_model = calls
            .iter()
            .filter(|(_, entry)| entry.model.as_ref() == Some(model));
        let mut asked = of_model.flat_map(|(call, entry)| pieces(*call, entry));
        for piece in &record.pieces {
            if !asked.any(|wanted| wanted == *piece) {
                let what = format!(
                    "{model} did {piece:?} twice, or after what was asked for later: {:?}",
                    record.pieces
                );
                found.push(broken(Rule::Order, what));
                break;
            }
        }
    }
}

/// The weights are those of a run of just the applied calls, each once, in order.
fn weights(records: &BTreeMap<String, Record>, found: &mut Vec<Violation>) {
    let mut saved: BTreeMap<u32, u64> = BTreeMap::new();
    let mut open: Vec<(&String, &Record)> = records.iter().collect();
    // A model can begin with, and load, what others saved; so they are worked off in rounds.
    while !open.is_empty() {
        let before = open.len();
        open.retain(|(model, record)| match replay(record, &mut saved) {
            None => true,
            Some(weights) => {
                if weights != record.weights {
                    found.push(broken(
                        Rule::Weights,
                        format!("the weights of {model} are not those of its calls"),
                    ));
                }
                false
            }
        });
        if open.len() == before {
            let left = open.iter().map(|(model, _)| model.as_str());
            let left: Vec<&str> = left.collect();
            found.push(broken(
                Rule::Weights,
                format!("{left:?} load what nobody saved"),
            ));
            return;
        }
    }
}

/// The real weights are, to the bit, those of a run without faults of just the applied calls; so are the optimizer's moments
/// and the gradients that were held.
fn tensors(real: &RealEngine, found: &mut Vec<Violation>) {
    for what in real.refused() {
        found.push(broken(Rule::Truth, format!("the engine refused {what}")));
    }
    let (ends, faultless) = match (real.ends(), real.faultless()) {
        (Ok(ends), Ok(faultless)) => (ends, faultless),
        (Err(why), _) | (_, Err(why)) => return found.push(broken(Rule::Weights, why)),
    };
    if !ends.keys().eq(faultless.keys()) {
        found.push(broken(Rule::Weights, "other models come of the same calls"));
    }
    for (model, end) in &ends {
        if faultless.get(model) != Some(end) {
            found.push(broken(
                Rule::Weights,
                format!("the tensors of {model} are not those of its calls alone"),
            ));
        }
    }
}

/// The weights after the calls of a record; `None` while something that it loads is not known.
fn replay(record: &Record, saved: &mut BTreeMap<u32, u64>) -> Option<Weights> {
    let mut weights = Weights::NEW;
    let mut own = saved.clone();
    if let Some(from) = record.from {
        own.get(&from)?;
        weights.apply(&Piece::Load(from), &own);
    }
    let mut done = BTreeSet::new();
    for piece in &record.pieces {
        match piece {
            Piece::Load(call) => {
                own.get(call)?;
            }
            Piece::Save(call) | Piece::Export(call) => {
                own.insert(*call, weights.weights);
            }
            _ if !done.insert(piece) => continue,
            _ => {}
        }
        weights.apply(piece, &own);
    }
    *saved = own;
    Some(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::Timestamp;

    fn call(verb: Verb) -> Entry {
        Entry {
            client: 0,
            verb,
            model: Some("m".to_owned()),
            loads: None,
            called_at: Timestamp::ORIGIN,
            deadline: None,
            outcome: None,
            ended: 0,
            left: false,
            is_late: false,
        }
    }

    fn record(pieces: Vec<Piece>) -> BTreeMap<String, Record> {
        let mut weights = Weights::NEW;
        for piece in &pieces {
            weights.apply(piece, &BTreeMap::new());
        }
        let record = Record {
            from: None,
            pieces,
            weights,
        };
        BTreeMap::from([("m".to_owned(), record)])
    }

    fn rules(pieces: Vec<Piece>) -> Vec<Rule> {
        let calls = [
            (1, call(Verb::ForwardBackward(2))),
            (2, call(Verb::OptimStep)),
        ];
        let records = record(pieces);
        let mut found = Vec::new();
        order(&calls, &records, &mut found);
        weights(&records, &mut found);
        found.into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_step_that_overtakes_and_a_step_taken_twice_are_found() {
        let (one, two, step) = (Piece::Backward(1, 0), Piece::Backward(1, 1), Piece::Step(2));
        assert_eq!(rules(vec![one.clone(), two.clone(), step.clone()]), []);
        assert_eq!(rules(vec![step.clone()]), []);
        assert_eq!(rules(vec![step.clone(), one.clone()]), [Rule::Order]);
        assert_eq!(rules(vec![two.clone(), one.clone()]), [Rule::Order]);
        assert_eq!(
            rules(vec![one, step.clone(), step]),
            [Rule::Order, Rule::Weights]
        );
    }
}
