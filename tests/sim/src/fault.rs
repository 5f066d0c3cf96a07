//! What goes wrong: the kinds, and which operations each can strike.

use std::time::Duration;

use crate::op::Op;

/// A kind of fault on the way to the server, at the server, or on the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection.
    Refused,
    /// The request is lost, and the connection with it.
    LostBefore,
    /// The request is applied, and the answer is lost with the connection.
    LostAfter,
    /// The request is applied, and the connection breaks in the middle of the answer.
    BodyCut,
    /// No answer ever comes; the request may have been applied.
    Silence,
    /// The request is late, and others overtake it.
    Late,
    /// The answer is late.
    AnswerLate,
    /// The request arrives a second time, later.
    Twice,
    /// 408 with the state of a queue.
    Timeout408,
    /// 409.
    Conflict409,
    /// 410.
    Gone410,
    /// 402, for a while.
    Billing402,
    /// 429 with `retry-after-ms`.
    LimitedMs,
    /// 429 with `Retry-After` in seconds.
    LimitedSeconds,
    /// 429 with `Retry-After` as a date.
    LimitedDate,
    /// 429 with `retry_after_ms` in the body.
    LimitedBody,
    /// 429 that does not say when.
    Limited,
    /// 500, though the request was applied or not.
    Error500,
    /// 502 with a page of a proxy, though the request was applied or not.
    Error502,
    /// 400 without a body.
    Empty400,
    /// 200 with a page of a proxy.
    Html,
    /// The answer ends in the middle and says nothing of it.
    Truncated,
    /// The answer has fields and values that this client cannot know.
    Unknown,
    /// The transport's layer, which is the caller's code, panics.
    LayerPanics,
    /// The server works on nothing for a while and says that it lacks capacity.
    Capacity,
    /// Nothing gets through between a client and the server for a while.
    Partition,
    /// A proxy answers 503 to everything for a while.
    Outage,
    /// The server goes away with what is under way, and comes back with nothing but its checkpoints.
    Restart,
    /// The engine fails the job.
    JobFails,
    /// The request waits for a connection before it leaves.
    Dial,
    /// 429 whose head comes at once and whose body takes seconds.
    SlowBody,
    /// 429 with a hint of minutes.
    LongHint,
    /// Tasks of a client are polled late, as on a busy runtime.
    Busy,
    /// The program closes its session while calls are under way.
    Close,
    /// Hundreds of samples at once, each with polls of its own where the server has no shared ones.
    Crowd,
    /// A poll fails in the TLS handshake.
    Tls,
    /// A poll is answered with a redirect that is not followed.
    Redirect,
    /// The body of an answer to a poll cannot be decoded.
    Undecodable,
    /// A poll is answered with a proxy's page and a status of 4xx.
    Status4xx,
    /// Every shared poll of a client fails in one of the four ways above for a while; polls for single results get through.
    Ingress,
    /// The cursor in the answers to shared polls goes back, or cannot be read, for a while.
    CursorBack,
    /// Acknowledgements of a client are answered with garbage or refused for a while.
    AckGarbled,
    /// All clients send many samples at once, and a part of the submissions fails after the server has accepted them.
    Rivals,
    /// A client submits a long sequence of training calls, and the server takes half a minute to accept each.
    LongQueue,
    /// The transport's layer makes a request of the same class before it passes a request on.
    Nested,
    /// The transport's layer holds a request, and its answer, for up to a minute.
    SlowLayer,
    /// The log subscriber panics.
    LogPanics,
    /// The log subscriber reads the state of the limits and waits for it.
    LogReenters,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 48] = [
        Self::Refused,
        Self::LostBefore,
        Self::LostAfter,
        Self::BodyCut,
        Self::Silence,
        Self::Late,
        Self::AnswerLate,
        Self::Twice,
        Self::Timeout408,
        Self::Conflict409,
        Self::Gone410,
        Self::Billing402,
        Self::LimitedMs,
        Self::LimitedSeconds,
        Self::LimitedDate,
        Self::LimitedBody,
        Self::Limited,
        Self::Error500,
        Self::Error502,
        Self::Empty400,
        Self::Html,
        Self::Truncated,
        Self::Unknown,
        Self::LayerPanics,
        Self::Capacity,
        Self::Partition,
        Self::Outage,
        Self::Restart,
        Self::JobFails,
        Self::Dial,
        Self::SlowBody,
        Self::LongHint,
        Self::Busy,
        Self::Close,
        Self::Crowd,
        Self::Tls,
        Self::Redirect,
        Self::Undecodable,
        Self::Status4xx,
        Self::Ingress,
        Self::CursorBack,
        Self::AckGarbled,
        Self::Rivals,
        Self::LongQueue,
        Self::Nested,
        Self::SlowLayer,
        Self::LogPanics,
        Self::LogReenters,
    ];

    /// The last kinds, which were added after the regression seeds were found. Without these a seed has the plan that it had then.
    pub const ADDED_LATER: &'static [Self] = Self::ALL.split_at(Self::ALL.len() - 19).1;

    /// The name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::LostBefore => "lost-before",
            Self::LostAfter => "lost-after",
            Self::BodyCut => "body-cut",
            Self::Silence => "silence",
            Self::Late => "late",
            Self::AnswerLate => "answer-late",
            Self::Twice => "twice",
            Self::Timeout408 => "408",
            Self::Conflict409 => "409",
            Self::Gone410 => "410",
            Self::Billing402 => "402",
            Self::LimitedMs => "429-ms",
            Self::LimitedSeconds => "429-s",
            Self::LimitedDate => "429-date",
            Self::LimitedBody => "429-body",
            Self::Limited => "429",
            Self::Error500 => "500",
            Self::Error502 => "502",
            Self::Empty400 => "400-empty",
            Self::Html => "html",
            Self::Truncated => "truncated",
            Self::Unknown => "unknown",
            Self::LayerPanics => "panic",
            Self::Capacity => "capacity",
            Self::Partition => "partition",
            Self::Outage => "outage",
            Self::Restart => "restart",
            Self::JobFails => "job-fails",
            Self::Dial => "dial",
            Self::SlowBody => "429-slow",
            Self::LongHint => "429-long",
            Self::Busy => "busy",
            Self::Close => "close",
            Self::Crowd => "crowd",
            Self::Tls => "tls",
            Self::Redirect => "redirect",
            Self::Undecodable => "undecodable",
            Self::Status4xx => "4xx",
            Self::Ingress => "ingress",
            Self::CursorBack => "cursor-back",
            Self::AckGarbled => "ack-garbled",
            Self::Rivals => "rivals",
            Self::LongQueue => "long-queue",
            Self::Nested => "nested",
            Self::SlowLayer => "layer-slow",
            Self::LogPanics => "log-panics",
            Self::LogReenters => "log-reenters",
        }
    }

    /// The kind of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it can strike a request of this kind.
    pub const fn strikes(self, op: Op) -> bool {
        use Op as O;
        match self {
            // A server ends a held poll with it; elsewhere it is a proxy's word.
            Self::Timeout408 => matches!(op, O::Poll) || op.is_submission(),
            Self::Conflict409 => op.is_submission() || matches!(op, O::CreateSampler),
            Self::Gone410 => matches!(op, O::Poll),
            // A proxy's page in the place of an answer is unreadable for whoever needs one; a beat needs none.
            Self::Billing402 => !matches!(op, O::Heartbeat | O::Finish),
            // A layer of the caller sees no heartbeats.
            Self::LayerPanics => !matches!(op, O::Heartbeat),
            Self::Capacity => matches!(op, O::Poll),
            Self::Close => matches!(op, O::Finish),
            Self::Crowd | Self::Rivals => matches!(op, O::Sample),
            Self::Tls | Self::Redirect | Self::Undecodable | Self::Status4xx => {
                matches!(op, O::Poll | O::SessionPoll)
            }
            Self::Ingress | Self::CursorBack | Self::AckGarbled => matches!(op, O::SessionPoll),
            Self::LongQueue => matches!(
                op,
                O::ForwardBackward | O::Forward | O::OptimStep | O::SaveState
            ),
            // A layer of the caller sees no heartbeats, and the session is needed for a request of the layer's own.
            Self::SlowLayer => !matches!(op, O::Heartbeat),
            Self::Nested => !matches!(op, O::Heartbeat | O::Config | O::CreateSession),
            // By the request that was answered last.
            Self::LogPanics | Self::LogReenters => !matches!(op, O::Finish),
            Self::Twice => !matches!(op, O::Finish),
            Self::JobFails => matches!(
                op,
                O::ForwardBackward
                    | O::Forward
                    | O::OptimStep
                    | O::Sample
                    | O::SaveState
                    | O::SaveForSampler
                    | O::Load
            ),
            _ => true,
        }
    }

    /// Whether it lasts for a while, and is planned as such; the others strike single requests.
    pub const fn lasts(self) -> bool {
        matches!(
            self,
            Self::Capacity
                | Self::Partition
                | Self::Outage
                | Self::Restart
                | Self::Busy
                | Self::Close
                | Self::Crowd
                | Self::Ingress
                | Self::CursorBack
                | Self::AckGarbled
                | Self::Rivals
                | Self::LongQueue
        )
    }

    /// Whether a spell of it changes what single requests meet; the others are done to the server, the executor or the programs.
    pub const fn strikes_requests(self) -> bool {
        !matches!(
            self,
            Self::Capacity | Self::Busy | Self::Close | Self::Crowd
        )
    }

    /// Whether it strikes lines of the log or jobs of the engine, and no requests.
    pub const fn strikes_no_request(self) -> bool {
        matches!(self, Self::JobFails | Self::LogPanics | Self::LogReenters)
    }

    /// Whether it is done by the caller's layer, above the network.
    pub const fn is_of_layer(self) -> bool {
        matches!(self, Self::LayerPanics | Self::Nested | Self::SlowLayer)
    }

    /// Whether it is a refusal for the rate.
    pub const fn limits(self) -> bool {
        matches!(
            self,
            Self::LimitedMs
                | Self::LimitedSeconds
                | Self::LimitedDate
                | Self::LimitedBody
                | Self::Limited
                | Self::SlowBody
                | Self::LongHint
        )
    }
}

/// How often single requests are struck, by kind.
#[derive(Debug, Clone, Default)]
pub struct Mix(pub Vec<(Kind, f64)>);

impl Mix {
    /// The kind that strikes a request of `op`, where `unit` in `0.0..1.0` was drawn for it.
    pub fn strike(&self, op: Op, unit: f64) -> Option<Kind> {
        let mut below = 0.0;
        for (kind, rate) in &self.0 {
            if !kind.strikes(op) {
                continue;
            }
            below += rate;
            if unit < below {
                return Some(*kind);
            }
        }
        None
    }
}

/// Something that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spell {
    /// What.
    pub kind: Kind,
    /// From when on.
    pub from: Duration,
    /// For how long; a restart takes this long.
    pub lasts: Duration,
    /// Whom it strikes; everybody when `None`.
    pub client: Option<usize>,
}

impl Spell {
    /// Whether it strikes a client at a time.
    pub fn covers(&self, at: Duration, client: usize) -> bool {
        self.from <= at
            && at < self.from + self.lasts
            && self.client.is_none_or(|struck| struck == client)
    }
}
