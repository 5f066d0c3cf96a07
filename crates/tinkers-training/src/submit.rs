//! Sends one request of a training call, in the body format (protobuf or JSON) that the server accepts.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::retry::WhenMaybeApplied;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    Accepted, BodyFormat, CallPolicy, ClientId, Error, HttpResponse, InFlightPermit, ProfileUpdate,
    ProgressCell, RecoveredError, Result, Sent, ServerProfile, SessionContext, Timestamp,
};
use tinkers_futures::{is_submission, read_submission};
use tinkers_wire::{SubmissionResponse, TinkerPath, routes};

use crate::format_probe::{self, says_unreadable_body};
use crate::requests::{OnLostReply, Request};

/// A successfully submitted request of a training call: the server has accepted it, or the checkpoint of a save was found.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// The server returned a request id. The result can be retrieved with this id.
    Accepted {
        response: SubmissionResponse,
        /// The permit of the rate limiter that counts the request as in flight. The permit is held until the result is retrieved.
        in_flight_permit: InFlightPermit,
        /// The time from the user's call of the client's method to the response of the server.
        elapsed: Duration,
        seq_id: u64,
        /// Whether an earlier attempt of the request may have been applied.
        earlier: Sent,
        /// Whether the request is a named save and only this call can have created a checkpoint of that name.
        is_fresh: bool,
    },
    /// The response to a save was lost, but the checkpoint of the save was found at this path.
    Found(TinkerPath),
}

impl Submitted {
    /// Records that an earlier attempt of the request may have been applied.
    pub(crate) fn after_lost_reply(mut self) -> Self {
        if let Self::Accepted { earlier, .. } = &mut self {
            *earlier = Sent::MaybeSent;
        }
        self
    }
}

