//! The network between the clients and the server, which loses, delays, doubles and spoils what it carries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tinkers::SessionContext;
use tinkers_core::nesting::Mark;
use tinkers_core::{
    BoxFuture, Clock, Departure, HttpRequest, HttpResponse, ManualClock, RouteClass, Sent, Spawn,
    Transport, TransportError, TransportErrorKind, hint,
};
use tinkers_local::InProcess;

use crate::answers::{lost, says_capacity, spoilt, text_of, with_unknown};
use crate::chance::Chance;
use crate::control::Control;
use crate::fault::Kind;
use crate::layer::Layers;
use crate::misfortune::{Misfortune, Struck};
use crate::old_limiter::OldLimiter;
use crate::old_turns::OldTurns;
use crate::op::{Op, model_of};
use crate::shared_polls::{SharedPoll, SharedPolls};
use crate::trace::{Hash, Trace};
use crate::turns::Turns;
use crate::waits::Waits;
use crate::watch::{Beat, Rule, Watch};

/// How long a layer holds a request, and its answer, at most.
const SLOW_LAYER: Duration = Duration::from_secs(60);
/// How long the server takes to accept a call of a long queue.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(30);

pub(crate) type Answer = Result<HttpResponse, TransportError>;

/// What all ways to the server share.
#[derive(Debug)]
pub struct Network {
    /// Time.
    pub clock: ManualClock,
    /// Chance.
    pub chance: Chance,
    /// What goes wrong.
    pub misfortune: Arc<Misfortune>,
    /// Where it is written down.
    pub trace: Trace,
    /// What is promised.
    pub watch: Watch,
    /// What became of those that wait.
    pub waits: Waits,
    /// What became of shared polls.
    pub shared_polls: SharedPolls,
    /// Who waits for admission.
    pub turns: Turns,
    /// Requests that layers make.
    pub layers: Layers,
    /// How shared polls fail while none gets through.
    pub ingress: Kind,
    /// What a faulty client keeps in place of its limiter.
    pub old_limiter: Arc<OldLimiter>,
    /// What faulty clients share beside it.
    pub old_turns: Arc<OldTurns>,
    /// The server.
    pub server: InProcess,
    /// What arrives though its sender has gone.
    pub spawn: Arc<dyn Spawn>,
    /// Whether the server applies a repeated number once, as far as clients are told.
    pub deduplicates: bool,
    /// The fault of the clients that is to be found, if any.
    pub control: Option<Control>,
    /// How many requests there were.
    pub count: AtomicU64,
}

/// One client's way to the server.
#[derive(Debug, Clone)]
pub struct Way {
    /// The network.
    pub network: Arc<Network>,
    /// Whose way it is.
    pub client: usize,
    /// Whether only heartbeats go this way.
    pub is_heart: bool,
    /// Whether the program has closed the session.
    pub is_closed: Arc<AtomicBool>,
    /// The session, once there is one, for requests that a layer makes.
    pub session: Arc<OnceLock<Weak<dyn SessionContext>>>,
    /// That of work outside of any request.
    pub outside: Mark,
}

impl Transport for Way {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Answer> {
        Box::pin(self.exchange(request))
    }
}

/// A poll under way, which ends however it ends.
struct PollUnderWay<'a>(&'a Watch, String);

impl Drop for PollUnderWay<'_> {
    fn drop(&mut self) {
        self.0.poll_ends();
    }
}

/// A heartbeat on its way. It is recorded when it ends, also when the client gives it up.
struct BeatInFlight<'a> {
    network: &'a Network,
    session: String,
    outcome: Option<Beat>,
}

impl Drop for BeatInFlight<'_> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            let at = self.network.clock.now();
            self.network.watch.beat(&self.session, at, outcome);
        }
    }
}

