//! The constructors of service clients that connect to a server.

use std::future::IntoFuture;

use tinkers_core::{BoxFuture, Result};

use crate::{ServiceClient, ServiceClientBuilder};

impl ServiceClient {
    /// Returns a builder for the settings of a new client. Await the builder, or call [`ServiceClientBuilder::connect`].
    ///
    /// ```no_run
    /// # async fn connect() -> tinkers::Result<()> {
    /// use std::time::Duration;
    ///
    /// let service = tinkers::ServiceClient::builder()
    ///     .base_url("http://127.0.0.1:8000")
    ///     .api_key("tml-key")
    ///     .operation_deadline(Duration::from_secs(3600))
    ///     .await?;
    /// println!("session {}", service.session_id());
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ServiceClientBuilder {
        ServiceClientBuilder::new()
    }

    /// Connects with the settings in the environment: `TINKER_API_KEY`, and `TINKER_BASE_URL` for servers other than the hosted service.
    ///
    /// # Errors
    /// The errors of [`ServiceClientBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the connection. A session that was already created on the server ends there after its expiry.
    pub async fn from_env() -> Result<Self> {
        Self::builder().connect().await
    }
}

impl IntoFuture for ServiceClientBuilder {
    type Output = Result<ServiceClient>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}
