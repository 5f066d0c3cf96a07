//! Sending one part in the form that the server takes.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tinkers_core::foreign::contain;
use tinkers_core::retry::WhenMaybeApplied;
use tinkers_core::{
    Accepted, BodyFormat, ClientId, Error, Fact, HttpResponse, Moment, Policy, ProgressCell,
    Result, Sent, ServerProfile, SessionContext, Setback,
};
use tinkers_futures::{is_promise, promise};
use tinkers_wire::routes;

use crate::delivery::Taken;
use crate::lost::Finder;
use crate::parts::{Part, WhenLost};

/// One request of a turn, with everything that its sending needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submission<'a> {
    pub(crate) session: &'a dyn SessionContext,
    pub(crate) model_id: &'a str,
    pub(crate) client: ClientId,
    pub(crate) operation: &'static str,
    pub(crate) progress: &'a Arc<ProgressCell>,
    pub(crate) taken_at: Moment,
    pub(crate) part: &'a dyn Part,
    pub(crate) seq_id: u64,
}

impl Submission<'_> {
    /// What looking for its save needs.
    pub(crate) fn finder(&self) -> Finder<'_> {
        Finder {
            session: self.session,
            model_id: self.model_id,
            client: self.client,
            operation: self.operation,
            progress: self.progress,
        }
    }

    /// How often it is repeated, where the server's profile and the part decide about lost replies.
    pub(crate) fn policy(&self) -> Policy {
        let is_safe = self.session.profile().deduplicates >= self.part.deduplicated_with();
        if is_safe || self.part.when_lost() == WhenLost::Repeat {
            self.repeating()
        } else {
            self.repeating().giving_up_when_maybe_applied()
        }
    }

    /// The same, repeating what may have been applied.
    pub(crate) fn repeating(&self) -> Policy {
        let window = Policy::PATIENT.window;
        Policy {
            window: window.max(self.session.progress_deadline()),
            ..Policy::PATIENT
        }
    }

    /// Sends it. A server that refuses the form of a pass's body before any form was accepted gets the other form, once, and
    /// what it takes is remembered.
    pub(crate) async fn send(&self, policy: Policy) -> Result<Taken> {
        let profile = self.session.profile();
        if !self.part.has_formats() || profile.bodies_confirmed {
            return self.promised(self.attempt(&profile, policy, Refusals::Usual).await?);
        }
        let refusals = Refusals::of(profile.bodies);
        let first = match self.attempt(&profile, policy, refusals).await {
            Ok(accepted) => return self.taken_as(profile.bodies, accepted),
            Err(first) => first,
        };
        if is_answered(&first, 500..=500) && self.is_taken(&profile) {
            return self.after_500(first, &profile, policy).await;
        }
        if !self.may_be_the_form(&first, &profile) {
            return Err(first);
        }
        let form = profile.bodies.other();
        self.session.caller().setbacks.count(Setback::Fallback);
        contain(
            || tracing::debug!(setback = Setback::Fallback.name(), error = %first, ?form, "the server refused the form of a body; trying the other"),
        );
        let other = (*profile).clone().with_bodies(form);
        let second = match self.attempt(&other, policy, Refusals::of(form)).await {
            Ok(accepted) => {
                // Then it is the one that is left, on whichever route.
                if first.status() == Some(415) {
                    self.session.learn(Fact::Bodies(form));
                }
                return self.taken_as(form, accepted);
            }
            Err(second) => second,
        };
        match (first.status(), second.status()) {
            (Some(500), Some(415)) if second.sent() == Sent::Answered => {
                self.after_500(first, &profile, policy).await
            }
            // The second refusal has a reason, which is of more use than a bare 500; what that left behind nobody knows.
            (Some(500), _) => Err(second.with_sent(Sent::MaybeSent)),
            // Neither was the form at fault: what the server said first is what the caller needs.
            _ if is_answered(&second, 400..=499) => Err(first),
            // It broke on the form that is left, and what that left behind nobody knows.
            _ if is_answered(&second, 500..=500) => Err(Error::outcome_unknown(second)),
            _ => Err(second),
        }
    }

    /// Takes a bare 500 for what it is where the form of the body is not at fault: the request may have been applied.
    async fn after_500(
        &self,
        first: Error,
        profile: &ServerProfile,
        policy: Policy,
    ) -> Result<Taken> {
        if policy.when_maybe_applied != WhenMaybeApplied::Repeat {
            return Err(Error::outcome_unknown(first));
        }
        self.session.caller().setbacks.note(Setback::Repeat, &first);
        match self.attempt(profile, policy, Refusals::Usual).await {
            Ok(accepted) => self.promised(accepted),
            Err(error) => Err(error.with_sent(Sent::MaybeSent)),
        }
    }

    /// Remembers the form that was accepted. A forward pass in JSON has a route of its own and tells nothing of the others.
    fn taken_as(&self, form: BodyFormat, accepted: Accepted) -> Result<Taken> {
        if form == BodyFormat::Protobuf || self.part.adds_gradients() {
            self.session.learn(Fact::Bodies(form));
        }
        self.promised(accepted)
    }

    /// Whether the server is known to take this form: it says so, or has accepted one meanwhile.
    fn is_taken(&self, tried: &ServerProfile) -> bool {
        let known = self.session.profile();
        let accepted = known.bodies_confirmed && known.bodies == tried.bodies;
        accepted || known.lists_bodies(tried.bodies)
    }

    async fn attempt(
        &self,
        profile: &ServerProfile,
        policy: Policy,
        refusals: Refusals,
    ) -> Result<Accepted> {
        let mut call = self.part.call(self.seq_id, profile)?;
        call.policy = policy;
        call.operation = Some(self.operation);
        call.client = self.client;
        call.is_readable = Some(is_promise);
        call.progress = Some(Arc::clone(self.progress));
        call.is_final = match refusals {
            Refusals::Usual => None,
            Refusals::OfTheForm => Some(is_a_bare_500),
        };
        self.session.caller().call(call).await
    }

    fn promised(&self, accepted: Accepted) -> Result<Taken> {
        Ok(Taken::Promised {
            promise: promise(&accepted.response)?,
            earlier: accepted.earlier,
            is_fresh: false,
            flight: accepted.flight,
            elapsed: self.session.caller().time.now().since(self.taken_at),
            seq_id: self.seq_id,
        })
    }

    /// Whether the form of the body may be why it was refused. Not after an attempt that may have been applied: another form is
    /// another body, which no server would take for a repeat.
    fn may_be_the_form(&self, error: &Error, tried: &ServerProfile) -> bool {
        if error.sent() != Sent::Answered {
            return false;
        }
        match (tried.bodies, error.status()) {
            (_, Some(415)) => true,
            // The forward pass in JSON has a route of its own, which not all servers have.
            (BodyFormat::Json, Some(404 | 405)) => {
                !self.part.adds_gradients() && !tried.lists_route(routes::FORWARD)
            }
            // It may as well be what the body says, and the other form must not say less.
            (BodyFormat::Protobuf, Some(422 | 500)) => self.part.is_the_same_in_json(),
            _ => false,
        }
    }
}