impl Way {
    async fn exchange(&self, mut request: HttpRequest) -> Answer {
        let network = &*self.network;
        let (op, class) = (Op::of_request(&request), request.class);
        let shared = match op {
            Op::SessionPoll => SharedPoll::read(&request),
            _ => None,
        };
        let number = network.count.fetch_add(1, Ordering::Relaxed);
        let what = format!("request {number} of client {} ({})", self.client, op.name());
        let is_acknowledgement = shared.as_ref().is_some_and(|poll| poll.is_acknowledgement);
        let struck = network.misfortune.strike(Struck {
            op,
            client: self.client,
            is_heart: self.is_heart,
            is_acknowledgement,
            is_nested: network.layers.leaves(&request),
        });
        if let Some(kind) = struck {
            network.misfortune.met(kind, op);
        }
        let name = struck.map_or("-", Kind::name);
        network.trace.note(format_args!("{what}: {name}"));
        let sample = match op {
            Op::Sample => Waits::sample_of(&request),
            Op::Poll => {
                let id = text_of(&request.body, "request_id");
                network.waits.sample_polled(&id)
            }
            _ => None,
        };
        let is_untroubled = sample.is_some_and(|call| network.waits.begins(call));
        match struck {
            // Without the hook, which would print it.
            Some(Kind::LayerPanics) => {
                std::panic::resume_unwind(Box::new("the caller's layer panicked"))
            }
            Some(Kind::Nested) => self.make_nested(class).await,
            Some(Kind::SlowLayer) => network.pause(SLOW_LAYER).await,
            _ => {}
        }
        let mut beat = self.is_heart.then(|| BeatInFlight {
            network,
            session: text_of(&request.body, "session_id"),
            // A beat that no fault struck and that the client gave up does not count as tried.
            outcome: struck.map(|_| Beat::Struck),
        });
        let departure = std::mem::take(&mut request.departure);
        if struck == Some(Kind::Dial) {
            network.dial(request.timeouts.total).await?;
        }
        if !departure.may_leave() {
            network.misfortune.held(op);
            network.trace.note(format_args!("{what} is held back"));
            return Err(TransportError::new(
                TransportErrorKind::Held,
                Sent::NotSent,
                "the gate closed while it waited for a connection",
            ));
        }
        if op.is_submission() && self.is_closed.load(Ordering::Relaxed) {
            let what = format!("{what} left after its session was closed");
            network.watch.report(Rule::Closed, what);
        }
        let left_at = network.clock.now();
        network.watch.leaves(class, left_at, &what);
        if let Some(call) = sample.filter(|_| op == Op::Sample) {
            network.waits.leaves(call, &request, left_at);
        }
        if let Some(poll) = &shared {
            network.shared_polls.leaves(poll, left_at);
        }
        let model = (op.is_submission() && class == RouteClass::Train)
            .then(|| model_of(&request))
            .flatten();
        let asked_at = network.old_limiter.asked_at();
        let poll = (op == Op::Poll).then(|| {
            let id = text_of(&request.body, "request_id");
            network.watch.poll_leaves(&id, network.clock.now());
            PollUnderWay(&network.watch, id)
        });
        let time: &dyn Clock = &network.clock;
        let limit = request.timeouts.first_byte.min(request.timeouts.total);
        let longest_body = request.timeouts.total;
        let carried = async {
            match &shared {
                Some(poll) => network.carry_shared(poll, struck, request).await,
                None => network.carry(op, struck, request).await,
            }
        };
        let mut answer = match time.deadline(time.now().after(limit), carried).await {
            Some(answer) => answer,
            None => Err(lost(TransportErrorKind::Timeout, "no answer in time")),
        };
        let now = network.clock.now();
        network.misfortune.answered(op);
        if class == RouteClass::Poll {
            network.watch.ramp_answered(left_at);
        }
        let is_accepted = |answer: &HttpResponse| answer.status.is_success();
        if let Some(model) = model
            && answer.as_ref().is_ok_and(is_accepted)
        {
            network.waits.accepted(model, now);
        }
        if let Some(call) = sample.filter(|_| op == Op::Sample) {
            let found_none = |error: &TransportError| error.kind == TransportErrorKind::Connect;
            let found_none = answer.as_ref().is_err_and(found_none);
            network.waits.ended(call, now, found_none, answer.is_ok());
            if network.control == Some(Control::WindowFromStart)
                && found_none
                && left_at.since(asked_at) > Duration::from_secs(300)
            {
                // Of this kind none is repeated.
                answer = Err(TransportError::new(
                    TransportErrorKind::Tls,
                    Sent::NotSent,
                    "no connection, and no time left",
                ));
            }
        }
        if let (Some(call), Ok(answer)) = (sample, &answer)
            && is_untroubled
            && struck.is_none()
            && is_accepted(answer)
        {
            network.waits.served(call, answer);
        }
        match &answer {
            Ok(answer) => network
                .trace
                .note(format_args!("{what} -> {}", answer.status.as_u16())),
            Err(error) => network
                .trace
                .note(format_args!("{what} -> {:?} {:?}", error.kind, error.sent)),
        }
        if let Some(PollUnderWay(watch, id)) = &poll {
            let has_failed = answer
                .as_ref()
                .map_or(true, |answer| answer.status.is_server_error());
            watch.poll_answered(id, network.clock.now(), has_failed);
        }
        if let Some(beat) = &mut beat {
            let arrived = struck.is_none() && answer.is_ok();
            beat.outcome = Some(if arrived { Beat::Arrived } else { Beat::Struck });
        }
        if let Ok(answer) = &answer
            && op == Op::Poll
            && !answer.status.is_server_error()
            && says_capacity(answer)
        {
            network.misfortune.met(Kind::Capacity, op);
        }
        let answer = match answer {
            Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                let body = self.refused(class, struck, answer, &departure);
                let body = time.deadline(time.now().after(longest_body), body).await;
                let late = || lost(TransportErrorKind::Timeout, "the body did not come in time");
                body.ok_or_else(late)
            }
            answer => answer,
        };
        if struck == Some(Kind::SlowLayer) {
            network.pause(SLOW_LAYER).await;
        }
        answer
    }

    /// A refusal for the rate: the client is told of its head at once, and its body may take a while.
    async fn refused(
        &self,
        class: RouteClass,
        struck: Option<Kind>,
        mut answer: HttpResponse,
        departure: &Departure,
    ) -> HttpResponse {
        let network = &*self.network;
        let wall = network.clock.wall();
        let head = HttpResponse {
            body: Bytes::new(),
            ..answer.clone()
        };
        let closes = |hint: Option<Duration>| {
            let now = network.clock.now();
            let until = network.watch.refused(class, now, hint);
            if class == RouteClass::Sample {
                network.waits.closed(now, until);
            }
        };
        closes(hint::retry_after(&head, wall));
        let in_body = hint::retry_after(&answer, wall);
        if network.control == Some(Control::HintsNotHeard) {
            answer.headers.clear();
            answer.body = Bytes::from_static(b"{}");
        }
        if network.control != Some(Control::LateHead) {
            departure.head(answer.status, &answer.headers, wall);
        }
        if struck == Some(Kind::SlowBody) {
            network.pause(Duration::from_secs(30)).await;
        }
        if hint::retry_after(&head, wall).is_none() {
            closes(in_body);
        }
        answer
    }
}

