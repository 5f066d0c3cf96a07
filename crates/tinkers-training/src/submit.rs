//! Sends one request, in the body format that the server accepts.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::contain::contain;
use tinkers_core::retry::WhenMaybeApplied;
use tinkers_core::{
    Accepted, BodyFormat, CallPolicy, ClientId, Error, HttpResponse, InFlightPermit, ProfileUpdate,
    ProgressCell, RecoveredError, Result, Sent, ServerProfile, SessionContext, Timestamp,
};
use tinkers_futures::{is_submission, read_submission};
use tinkers_wire::{SubmissionResponse, TinkerPath, routes};

use crate::requests::{OnLostReply, Request};

/// The outcome of a request that the server accepted.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// Its result can be retrieved.
    Accepted {
        response: SubmissionResponse,
        /// The permit of the in-flight window, held until the result is there.
        flight: InFlightPermit,
        /// Time from the method call to the acceptance.
        elapsed: Duration,
        seq_id: u64,
        /// Whether an earlier attempt may have been applied.
        earlier: Sent,
        /// For a save: whether only these attempts can have created a checkpoint of its name.
        is_fresh: bool,
    },
    /// A save whose reply was lost and whose checkpoint was found.
    Found(TinkerPath),
}

impl Submitted {
    /// Marks an earlier attempt as possibly applied.
    pub(crate) fn after_lost_reply(mut self) -> Self {
        if let Self::Accepted { earlier, .. } = &mut self {
            *earlier = Sent::MaybeSent;
        }
        self
    }
}

/// One request with everything that is needed to send it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) session: &'a dyn SessionContext,
    pub(crate) model_id: &'a str,
    pub(crate) client: ClientId,
    pub(crate) operation: &'static str,
    pub(crate) progress: &'a Arc<ProgressCell>,
    pub(crate) called_at: Timestamp,
    pub(crate) request: &'a dyn Request,
    pub(crate) seq_id: u64,
}

