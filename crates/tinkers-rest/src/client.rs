//! The client for runs, samplers, checkpoints and sessions. Its methods for each of them are in the file of that name.

use std::sync::Arc;

use http::Method;
use tinkers_core::Result;
use tinkers_wire::{
    AccessScope, Capabilities, SamplerInfo, WeightsInfo, WeightsInfoRequest, routes,
};

use crate::AdminClient;
use crate::arguments::{self, id};
use crate::connection::{Connection, Request, RestParts};

/// A client for training runs, checkpoints, sessions and samplers. Clones share their connection.
///
/// Create it with `ServiceClient::rest_client`, or without a session with `ServiceClientBuilder::rest_client`. Requests wait for the rate
/// limits of the server and API key, and are retried like all requests of the SDK; the README of this crate says which calls are repeated
/// after a lost response.
///
/// # Errors
/// All methods fail with `InvalidInput`, before anything is sent, for invalid arguments; with `NotFound` if an object does not exist; and
/// with `Unsupported` if the server has no route for the call. Otherwise with the errors of the server.
///
/// # Cancel safety
/// Dropping the future of a method cancels its request. A request that changes something may have been applied nevertheless.
#[derive(Debug, Clone)]
pub struct RestClient {
    pub(crate) connection: Arc<Connection>,
    pub(crate) access_scope: AccessScope,
}

impl RestClient {
    /// Creates a client from its parts. Nothing is sent.
    pub fn new(parts: RestParts) -> Self {
        Self {
            connection: Connection::new(parts),
            access_scope: AccessScope::Owned,
        }
    }

    /// Sets whose runs and sessions the lists and descriptions include. By default, they include those of the user.
    #[must_use]
    pub fn with_access_scope(mut self, scope: AccessScope) -> Self {
        self.access_scope = scope;
        self
    }

    /// Returns the client for the audit log, usage and storage. It shares the connection of this client.
    pub fn admin(&self) -> AdminClient {
        AdminClient {
            connection: Arc::clone(&self.connection),
        }
    }

    /// Describes how the weights of a checkpoint were trained.
    ///
    /// # Errors
    /// `NotFound` if there is no such checkpoint; see [`RestClient`].
    pub async fn get_weights_info_by_tinker_path(
        &self,
        tinker_path: impl AsRef<str> + Send,
    ) -> Result<WeightsInfo> {
        let (path, ..) = arguments::checkpoint(tinker_path.as_ref())?;
        let body = WeightsInfoRequest {
            tinker_path: path.as_str().to_owned(),
        };
        let operation = "RestClient.get_weights_info_by_tinker_path";
        let route = routes::WEIGHTS_INFO;
        let request = Request::with_body(operation, Method::POST, route, route, &body);
        self.connection.get(request).await
    }

    /// Describes a sampler.
    ///
    /// # Errors
    /// `NotFound` if there is no such sampler; see [`RestClient`].
    pub async fn get_sampler(&self, sampler_id: impl AsRef<str> + Send) -> Result<SamplerInfo> {
        let path = routes::sampler(id("sampler_id", sampler_id.as_ref())?);
        let route = "/api/v1/samplers/{sampler_id}";
        let request = Request::new("RestClient.get_sampler", Method::GET, route, path);
        self.connection.get(request).await
    }

    /// Requests the capabilities of the server, such as the models that it offers.
    ///
    /// # Errors
    /// See [`RestClient`].
    pub async fn get_server_capabilities(&self) -> Result<Capabilities> {
        let route = routes::CAPABILITIES;
        let operation = "RestClient.get_server_capabilities";
        let request = Request::new(operation, Method::GET, route, route);
        self.connection.get(request).await
    }
}
