//! One exchange: journal, fault, protocol.

use std::time::Duration;

use super::LocalServer;
use crate::faults::{Action, Fault};
use crate::http::{Answer, Request, Response};
use crate::protocol::Protocol;
use crate::read::Command;

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

impl LocalServer {
    /// Takes a request and gives its answer. Dropping the future is a disconnect: the request may have been applied.
    ///
    /// # Errors
    /// When the fault script cuts the connection.
    pub async fn exchange(&self, request: Request) -> Result<Response, Cut> {
        let read = Protocol::read(&self.shared.config, &request);
        let fault = self.shared.faults.strike(&request);
        let command = read.as_ref().ok();
        let arrival =
            self.shared.journal.as_ref().map(|journal| {
                journal.arrive(&request, command, &self.shared.time, fault.as_ref())
            });
        let result = self.suffer(read, fault).await;
        if let (Some(arrival), Ok(response)) = (&arrival, &result) {
            arrival.answered(response.status);
        }
        result
    }

    async fn suffer(
        &self,
        read: Result<Command, Answer>,
        fault: Option<Fault>,
    ) -> Result<Response, Cut> {
        let Some(fault) = fault else {
            return self.answer(read).await;
        };
        match fault.action {
            Action::Answer(response) => Ok(*response),
            Action::Delay(delay) => {
                self.pause(delay).await;
                self.answer(read).await
            }
            Action::DelayAnswer(delay) => {
                let response = self.answer(read).await;
                self.pause(delay).await;
                response
            }
            Action::Refuse => Err(Cut::Refused),
            Action::CutBefore => Err(Cut::Broken),
            Action::CutAfter => {
                self.answer(read).await?;
                Err(Cut::Broken)
            }
            Action::Duplicate => {
                // The copy arrives first and its answer goes nowhere, as when a proxy sends a request twice.
                let _copy = read.clone().map(|command| self.shared.apply(command));
                self.answer(read).await
            }
        }
    }

    async fn answer(&self, read: Result<Command, Answer>) -> Result<Response, Cut> {
        let answer = match read {
            Err(answer) => answer,
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