impl Network {
    pub(crate) async fn carry(&self, op: Op, struck: Option<Kind>, request: HttpRequest) -> Answer {
        let is_carried = |kind: &Kind| *kind != Kind::Dial && !kind.is_of_layer();
        let Some(kind) = struck.filter(is_carried) else {
            return self.deliver(op, request).await;
        };
        match kind {
            Kind::Ingress => Box::pin(self.carry(op, Some(self.ingress), request)).await,
            Kind::Tls => Err(TransportError::new(
                TransportErrorKind::Tls,
                Sent::NotSent,
                "the certificate is not that of the server",
            )),
            Kind::Redirect => Err(TransportError::new(
                TransportErrorKind::Redirect,
                Sent::Answered,
                "a redirect to another host",
            )),
            Kind::Undecodable => {
                let _ = self.deliver(op, request).await;
                Err(TransportError::new(
                    TransportErrorKind::Decode,
                    Sent::Answered,
                    "the body cannot be decoded",
                ))
            }
            // Accepted, and the answer lost behind a proxy.
            Kind::Rivals => {
                if self.chance.happens(0.5) {
                    let _ = self.deliver(op, request).await;
                }
                Ok(spoilt(Kind::Error502, &self.chance, &self.clock))
            }
            Kind::LongQueue => {
                let answer = self.deliver(op, request).await;
                let time: &dyn Clock = &self.clock;
                time.sleep(ACCEPTED_WITHIN).await;
                answer
            }
            Kind::Refused | Kind::Restart => Err(TransportError::new(
                TransportErrorKind::Connect,
                Sent::NotSent,
                "no connection",
            )),
            Kind::Partition if self.chance.happens(0.3) => Err(TransportError::new(
                TransportErrorKind::Connect,
                Sent::NotSent,
                "no route",
            )),
            Kind::LostBefore => {
                self.pause(Duration::from_secs(1)).await;
                Err(lost(TransportErrorKind::Broken, "the connection broke"))
            }
            Kind::LostAfter => {
                let _ = self.deliver(op, request).await;
                Err(lost(TransportErrorKind::Broken, "the connection broke"))
            }
            Kind::BodyCut => match self.deliver(op, request).await {
                Ok(_) => Err(lost(TransportErrorKind::Broken, "the answer was cut")),
                Err(error) => Err(error),
            },
            Kind::Silence | Kind::Partition => {
                if kind == Kind::Silence && self.chance.happens(0.5) {
                    let _ = self.deliver(op, request).await;
                }
                std::future::pending().await
            }
            Kind::Late => {
                self.pause(Duration::from_secs(20)).await;
                self.deliver(op, request).await
            }
            Kind::AnswerLate => {
                let answer = self.deliver(op, request).await;
                self.pause(Duration::from_secs(20)).await;
                answer
            }
            Kind::Twice => {
                self.again(request.clone());
                self.deliver(op, request).await
            }
            Kind::Truncated => {
                let mut answer = self.deliver(op, request).await?;
                answer.body.truncate(answer.body.len() / 2);
                answer.headers.remove(http::header::CONTENT_LENGTH);
                Ok(answer)
            }
            Kind::Unknown => Ok(with_unknown(self.deliver(op, request).await?)),
            Kind::Timeout408 | Kind::Error500 | Kind::Error502 | Kind::Html => {
                if self.chance.happens(0.5) {
                    let _ = self.deliver(op, request).await;
                }
                Ok(spoilt(kind, &self.chance, &self.clock))
            }
            _ => Ok(spoilt(kind, &self.chance, &self.clock)),
        }
    }