/// Whether this is all that is known of the request, and the status is one of these.
fn is_answered(error: &Error, statuses: RangeInclusive<u16>) -> bool {
    let status = error
        .status()
        .is_some_and(|status| statuses.contains(&status));
    status && error.sent() == Sent::Answered
}

/// What is taken for a final refusal.
#[derive(Debug, Clone, Copy)]
enum Refusals {
    /// What the table says.
    Usual,
    /// Also what servers answer to a body whose form they do not know.
    OfTheForm,
}

impl Refusals {
    /// Those of a body whose form was not accepted yet. No server breaks on JSON for its form, so that a 500 is what it always is.
    fn of(form: BodyFormat) -> Self {
        match form {
            BodyFormat::Json => Self::Usual,
            _ => Self::OfTheForm,
        }
    }
}

/// A 500 without a reason, in plain text: what web frameworks answer when a handler breaks, as it does on a body that it takes
/// for JSON. A Tinker server that fails at its work says why in JSON, and a proxy answers with a page.
fn is_a_bare_500(answer: &HttpResponse) -> bool {
    let is_plain = match answer.header("content-type") {
        Some(kind) => kind.starts_with("text/plain"),
        None => !answer.body.starts_with(b"<") && !answer.body.starts_with(b"{"),
    };
    answer.status == http::StatusCode::INTERNAL_SERVER_ERROR && is_plain
}
