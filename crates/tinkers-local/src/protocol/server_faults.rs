//! Faults of the whole server: a capacity pause, the expiry of all sessions, a restart.

use std::time::Duration;

use super::ids::OperationId;
use super::state::agenda::Alarm;
use super::state::completions::CompletionLog;
use super::state::operations::{Goal, Origin};
use super::state::records::SessionEnd;
use super::{Effect, Protocol, Stamp};
use crate::engine::Work;

impl Protocol {
    /// Begins a simulated lack of capacity of `length`. New requests are accepted but their operations do not start, running
    /// operations continue, and polls for single results report `paused_capacity`. Has no effect if a current simulation ends
    /// later.
    pub fn pause_capacity(&mut self, at: Stamp, length: Duration) -> Vec<Effect> {
        let until = at.now.after(length);
        self.jobs.pause(until);
        self.agenda.add(until, Alarm::Resume);
        for exchange in self.polls.exchanges() {
            self.poll_is_due(exchange);
        }
        self.take_effects(at)
    }

    /// Ends all sessions, as if the server had received no heartbeats.
    pub fn expire_sessions(&mut self, at: Stamp) -> Vec<Effect> {
        self.end_all_sessions(at, &SessionEnd::Expired);
        self.take_effects(at)
    }

    /// Simulates a restart of the server: deletes sessions, models, samplers and results, but neither checkpoints nor records. All engine jobs are
    /// cancelled except running saves, which complete. Requests that wait for a response get none; the caller has to close their
    /// connections.
    pub fn restart(&mut self, at: Stamp) -> Vec<Effect> {
        self.resume();
        self.end_all_sessions(at, &SessionEnd::Restarted);
        self.cancel_all();
        let operations = &self.operations;
        let unloads = |running| {
            let operation = operations.get(running);
            operation.is_none_or(|operation| matches!(operation.goal(), Goal::Unload))
        };
        // A model with a running operation is unloaded after the operation, since the engine requires this order.
        self.models.restart(unloads);
        self.sessions.clear();
        self.samplers.clear();
        self.polls.clear();
        self.completions = CompletionLog::default();
        self.operations.restart();
        self.effects
            .retain(|effect| !matches!(effect, Effect::Respond(..)));
        self.take_effects(at)
    }

    /// Ends a simulated lack of capacity at its planned end and starts the postponed operations, unless the lack was extended.
    pub(super) fn resume_is_due(&mut self, at: Stamp) {
        if self.jobs.is_pause_over(at.now) {
            self.resume();
        }
    }

    fn resume(&mut self) {
        self.effects.extend(self.jobs.resume());
    }

    /// Handles the end of an operation that was already running when the server was restarted: deletes the operation and unloads
    /// its model.
    pub(super) fn leftover_ended(&mut self, id: OperationId, origin: Option<&Origin>) {
        let operation = self.operations.get(id);
        if !operation.is_some_and(|operation| operation.is_abandoned()) {
            return;
        }
        self.forget(id);
        if let Some(Origin::Model(model, _)) = origin
            && self.models.take_orphan(model)
        {
            self.clean_up(Work::UnloadModel {
                model: model.clone(),
            });
        }
    }

    fn end_all_sessions(&mut self, at: Stamp, end: &SessionEnd) {
        for id in self.sessions.live_ids() {
            self.end_session(at, &id, end.clone());
        }
    }

    /// Cancels all operations that still run after the end of all sessions: samples without a session, and operations of models
    /// that clients are unloading. Saves and unloads are not cancelled.
    fn cancel_all(&mut self) {
        let running = self.operations.ids_where(|operation| {
            !operation.is_cancelled() && !matches!(operation.goal(), Goal::Unload)
        });
        for id in running {
            self.cancel(id, "the server was started again");
        }
    }
}
