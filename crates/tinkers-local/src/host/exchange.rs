//! One exchange: journal, fault, protocol.

use std::time::Duration;

use super::LocalServer;
use crate::faults::{Action, Fault, Strike};
use crate::http::{Answer, Request, Response};
use crate::protocol::Protocol;
use crate::read::{
    Command, NumberScan, Numbered, class_of, fault_counts, gives_up_number, is_counts,
};

/// The connection was cut by a fault instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cut {
    /// No connection was made: nothing was sent.
    #[error("the connection was refused, as the fault script says")]
    Refused,
    /// It broke after the request went out. Whether it was applied, the other side cannot know.
    #[error("the connection broke before an answer, as the fault script says")]
    Broken,
}

/// What goes back over a connection.
pub(super) enum Delivery {
    Whole(Response),
    /// Its head and the first half of its body; then the connection is cut.
    Half(Response),
}

/// A request that was refused before the protocol saw it.
#[derive(Clone)]
struct Unread {
    answer: Answer,
    /// The number that it came under, which later requests shall not wait for.
    numbered: Option<Numbered>,
}

/// A body that is refused for its length is looked through up to so many times the limit for its number.
pub(super) const SCANNED: usize = 4;

impl LocalServer {
    /// Takes a request and gives its answer. Dropping the future is a disconnect: the request may have been applied.
    ///
    /// # Errors
    /// When the fault script cuts the connection.
    pub async fn exchange(&self, request: Request) -> Result<Response, Cut> {
        match self.deliver(request).await? {
            Delivery::Whole(response) => Ok(response),
            Delivery::Half(_) => Err(Cut::Broken),
        }
    }

    /// The same for a connection that can be cut within an answer.
    pub(super) async fn deliver(&self, request: Request) -> Result<Delivery, Cut> {
        let read = self.read(&request);
        let strike = self.strike(&request);
        let command = read.as_ref().ok();
        let struck_by = strike.as_ref().map(|strike| &strike.by);
        let mut arrival = (self.shared.journal.as_ref())
            .map(|journal| journal.arrive(&request, command, &self.shared.time, struck_by));
        if strike.is_some()
            && let Some(numbered) = command.and_then(Command::numbered)
        {
            let shared = &self.shared;
            shared.change(|protocol, at| protocol.number_attempted(at, &numbered));
        }
        let result = self.suffer(read, strike.map(|strike| strike.fault)).await;
        if let (Some(arrival), Ok(Delivery::Whole(response))) = (&mut arrival, &result) {
            arrival.answered(response.status);
        }
        result
    }

    #[expect(
        clippy::result_large_err,
        reason = "the error is the answer, and is not passed on"
    )]
    fn read(&self, request: &Request) -> Result<Command, Unread> {
        let shared = &self.shared;
        let read = match fault_counts(&shared.config, request, &shared.faults) {
            Some(counts) => Err(counts),
            None => Protocol::read(&shared.config, request),
        };
        read.map_err(|answer| {
            let limit = shared.config.max_body.saturating_mul(SCANNED);
            let numbered = gives_up_number(answer.status())
                .then(|| NumberScan::whole(request, limit))
                .flatten();
            Unread { answer, numbered }
        })
    }

    /// Nothing waits for the number of a request that was refused.
    pub(super) fn number_refused(&self, numbered: &Numbered) {
        let shared = &self.shared;
        shared.change(|protocol, _| protocol.number_refused(numbered));
    }

    /// What happens to a request. What tells of faults meets none.
    fn strike(&self, request: &Request) -> Option<Strike> {
        let route = request.route();
        if is_counts(route) {
            return None;
        }
        let now = self.shared.time.now();
        self.shared.faults.strike(route, class_of(route), now)
    }

    async fn suffer(
        &self,
        read: Result<Command, Unread>,
        fault: Option<Fault>,
    ) -> Result<Delivery, Cut> {
        let Some(fault) = fault else {
            return self.answer(read).await.map(Delivery::Whole);
        };
        let whole = match fault.action {
            Action::Answer(scripted) => scripted.at(self.shared.time.wall()),
            Action::Delay(delay) => {
                self.pause(delay).await;
                self.answer(read).await?
            }
            Action::DelayAnswer(delay) => {
                let response = self.answer(read).await?;
                self.pause(delay).await;
                response
            }
            Action::Refuse => return Err(Cut::Refused),
            Action::CutBefore => return Err(Cut::Broken),
            Action::CutAfter => {
                self.answer(read).await?;
                return Err(Cut::Broken);
            }
            Action::CutBody => {
                let response = self.answer(read).await?;
                // Where there is no body, there is nothing to cut but the connection.
                if response.body.is_empty() {
                    return Err(Cut::Broken);
                }
                return Ok(Delivery::Half(response));
            }
            Action::Truncate => {
                let mut response = self.answer(read).await?;
                response.body.truncate(response.body.len() / 2);
                response
            }
            Action::Duplicate => {
                // The copy arrives first and its answer goes nowhere, as when a proxy sends a request twice.
                let _copy = read.clone().map(|command| self.shared.apply(command));
                self.answer(read).await?
            }
            Action::PauseCapacity(length) => {
                self.pause_capacity(length);
                self.answer(read).await?
            }
            Action::ExpireSessions => {
                self.expire_sessions();
                self.answer(read).await?
            }
            Action::Restart => {
                self.restart();
                return Err(Cut::Broken);
            }
        };
        Ok(Delivery::Whole(whole))
    }

    async fn answer(&self, read: Result<Command, Unread>) -> Result<Response, Cut> {
        let answer = match read {
            Err(unread) => {
                if let Some(numbered) = &unread.numbered {
                    self.number_refused(numbered);
                }
                unread.answer
            }
            Ok(command) => self
                .shared
                .apply(command)
                .answer()
                .await
                .ok_or(Cut::Broken)?,
        };
        Ok(answer.into_response())
    }

    async fn pause(&self, delay: Duration) {
        self.shared.time.sleep(delay).await;
    }
}
