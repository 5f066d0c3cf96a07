//! Copies of checkpoints.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use tinkers_core::{BoxFuture, Error, Result};
use tinkers_wire::{CopyWeights, NewCheckpoint, TinkerPath, routes};

use crate::connection::{Connection, Request};
use crate::{RestClient, arguments};

/// The header with the token that grants access to a checkpoint of another user.
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-tinker-weights-access-token");

/// The copy of a checkpoint to a project; see [`RestClient::copy_weights`]. Await it to get the path of the copy.
///
/// # Errors
/// `InvalidInput` if no project is set, and for an invalid path or ttl, before anything is sent. `OutcomeUnknown` if the response is lost:
/// the request is not repeated, since each request may create a copy. Otherwise the errors of [`RestClient`].
#[must_use = "nothing is sent before the copy is awaited"]
pub struct CopyCheckpoint {
    connection: Arc<Connection>,
    source_path: String,
    project_id: Option<String>,
    ttl: Option<Duration>,
    access_token: Option<String>,
}

impl CopyCheckpoint {
    pub(crate) fn new(client: &RestClient, source_path: &str) -> Self {
        Self {
            connection: Arc::clone(&client.connection),
            source_path: source_path.to_owned(),
            project_id: client.connection.parts.project_id.clone(),
            ttl: None,
            access_token: None,
        }
    }

    /// Sets the project of the copy. By default, it is the project of the client, which `TINKER_PROJECT_ID` sets.
    pub fn project_id(mut self, project_id: impl Into<String>) -> Self {
        self.project_id = Some(project_id.into());
        self
    }

    /// Sets the time after which the server deletes the copy, between one hour and ten years. By default the copy is not deleted, even if
    /// the source is.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the token that grants access to a checkpoint of another user. It does not occur in `Debug` output.
    pub fn access_token(mut self, token: impl Into<String>) -> Self {
        self.access_token = Some(token.into());
        self
    }

    async fn run(self) -> Result<TinkerPath> {
        let (source, ..) = arguments::checkpoint(&self.source_path)
            .map_err(|error| error.with_field("source_path"))?;
        let Some(project) = self.project_id else {
            let expected = "the id of a project; set it here or in TINKER_PROJECT_ID";
            return Err(Error::invalid("destination_project_id", expected));
        };
        let body = CopyWeights {
            source_path: source.as_str().to_owned(),
            destination_project_id: Some(
                arguments::id("destination_project_id", &project)?.to_owned(),
            ),
            ttl_seconds: self.ttl.map(arguments::ttl).transpose()?,
        };
        body.validate()?;
        let operation = "RestClient.copy_weights";
        let route = routes::COPY_WEIGHTS;
        let mut request = Request::with_body(operation, Method::POST, route, route, &body);
        if let Some(token) = &self.access_token {
            let mut value = HeaderValue::from_str(token)
                .map_err(|_| Error::invalid("access_token", "visible ASCII characters"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(ACCESS_TOKEN, value);
        }
        let copy: NewCheckpoint = self.connection.get(request.at_most_once()).await?;
        Ok(copy.tinker_path.parse()?)
    }
}

impl IntoFuture for CopyCheckpoint {
    type Output = Result<TinkerPath>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for CopyCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyCheckpoint")
            .field("source_path", &self.source_path)
            .field("project_id", &self.project_id)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
