//! The client of the management commands.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tinkers::{Clock, RestClient, RetryPolicy, ServiceClient, TokioClock};
use tokio::runtime::Handle;

use crate::args::ManageArgs;

/// How long after its first attempt a request is retried.
const RETRY_WINDOW: Duration = Duration::from_secs(30);
/// The time limit of a request, including its retries and waits for rate limits.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// Creates a client for the server of the arguments. Nothing is sent.
///
/// # Errors
/// If a setting is invalid, or the hosted service is used without a credential.
pub(super) fn client(args: &ManageArgs) -> Result<RestClient> {
    let mut builder = ServiceClient::builder()
        .retry_policy(RetryPolicy::new().with_window(RETRY_WINDOW))
        .operation_deadline(REQUEST_LIMIT);
    if let Some(url) = args.base_url() {
        builder = builder.base_url(url);
    }
    if let Some(key) = &args.api_key {
        builder = builder.api_key(key.expose());
    }
    let client = builder.rest_client();
    client.with_context(|| format!("cannot use {}", args.server_name()))
}

/// Returns the current date and time, to which tables show times.
pub(super) fn now() -> SystemTime {
    TokioClock::new(Handle::current()).wall()
}
