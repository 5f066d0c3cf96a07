//! What the network sees of shared polls: how many there are, and whether they are of any use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tinkers::wire::{Completions, PollTarget, RetrieveFutures};
use tinkers_core::{Clock, HttpRequest, HttpResponse, Timestamp, TransportErrorKind};

use crate::answers::with_cursor_back;
use crate::control::Control;
use crate::fault::Kind;
use crate::network::{Answer, Network};
use crate::old_polls::PollTask;
use crate::op::{self, Op};
use crate::watch::{Rule, Watch};

/// The most shared polls of a client within a second, beside four for each result that it is told of: the pauses after answers that
/// bring nothing double from 20 ms, and one that brings something resets them.
const MOST_A_SECOND: usize = 14;
const SECOND: Duration = Duration::from_secs(1);
/// The most acknowledgements in a row that the server takes and that tell it of nothing new.
const MOST_IDLE: u32 = 6;

/// The shared polls of a run.
#[derive(Debug)]
pub struct SharedPolls {
    watch: Watch,
    clients: Mutex<BTreeMap<Target, Polled>>,
}

/// A client of a sampling session.
type Target = (String, u64);

#[derive(Debug, Default)]
struct Polled {
    left: VecDeque<Timestamp>,
    /// When the client was told of a result for the first time.
    news: VecDeque<Timestamp>,
    told: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    idle: u32,
    is_reported: bool,
}

/// One shared poll.
#[derive(Debug)]
pub struct SharedPoll {
    target: Target,
    retrieved: Vec<String>,
    /// The cursor that it tells.
    pub cursor: i64,
    /// Whether it is to be answered at once, as a poll that only acknowledges.
    pub is_acknowledgement: bool,
}

impl SharedPoll {
    /// Reads a request to the route of shared polls.
    pub fn read(request: &HttpRequest) -> Option<Self> {
        let body = op::plain(request).ok()?;
        let body: RetrieveFutures = serde_json::from_slice(&body).ok()?;
        let PollTarget {
            sampling_session_id,
            cloned_sampler_id,
            ..
        } = body.target;
        Some(Self {
            target: (sampling_session_id, cloned_sampler_id),
            retrieved: body.retrieved_request_ids,
            cursor: body.prev_cursor,
            is_acknowledgement: body.timeout == Some(0.0),
        })
    }
}

impl SharedPolls {
    /// None yet; what does not hold is reported to `watch`.
    pub fn new(watch: Watch) -> Self {
        Self {
            watch,
            clients: Mutex::default(),
        }
    }

    /// A shared poll leaves its client.
    pub fn leaves(&self, poll: &SharedPoll, at: Timestamp) {
        self.with(poll, |polled| {
            polled.left.push_back(at);
            for times in [&mut polled.left, &mut polled.news] {
                while times
                    .front()
                    .is_some_and(|first| at.since(*first) >= SECOND)
                {
                    times.pop_front();
                }
            }
            // After something new the pauses begin again, so that up to four polls follow quickly.
            let most = MOST_A_SECOND + 4 * polled.news.len();
            (polled.left.len() > most)
                .then(|| format!("more than {most} shared polls within a second"))
        });
    }

    /// The client gets an answer to its poll.
    pub fn answered(&self, poll: &SharedPoll, answer: &HttpResponse, at: Timestamp) {
        if !answer.status.is_success() {
            return;
        }
        let Ok(told) = Completions::read(&answer.body) else {
            return;
        };
        self.with(poll, |polled| {
            let mut is_new = false;
            for completion in told.completions {
                if polled.told.insert(completion.request_id) {
                    polled.news.push_back(at);
                    is_new = true;
                }
            }
            for id in &poll.retrieved {
                is_new |= polled.acknowledged.insert(id.clone());
            }
            polled.idle = match poll.is_acknowledgement && !is_new {
                true => polled.idle + 1,
                false => 0,
            };
            (polled.idle > MOST_IDLE).then(|| {
                format!("{MOST_IDLE} acknowledgements were taken that told of nothing new, and another one")
            })
        });
    }

    /// Reports what `look` finds, once for a client.
    fn with(&self, poll: &SharedPoll, look: impl FnOnce(&mut Polled) -> Option<String>) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = clients.entry(poll.target.clone()).or_default();
        if let Some(what) = look(polled)
            && !std::mem::replace(&mut polled.is_reported, true)
        {
            let (sampler, clone) = &poll.target;
            let what = format!("{what}, of client {clone} of {sampler}");
            self.watch.report(Rule::SharedPolls, what);
        }
    }
}

/// How often a faulty client repeats an acknowledgement.
const SPINS: u32 = 100;

impl Network {
    /// Carries a shared poll.
    pub(crate) async fn carry_shared(
        &self,
        poll: &SharedPoll,
        struck: Option<Kind>,
        request: HttpRequest,
    ) -> Answer {
        let task = PollTask::current();
        if let Some(task) = &task {
            task.polls();
        }
        let again = (self.control == Some(Control::SpinningAcks)).then(|| request.clone());
        let mut answer = match struck {
            Some(Kind::CursorBack) => {
                let answer = self.carry(Op::SessionPoll, None, request).await;
                answer.map(|answer| with_cursor_back(answer, poll.cursor, &self.chance))
            }
            struck => self.carry(Op::SessionPoll, struck, request).await,
        };
        let now = self.clock.now();
        if let Ok(answer) = &answer {
            self.shared_polls.answered(poll, answer, now);
        }
        match self.control {
            Some(Control::SharedPollEnds) if is_unexpected(&answer) => {
                task.iter().for_each(|task| task.end());
            }
            Some(Control::UnendingPolls) => {
                if let Ok(answer) = &mut answer
                    && poll.is_acknowledgement
                {
                    tell_of_nothing(answer, now);
                }
            }
            _ => {}
        }
        let is_taken = |answer: &HttpResponse| Completions::read(&answer.body).is_ok();
        if let Some(again) = again.filter(|_| poll.is_acknowledgement) {
            for _ in 0..SPINS {
                if answer.as_ref().is_ok_and(is_taken) {
                    break;
                }
                self.shared_polls.leaves(poll, self.clock.now());
                answer = self.carry(Op::SessionPoll, struck, again.clone()).await;
            }
        }
        answer
    }
}

/// Whether an answer is none that a server gives to a shared poll.
fn is_unexpected(answer: &Answer) -> bool {
    match answer {
        Ok(answer) if answer.status.is_success() => Completions::read(&answer.body).is_err(),
        Ok(answer) => {
            let is_usual = matches!(answer.status.as_u16(), 402 | 408 | 429);
            answer.status.is_client_error() && !is_usual
        }
        Err(error) => matches!(
            error.kind,
            TransportErrorKind::Tls | TransportErrorKind::Decode | TransportErrorKind::Redirect
        ),
    }
}

/// Adds the completion of an unknown request to an answer.
fn tell_of_nothing(answer: &mut HttpResponse, now: Timestamp) {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(&answer.body) else {
        return;
    };
    let cursor = body.get("cursor").and_then(Value::as_i64).unwrap_or(0);
    let id = format!("unknown-{}", now.since_origin().as_nanos());
    body.insert("completions".to_owned(), json!([{ "request_id": id }]));
    body.insert("cursor".to_owned(), json!(cursor + 1));
    answer.body = Value::Object(body).to_string().into();
    answer.headers.remove(http::header::CONTENT_LENGTH);
}
