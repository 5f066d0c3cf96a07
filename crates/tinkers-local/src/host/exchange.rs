//! An exchange: applies faults, records the journal and runs the protocol.

use std::time::Duration;

use super::LocalServer;
use crate::access::Owner;
use crate::faults::{Action, Fault, SelectedFault};
use crate::http::{LazyResponse, Request, Response};
use crate::protocol::Protocol;
use crate::quirks::Quirks;
use crate::read::{
    AuthorizedCommand, NumberScan, Numbered, check_key, class_of, fault_counts, gives_up_number,
    is_counts,
};

/// The way in which an injected fault has cut a connection, from the view of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cut {
    /// The connection was refused: nothing was sent.
    #[error("the connection was refused, as the fault script says")]
    Refused,
    /// The connection was cut after the request was sent. The client cannot know whether the server processed the request.
    #[error("the connection broke before a response, as the fault script says")]
    Broken,
}

/// The response that the server sends over a connection: complete, or only the first half of it.
pub(super) enum Delivery {
    Complete(Response),
    /// A response whose head and first half of the body are sent; then the connection is cut.
    Half(Response),
}

/// The response to a request that does not reach the protocol state, because the parser refused it or answered it directly.
#[derive(Clone)]
struct ParseRefusal {
    response: LazyResponse,
    /// The owner, the model and the sequence number of a refused request, if the client will not use this sequence number again. Later
    /// requests of the model then do not wait for it. `None` if the client may retry with this sequence number, or if the request
    /// has none.
    numbered: Option<(Owner, Numbered)>,
}

/// How many bytes of an oversized request body the server receives and searches for a sequence number, as a multiple of the size
/// limit. The server needs the number although it refuses the request, so that later requests do not wait for it.
pub(super) const SCAN_LIMIT_FACTOR: usize = 4;

impl LocalServer {
    /// Handles a request and returns the response. Dropping the future counts as a disconnect of the client, but the server may
    /// have processed the request already.
    ///
    /// # Errors
    ///
    /// If a fault cuts the connection.
    pub async fn exchange(&self, request: Request) -> Result<Response, Cut> {
        match self.deliver(request).await? {
            Delivery::Complete(response) => Ok(response),
            Delivery::Half(_) => Err(Cut::Broken),
        }
    }

    /// Handles a request like [`Self::exchange`], for a connection that can be cut in the middle of a response.
    pub(super) async fn deliver(&self, request: Request) -> Result<Delivery, Cut> {
        let quirks = &self.shared.quirks;
        if quirks.is_empty() {
            let read = self.read(&request);
            return self.deliver_read(&request, read).await;
        }
        let path = request.path.clone();
        let request = quirks.request(request);
        let read = match quirks.respond(&path, &request) {
            Some(response) => Err(ParseRefusal {
                response,
                numbered: None,
            }),
            None => self.read(&request),
        };
        self.deliver_read(&request, read).await
    }

    /// Handles a request of which `read` is the parsed form, or the response to it if the protocol does not handle it.
    async fn deliver_read(
        &self,
        request: &Request,
        read: Result<AuthorizedCommand, ParseRefusal>,
    ) -> Result<Delivery, Cut> {
        let selected = self.select_fault(request);
        let authorized = read.as_ref().ok();
        let command = authorized.map(|authorized| &authorized.command);
        let struck_by = selected.as_ref().map(|selected| &selected.rule);
        let mut arrival = (self.shared.journal.as_ref())
            .map(|journal| journal.arrive(request, command, &self.shared.time, struck_by));
        if selected.is_some()
            && let Some(AuthorizedCommand { owner, command }) = authorized
            && let Some(numbered) = command.numbered()
        {
            let shared = &self.shared;
            shared.change(|protocol, at| protocol.number_attempted(at, owner, &numbered));
        }
        let result = self
            .respond_with_fault(request, read, selected.map(|selected| selected.fault))
            .await;
        let result = match result {
            Ok(Delivery::Complete(response)) if !self.shared.quirks.is_empty() => {
                let rewritten = self.rewrite(request, response).await;
                rewritten.map(Delivery::Complete)
            }
            result => result,
        };
        if let (Some(arrival), Ok(Delivery::Complete(response))) = (&mut arrival, &result) {
            arrival.responded(response.status);
        }
        result
    }

    /// Rewrites a response as the quirks of the server require. If the server returns the results of such requests in place of request ids,
    /// waits for the result first.
    async fn rewrite(&self, request: &Request, response: Response) -> Result<Response, Cut> {
        let quirks = &self.shared.quirks;
        let Some(id) = quirks.resolved_at_once(request, &response) else {
            return Ok(quirks.response(request, response));
        };
        loop {
            let poll = Quirks::poll(&id, &request.headers);
            let polled = self.respond(self.read(&poll)).await?;
            if !Quirks::is_pending(&polled) {
                return Ok(quirks.response(request, polled));
            }
        }
    }

