//! The constructors of service clients that connect to a server.

use std::future::IntoFuture;

use tinkers_core::{BoxFuture, Result};

use crate::{ServiceClient, ServiceClientBuilder};

impl ServiceClient {
    /// Returns the settings of a new client.
    pub fn builder() -> ServiceClientBuilder {
        ServiceClientBuilder::new()
    }

    /// Connects with the settings of the environment: `TINKER_API_KEY`, and `TINKER_BASE_URL` for other servers than the hosted service.
    ///
    /// # Errors
    /// Those of [`ServiceClientBuilder::connect`].
    pub async fn from_env() -> Result<Self> {
        Self::builder().connect().await
    }
}

impl IntoFuture for ServiceClientBuilder {
    type Output = Result<ServiceClient>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.connect())
    }
}
