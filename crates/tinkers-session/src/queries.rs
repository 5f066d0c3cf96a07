//! What can be asked of a server apart from any client.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{
    Accepted, Call, Caller, Error, ErrorKind, Policy, RouteClass, Sent, ServerProfile, Timeouts,
};
use tinkers_wire::{Capabilities, Heartbeat, routes, to_json};

use crate::answer;
use crate::elsewhere::on_io;
use crate::session::Session;

impl Session {
    /// The models that the server offers.
    pub async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.life.check_open()?;
        let mut call = Call::get(routes::CAPABILITIES, RouteClass::Rest);
        call.operation = Some("ServiceClient.capabilities");
        let limit = self.options.operation_deadline;
        call.deadline = limit.map(|limit| self.caller.time.now().after(limit));
        let accepted = self.call_on_io(self.caller.clone(), call).await?;
        answer::read(&accepted.response, "get_server_capabilities")
    }

    /// Whether the server is up, asked once: an error says why it is not.
    pub async fn health(&self) -> Result<(), Error> {
        self.life.check_open()?;
        let mut call = Call::get(routes::HEALTH, RouteClass::Control);
        call.operation = Some("ServiceClient.health");
        call.policy = Policy::ONCE;
        self.call_on_io(self.caller.clone(), call).await?;
        Ok(())
    }

    /// Makes one heartbeat now. A server that does not know the session any more ends it; any other outcome says nothing.
    pub(crate) async fn heartbeat_now(&self) -> Result<(), Error> {
        let session_id = self.id.clone();
        let body = to_json(&Heartbeat { session_id });
        let mut call = Call::post(routes::SESSION_HEARTBEAT, body, RouteClass::Control);
        call.policy = Policy::ONCE;
        call.timeouts = Timeouts::within(Duration::from_secs(10));
        if let Err(error) = self.caller.call(call).await
            && error.kind() == ErrorKind::SessionLost
        {
            self.life.end();
        }
        self.life.check_open()
    }

    /// What is known of the server so far.
    pub fn server_profile(&self) -> Arc<ServerProfile> {
        self.endpoint.profile()
    }

    /// Makes a call on the I/O runtime, until its deadline if it has one.
    pub(crate) async fn call_on_io(&self, caller: Caller, call: Call) -> Result<Accepted, Error> {
        let work = async move {
            let (deadline, operation) = (call.deadline, call.operation);
            let Some(at) = deadline else {
                return caller.call(call).await;
            };
            let called = caller.time.deadline(at, caller.call(call)).await;
            called.unwrap_or_else(|| {
                let message = "the server did not answer before the deadline";
                let late = Error::new(ErrorKind::Timeout, Sent::MaybeSent, message);
                Err(match operation {
                    Some(operation) => late.with_operation(operation),
                    None => late,
                })
            })
        };
        on_io(&*self.spawner, work).await
    }
}