/// One request of a training call, with its sequence number and the context that is needed to send it.
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
    /// Returns the retry policy of the request. A request that may have been applied is retried only if the server deduplicates it by its
    /// sequence number, or if applying it twice has no further effect.
    pub(crate) fn policy(&self) -> CallPolicy {
        let is_safe = self.session.profile().deduplicates >= self.request.required_deduplication();
        if is_safe || self.request.on_lost_reply() == OnLostReply::Repeat {
            self.repeating()
        } else {
            self.repeating().giving_up_when_maybe_applied()
        }
    }

    /// Returns a retry policy that also retries after an attempt that the server may have applied.
    pub(crate) fn repeating(&self) -> CallPolicy {
        let window = CallPolicy::PATIENT.window;
        CallPolicy {
            window: window.max(self.session.progress_deadline()),
            ..CallPolicy::PATIENT
        }
    }

    /// Sends the request. If the server rejects a forward or forward-backward pass, probably because of its body format, and is not known
    /// to accept this format, sends the request once in the other format. Remembers the format that the server accepts.
    pub(crate) async fn send(&self, policy: CallPolicy) -> Result<Submitted> {
        let mut profile = self.session.profile();
        if self.request.adds_gradients() && profile.body_format_is_unknown() {
            let sender = format_probe::Sender {
                session: self.session,
                client: self.client,
                operation: self.operation,
            };
            format_probe::probe(&sender).await;
            profile = self.session.profile();
        }
        if !self.request.has_formats() || profile.body_format_confirmed {
            return self.accepted(
                self.attempt(&profile, policy, FinalStatuses::Standard)
                    .await?,
            );
        }
        let final_statuses = self.final_statuses(profile.body_format);
        let first = match self.attempt(&profile, policy, final_statuses).await {
            Ok(accepted) => return self.accepted_as(profile.body_format, accepted),
            Err(first) => first,
        };
        if is_answered(&first, 500..=500) && self.is_known_format(&profile) {
            return self.handle_bare_500(first, &profile, policy).await;
        }
        if !self.may_be_the_format(&first, &profile) {
            return Err(first);
        }
        let format = profile.body_format.other();
        self.session
            .caller()
            .recovered_errors
            .count(RecoveredError::Fallback);
        catch_panic(
            || tracing::debug!(recovered_error = RecoveredError::Fallback.name(), error = %first, ?format, "the server refused the format of a body; trying the other"),
        );
        let other = (*profile).clone().with_body_format(format);
        let second = match self
            .attempt(&other, policy, self.final_statuses(format))
            .await
        {
            Ok(accepted) => {
                // A 415 shows that the server accepts the first format on no route.
                if first.status() == Some(415) {
                    self.session.learn(ProfileUpdate::BodyFormat(format));
                }
                return self.accepted_as(format, accepted);
            }
            Err(second) => second,
        };
        match (first.status(), second.status()) {
            (Some(500), Some(415)) if second.sent() == Sent::Answered => {
                self.handle_bare_500(first, &profile, policy).await
            }
            // The second rejection states a reason, which a bare 500 does not. The first request may have been applied.
            (Some(500), _) => Err(second.with_sent(Sent::MaybeSent)),
            // The format was not the cause, so the caller needs the reason of the first rejection.
            _ if is_answered(&second, 400..=499) => Err(first),
            // A 500 to the other format: the request may have been applied.
            _ if is_answered(&second, 500..=500) => Err(Error::outcome_unknown(second)),
            _ => Err(second),
        }
    }

    /// Handles a response with status 500 and a plain text body, whose cause was not the body format. The request may have been applied.
    /// Therefore the request is retried only if `policy` allows this. `first` is the error of the first attempt.
    async fn handle_bare_500(
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
            .record(RecoveredError::Repeat, &first);
        match self.attempt(profile, policy, FinalStatuses::Standard).await {
            Ok(accepted) => self.accepted(accepted),
            Err(error) => Err(error.with_sent(Sent::MaybeSent)),
        }
    }

    /// Records the body format that the server accepted, for later requests. A forward pass in JSON is not recorded: it has its own route, and
    /// other routes may not accept JSON.
    fn accepted_as(&self, format: BodyFormat, accepted: Accepted) -> Result<Submitted> {
        if format == BodyFormat::Protobuf || self.request.adds_gradients() {
            self.session.learn(ProfileUpdate::BodyFormat(format));
        }
        self.accepted(accepted)
    }

    /// Returns whether the server is known to accept the body format of the attempt: its OpenAPI document lists the format, or another
    /// request in this format was accepted meanwhile.
    fn is_known_format(&self, tried: &ServerProfile) -> bool {
        let known = self.session.profile();
        let accepted = known.body_format_confirmed && known.body_format == tried.body_format;
        accepted || known.lists_body_format(tried.body_format)
    }

    async fn attempt(
        &self,
        profile: &ServerProfile,
        policy: CallPolicy,
        final_statuses: FinalStatuses,
    ) -> Result<Accepted> {
        let mut call = self.request.call(self.seq_id, profile)?;
        call.policy = policy;
        call.operation = Some(self.operation);
        call.client = self.client;
        call.is_readable = Some(is_submission);
        call.progress = Some(Arc::clone(self.progress));
        call.is_final = match final_statuses {
            FinalStatuses::Standard => None,
            FinalStatuses::StandardAndBare500 => Some(is_bare_500),
            FinalStatuses::StandardAndFormat500 => Some(is_format_500),
        };
        self.session.caller().call(call).await
    }

    /// Returns the response statuses after which an attempt is not retried, while it is not known whether the server accepts bodies in this
    /// format. For formats other than JSON, a 500 in plain text is included, with which some servers reject a body that they cannot decode.
    ///
    /// The reason of a 500 counts only for passes without gradients. A failure after the gradients were added may have a similar reason, and
    /// sending them in another format would add them twice.
    fn final_statuses(&self, format: BodyFormat) -> FinalStatuses {
        match (format, self.request.adds_gradients()) {
            (BodyFormat::Json, _) => FinalStatuses::Standard,
            (_, true) => FinalStatuses::StandardAndBare500,
            (_, false) => FinalStatuses::StandardAndFormat500,
        }
    }

    fn accepted(&self, accepted: Accepted) -> Result<Submitted> {
        Ok(Submitted::Accepted {
            response: read_submission(&accepted.response)?,
            earlier: accepted.earlier,
            is_fresh: false,
            in_flight_permit: accepted.in_flight_permit,
            elapsed: self.session.caller().time.now().since(self.called_at),
            seq_id: self.seq_id,
        })
    }

    /// Returns whether the body format may be the cause of a rejection. Returns `false` after an attempt that may have been applied, since no
    /// server recognizes a retry in another format.
    fn may_be_the_format(&self, error: &Error, tried: &ServerProfile) -> bool {
        if error.sent() != Sent::Answered {
            return false;
        }
        match (tried.body_format, error.status()) {
            (_, Some(415)) => true,
            // The forward pass in JSON has its own route, which not all servers have.
            (BodyFormat::Json, Some(404 | 405)) => {
                !self.request.adds_gradients() && !tried.lists_route(routes::FORWARD)
            }
            // The content may be the cause as well, so the other format must not lose data.
            (BodyFormat::Protobuf, Some(422 | 500)) => self.request.is_the_same_in_json(),
            (BodyFormat::Protobuf, Some(400)) => {
                self.request.is_the_same_in_json() && says_unreadable_body(error.body())
            }
            _ => false,
        }
    }
}

/// Returns whether the server responded with one of these statuses, and no earlier attempt of the request can have been applied.
fn is_answered(error: &Error, statuses: RangeInclusive<u16>) -> bool {
    let status = error
        .status()
        .is_some_and(|status| statuses.contains(&status));
    status && error.sent() == Sent::Answered
}

/// The set of response statuses after which an attempt is not retried.
#[derive(Debug, Clone, Copy)]
enum FinalStatuses {
    /// The statuses that the retry policy of the request never retries.
    Standard,
    /// The statuses that the retry policy of the request never retries, and also a 500 in plain text.
    StandardAndBare500,
    /// The statuses that the retry policy of the request never retries, and also a 500 in plain text or with a reason about the body.
    StandardAndFormat500,
}

/// Returns whether a response is a 500 whose cause may be the body format: it is in plain text, or says that the body cannot be decoded.
fn is_format_500(answer: &HttpResponse) -> bool {
    let is_500 = answer.status == http::StatusCode::INTERNAL_SERVER_ERROR;
    is_bare_500(answer) || (is_500 && says_unreadable_body(&answer.body))
}

/// Returns whether a response is a 500 in plain text. Web frameworks respond so when a handler fails, for example while it decodes a
/// protobuf body as JSON. A Tinker server states its reason in JSON, and proxies respond with HTML.
fn is_bare_500(answer: &HttpResponse) -> bool {
    let is_plain = match answer.header("content-type") {
        Some(kind) => kind.starts_with("text/plain"),
        None => !answer.body.starts_with(b"<") && !answer.body.starts_with(b"{"),
    };
    answer.status == http::StatusCode::INTERNAL_SERVER_ERROR && is_plain
}