    async fn deliver(&self, op: Op, request: HttpRequest) -> Answer {
        if op.adds() && !self.deduplicates {
            let body = Hash::of(Hash::START, &request.body);
            self.watch.delivered(body, op.name());
        }
        self.server.send(request).await
    }

    /// The same request arrives once more, later, and nobody hears what comes of it.
    fn again(&self, request: HttpRequest) {
        let time: &dyn Clock = &self.clock;
        let sleep = time.sleep(self.chance.time(Duration::ZERO, Duration::from_secs(30)));
        let server = self.server.clone();
        let late = async move {
            sleep.await;
            let _ = server.send(request).await;
        };
        self.spawn.spawn(Box::pin(late)).detach();
    }

    /// A request waits for a connection.
    async fn dial(&self, longest: Duration) -> Result<(), TransportError> {
        let time: &dyn Clock = &self.clock;
        let waited = self.pause(Duration::from_secs(30));
        let waited = time.deadline(time.now().after(longest), waited).await;
        waited.ok_or_else(|| {
            TransportError::new(
                TransportErrorKind::Timeout,
                Sent::NotSent,
                "no connection in time",
            )
        })
    }

    pub(crate) async fn pause(&self, longest: Duration) {
        let time: &dyn Clock = &self.clock;
        time.sleep(self.chance.time(Duration::ZERO, longest)).await;
    }
}
