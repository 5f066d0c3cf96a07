//! Queries about the server and the session that belong to no training or sampling client.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::json_response::decode;
use tinkers_core::{Call, CallPolicy, Error, ErrorKind, RouteClass, ServerProfile};
use tinkers_futures::call_on_io;
use tinkers_wire::{Capabilities, Heartbeat, routes, to_json};

use crate::session::Session;

impl Session {
    /// Requests the capabilities of the server, such as the models that it offers.
    ///
    /// # Errors
    /// `Timeout` after the operation deadline of the session, and the errors of the server.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request.
    pub async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.state.check_open()?;
        let mut call = Call::get(routes::CAPABILITIES, RouteClass::Rest);
        call.operation = Some("ServiceClient.capabilities");
        let limit = self.options.operation_deadline;
        call.deadline = limit.map(|limit| self.caller.time.now().after(limit));
        let accepted = call_on_io(&*self.spawner, self.caller.clone(), call).await?;
        decode(&accepted.response, "get_server_capabilities")
    }

    /// Checks with one request that the server is healthy. The request is not retried.
    ///
    /// # Errors
    /// The error of the request: `Connection` if the server is not reachable, or `Server` if the server is not healthy.
    pub async fn health(&self) -> Result<(), Error> {
        self.state.check_open()?;
        let mut call = Call::get(routes::HEALTH, RouteClass::Control);
        call.operation = Some("ServiceClient.health");
        call.policy = CallPolicy::ONCE;
        call_on_io(&*self.spawner, self.caller.clone(), call).await?;
        Ok(())
    }

    /// Sends one heartbeat now, to find out whether the server still knows the session. If the server no longer knows the session, the
    /// session ends. Other failures of the heartbeat are ignored.
    ///
    /// # Errors
    /// `SessionLost` or `Closed` if the session is not open after the heartbeat.
    pub(crate) async fn heartbeat_now(&self) -> Result<(), Error> {
        let session_id = self.id.clone();
        let body = to_json(&Heartbeat { session_id });
        let mut call = Call::post(routes::SESSION_HEARTBEAT, body, RouteClass::Control);
        call.policy = CallPolicy::ONCE;
        call.attempt_limit = Some(Duration::from_secs(10));
        if let Err(error) = self.caller.call(call).await
            && error.kind() == ErrorKind::SessionLost
        {
            self.state.end();
        }
        self.state.check_open()
    }

    /// Returns the server profile: the features of the server that are known so far, such as the body formats that it accepts.
    pub fn server_profile(&self) -> Arc<ServerProfile> {
        self.endpoint.profile()
    }
}
