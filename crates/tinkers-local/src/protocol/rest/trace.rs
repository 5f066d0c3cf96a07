//! The export of the trace of a session.

use tinkers_wire::{SignedUrl, TraceExport};

use crate::http::LazyResponse;
use crate::protocol::ids::OperationId;
use crate::protocol::state::operations::{Goal, Origin};
use crate::protocol::{Protocol, Stamp};
use crate::read::Refusal;
use crate::trace::{PATH, Span};

impl Protocol {
    /// Handles `GET /sessions/{id}/trace_export`: returns the address of the trace of a session, on the server that the request names.
    pub(in crate::protocol) fn export_trace(
        &mut self,
        at: Stamp,
        id: &str,
        origin: Option<&str>,
    ) -> Result<LazyResponse, Refusal> {
        self.known_session(id)?;
        let export = match origin {
            _ if !self.traces.has(id) => {
                TraceExport::failed("the session has no operations since the start of the server")
            }
            Some(origin) => {
                let secret = self.traces.issue(at.now, id);
                TraceExport::ready(SignedUrl::new(format!("{origin}{PATH}{secret}")))
            }
            None => {
                TraceExport::failed("the request has no Host header, so the trace has no address")
            }
        };
        Ok(LazyResponse::ok(&export))
    }

    /// Handles `GET /traces/{secret}`: returns a trace.
    pub(in crate::protocol) fn trace(
        &self,
        at: Stamp,
        secret: &str,
    ) -> Result<LazyResponse, Refusal> {
        let spans = self.traces.of(at.now, secret);
        let spans =
            spans.ok_or_else(|| Refusal::not_found("no trace at this address, or no longer"))?;
        Ok(LazyResponse::trace(spans))
    }

    /// Adds an operation that has just ended to the trace of its session.
    pub(in crate::protocol) fn trace_operation(&mut self, at: Stamp, id: OperationId) {
        let Some(operation) = self.operations.get(id) else {
            return;
        };
        let (of, session) = match operation.origin() {
            Origin::Model(model, _) => {
                let run = self.records.runs.get(model);
                (model, run.map(|run| &run.session))
            }
            Origin::Sampler(id, _) => {
                let sampler = self.records.samplers.get(id);
                (id, sampler.map(|sampler| &sampler.session))
            }
            Origin::Free(_) => return,
        };
        let Some(session) = session else {
            return;
        };
        let (accepted, started) = operation.times();
        let span = Span {
            session: session.clone(),
            of: of.clone(),
            name: name(operation.goal()),
            accepted,
            started,
            ended: at.now,
            has_failed: operation.result().is_some_and(|result| result.is_err()),
        };
        self.traces.add(span);
    }
}

/// Returns the name of an operation in traces, which is that of its route.
fn name(goal: &Goal) -> &'static str {
    match goal {
        Goal::CreateModel => "create_model",
        Goal::CreateFrom(_) | Goal::LoadInto(_) => "load_weights",
        Goal::Unload => "unload_model",
        Goal::Pass(mode, _) => mode.name(),
        Goal::Step => "optim_step",
        Goal::Sample(..) => "asample",
        Goal::Save(_) => "save_weights",
        Goal::Snapshot(..) => "save_weights_for_sampler",
        Goal::Refused => "refused",
    }
}