    #[expect(
        clippy::result_large_err,
        reason = "the error is the response and is used at once"
    )]
    fn read(&self, request: &Request) -> Result<AuthorizedCommand, ParseRefusal> {
        let shared = &self.shared;
        let read = match fault_counts(&shared.config, request, &shared.faults) {
            Some(counts) => Err(counts),
            None => Protocol::read(&shared.config, request),
        };
        read.map_err(|response| {
            let limit = shared.config.max_body.saturating_mul(SCAN_LIMIT_FACTOR);
            let is_given_up = gives_up_number(response.status());
            let numbered = is_given_up.then(|| {
                let caller = check_key(&shared.config, request).ok()?;
                let numbered = NumberScan::whole(request, limit)?;
                Some((caller.grant.owner.clone(), numbered))
            });
            let numbered = numbered.flatten();
            ParseRefusal { response, numbered }
        })
    }

    /// Records that a request of an owner was refused. Later requests of the same model then do not wait for the sequence number of the refused
    /// request.
    pub(super) fn number_refused(&self, owner: &Owner, numbered: &Numbered) {
        let shared = &self.shared;
        shared.change(|protocol, _| protocol.number_refused(owner, numbered));
    }

    /// Returns the fault to inject into a request. Requests for `GET /faults/counts` and `GET /scripted/counts` get no fault.
    fn select_fault(&self, request: &Request) -> Option<SelectedFault> {
        let route = request.route();
        if is_counts(route) {
            return None;
        }
        let now = self.shared.time.now();
        self.shared.faults.select(route, class_of(route), now)
    }

    async fn respond_with_fault(
        &self,
        request: &Request,
        read: Result<AuthorizedCommand, ParseRefusal>,
        fault: Option<Fault>,
    ) -> Result<Delivery, Cut> {
        let Some(fault) = fault else {
            return self.respond(read).await.map(Delivery::Complete);
        };
        let response = match fault.action {
            Action::Respond(fixed) => fixed.at(self.shared.time.wall()),
            Action::Delay(delay) => {
                self.pause(delay).await;
                self.respond(read).await?
            }
            Action::DelayResponse(delay) => {
                let response = self.respond(read).await?;
                self.pause(delay).await;
                response
            }
            Action::Refuse => return Err(Cut::Refused),
            Action::CutBefore => return Err(Cut::Broken),
            Action::CutAfter => {
                self.respond(read).await?;
                return Err(Cut::Broken);
            }
            Action::CutBody => {
                let response = self.respond(read).await?;
                // Without a body, only the connection can be cut.
                if response.body.is_empty() {
                    return Err(Cut::Broken);
                }
                return Ok(Delivery::Half(response));
            }
            Action::Truncate => {
                let mut response = self.respond(read).await?;
                response.body.truncate(response.body.len() / 2);
                response
            }
            Action::Duplicate => {
                // The duplicate is applied first and its response is dropped, as when a proxy repeats a request.
                let _duplicate = read.clone().map(|command| self.shared.apply(command));
                self.respond(read).await?
            }
            Action::PauseCapacity(length) => {
                self.pause_capacity(length);
                self.respond(read).await?
            }
            Action::ExpireSessions => {
                self.expire_sessions();
                self.respond(read).await?
            }
            // The credential of the request is checked again.
            Action::RevokeTokens => {
                self.config().access.revoke_tokens();
                self.respond(self.read(request)).await?
            }
            Action::RevokeKey => {
                let config = self.config();
                if let Ok(caller) = check_key(config, request) {
                    config.access.revoke(caller.key);
                }
                self.respond(self.read(request)).await?
            }
            Action::Restart => {
                self.restart();
                return Err(Cut::Broken);
            }
        };
        Ok(Delivery::Complete(response))
    }

    async fn respond(
        &self,
        read: Result<AuthorizedCommand, ParseRefusal>,
    ) -> Result<Response, Cut> {
        let response = match read {
            Err(refusal) => {
                if let Some((owner, numbered)) = &refusal.numbered {
                    self.number_refused(owner, numbered);
                }
                refusal.response
            }
            Ok(command) => self
                .shared
                .apply(command)
                .response()
                .await
                .ok_or(Cut::Broken)?,
        };
        Ok(response.encode())
    }

    async fn pause(&self, delay: Duration) {
        self.shared.time.sleep(delay).await;
    }
}