impl Outgoing<'_> {
    /// Returns the retry policy. A request that may have been applied is repeated only if the server applies a repeated number
    /// once, or if applying the request twice does no harm.
    pub(crate) fn policy(&self) -> CallPolicy {
        let is_safe = self.session.profile().deduplicates >= self.request.deduplicated_with();
        if is_safe || self.request.on_lost_reply() == OnLostReply::Repeat {
            self.repeating()
        } else {
            self.repeating().giving_up_when_maybe_applied()
        }
    }

    /// Returns the retry policy that repeats even a request that may have been applied.
    pub(crate) fn repeating(&self) -> CallPolicy {
        let window = CallPolicy::PATIENT.window;
        CallPolicy {
            window: window.max(self.session.progress_deadline()),
            ..CallPolicy::PATIENT
        }
    }

    /// Sends the request. If the server refuses the format of a pass's body before any format was accepted, sends the other format
    /// once, and remembers which one the server accepts.
    pub(crate) async fn send(&self, policy: CallPolicy) -> Result<Submitted> {
        let profile = self.session.profile();
        if !self.request.has_formats() || profile.bodies_confirmed {
            return self.accepted(self.attempt(&profile, policy, Refusals::Usual).await?);
        }
        let refusals = Refusals::of(profile.bodies);
        let first = match self.attempt(&profile, policy, refusals).await {
            Ok(accepted) => return self.accepted_as(profile.bodies, accepted),
            Err(first) => first,
        };
        if is_answered(&first, 500..=500) && self.is_known_format(&profile) {
            return self.after_500(first, &profile, policy).await;
        }
        if !self.may_be_the_format(&first, &profile) {
            return Err(first);
        }
        let format = profile.bodies.other();
        self.session
            .caller()
            .recovered_errors
            .count(RecoveredError::Fallback);
        contain(
            || tracing::debug!(recovered_error = RecoveredError::Fallback.name(), error = %first, ?format, "the server refused the format of a body; trying the other"),
        );
        let other = (*profile).clone().with_bodies(format);
        let second = match self.attempt(&other, policy, Refusals::of(format)).await {
            Ok(accepted) => {
                // A 415 rules the first format out, on every route.
                if first.status() == Some(415) {
                    self.session.learn(ProfileUpdate::Bodies(format));
                }
                return self.accepted_as(format, accepted);
            }
            Err(second) => second,
        };
        match (first.status(), second.status()) {
            (Some(500), Some(415)) if second.sent() == Sent::Answered => {
                self.after_500(first, &profile, policy).await
            }
            // The second refusal has a reason, which a bare 500 does not. The first request may have been applied.
            (Some(500), _) => Err(second.with_sent(Sent::MaybeSent)),
            // The format was not the cause: the caller needs the first reason.
            _ if is_answered(&second, 400..=499) => Err(first),
            // A 500 to the only format left: the request may have been applied.
            _ if is_answered(&second, 500..=500) => Err(Error::outcome_unknown(second)),
            _ => Err(second),
        }
    }

    /// Handles a bare 500 that the body's format did not cause: the request may have been applied.
    async fn after_500(
        &self,
        first: Error,
        profile: &ServerProfile,
        policy: CallPolicy,
    ) -> Result<Submitted> {
        if policy.when_maybe_applied != WhenMaybeApplied::Repeat {
            return Err(Error::outcome_unknown(first));
        }
        self.session
            .caller()
            .recovered_errors
            .note(RecoveredError::Repeat, &first);
        match self.attempt(profile, policy, Refusals::Usual).await {
            Ok(accepted) => self.accepted(accepted),
            Err(error) => Err(error.with_sent(Sent::MaybeSent)),
        }
    }

    /// Remembers the accepted format. A forward pass in JSON has its own route and says nothing about the others.
    fn accepted_as(&self, format: BodyFormat, accepted: Accepted) -> Result<Submitted> {
        if format == BodyFormat::Protobuf || self.request.adds_gradients() {
            self.session.learn(ProfileUpdate::Bodies(format));
        }
        self.accepted(accepted)
    }

    /// Returns whether the server is known to accept the format: it lists it, or has accepted it meanwhile.
    fn is_known_format(&self, tried: &ServerProfile) -> bool {
        let known = self.session.profile();
        let accepted = known.bodies_confirmed && known.bodies == tried.bodies;
        accepted || known.lists_bodies(tried.bodies)
    }

    async fn attempt(
        &self,
        profile: &ServerProfile,
        policy: CallPolicy,
        refusals: Refusals,
    ) -> Result<Accepted> {
        let mut call = self.request.call(self.seq_id, profile)?;
        call.policy = policy;
        call.operation = Some(self.operation);
        call.client = self.client;
        call.is_readable = Some(is_submission);
        call.progress = Some(Arc::clone(self.progress));
        call.is_final = match refusals {
            Refusals::Usual => None,
            Refusals::OfFormat => Some(is_bare_500),
        };
        self.session.caller().call(call).await
    }

    fn accepted(&self, accepted: Accepted) -> Result<Submitted> {
        Ok(Submitted::Accepted {
            response: read_submission(&accepted.response)?,
            earlier: accepted.earlier,
            is_fresh: false,
            flight: accepted.flight,
            elapsed: self.session.caller().time.now().since(self.called_at),
            seq_id: self.seq_id,
        })
    }

    /// Returns whether the body's format may be the cause of the refusal. Never after an attempt that may have been applied: no
    /// server recognises a body in another format as a repeat.
    fn may_be_the_format(&self, error: &Error, tried: &ServerProfile) -> bool {
        if error.sent() != Sent::Answered {
            return false;
        }
        match (tried.bodies, error.status()) {
            (_, Some(415)) => true,
            // The forward pass in JSON has its own route, which not all servers have.
            (BodyFormat::Json, Some(404 | 405)) => {
                !self.request.adds_gradients() && !tried.lists_route(routes::FORWARD)
            }
            // The content may be the cause as well, so the other format must not carry less.
            (BodyFormat::Protobuf, Some(422 | 500)) => self.request.is_the_same_in_json(),
            _ => false,
        }
    }
}

/// Returns whether the error is a plain answer with one of these statuses.
fn is_answered(error: &Error, statuses: RangeInclusive<u16>) -> bool {
    let status = error
        .status()
        .is_some_and(|status| statuses.contains(&status));
    status && error.sent() == Sent::Answered
}

/// Which answers are final refusals.
#[derive(Debug, Clone, Copy)]
enum Refusals {
    /// Those of the table of retryable statuses.
    Usual,
    /// Also the answers of servers that cannot decode the body's format.
    OfFormat,
}

impl Refusals {
    /// Returns the refusals to expect of a format that was not accepted yet. JSON is never refused with a 500 for its format.
    fn of(format: BodyFormat) -> Self {
        match format {
            BodyFormat::Json => Self::Usual,
            _ => Self::OfFormat,
        }
    }
}

/// Returns whether the answer is a 500 in plain text: the answer of web frameworks when a handler fails, as it does when it
/// decodes a protobuf body as JSON. A Tinker server gives its reason in JSON; proxies answer with HTML.
fn is_bare_500(answer: &HttpResponse) -> bool {
    let is_plain = match answer.header("content-type") {
        Some(kind) => kind.starts_with("text/plain"),
        None => !answer.body.starts_with(b"<") && !answer.body.starts_with(b"{"),
    };
    answer.status == http::StatusCode::INTERNAL_SERVER_ERROR && is_plain
}
