//! The exchange of a credential for a short-lived token.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use secrecy::SecretString;
use serde::Deserialize;
use tinkers_core::retry::{RetryAction, classify};
use tinkers_core::{
    Backoff, BoxFuture, Clock, HttpRequest, HttpResponse, Jitter, RecoveredError, RecoveredErrors,
    RouteClass, Timestamp, Transport, TransportErrorKind,
};
use tinkers_wire::routes;

use crate::command::CredentialCommand;
use crate::credential::Placement;
use crate::failure::{Failure, FailureKind};
use crate::token_cache::TokenSource;

/// The pauses between the attempts of an exchange.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8));
/// The longest retry delay of the server that is followed.
const MAX_HINT: Duration = Duration::from_secs(15 * 60);

/// The source of the credential that is exchanged.
#[derive(Debug)]
pub(crate) enum ExchangeCredential {
    /// The header of an API key or a token.
    Fixed(HeaderValue),
    /// A command, which runs for each exchange.
    Command(CredentialCommand),
}

/// The exchange of a credential for a token by `POST /auth/token`, on a transport of its own.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) credential: ExchangeCredential,
    pub(crate) placement: Placement,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) jitter: Arc<dyn Jitter>,
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
    /// The time before which the server has asked not to send the request again, and the failure with that response.
    pub(crate) not_before: Mutex<Option<(Timestamp, Failure)>>,
}

/// The response of the exchange.
#[derive(Deserialize)]
struct Exchanged {
    jwt: String,
}

/// The outcome of an attempt that failed.
struct FailedAttempt {
    failure: Failure,
    /// The retry delay of the server, if it asked for one.
    hint: Option<Duration>,
}

impl Exchange {
    async fn run(&self, attempts: u32) -> Result<SecretString, Failure> {
        let waiting = self.lock().clone();
        if let Some((until, failure)) = waiting.filter(|(until, _)| *until > self.clock.now()) {
            if attempts == 1 {
                return Err(failure);
            }
            self.clock.sleep_until(until).await;
        }
        let mut made = 0;
        loop {
            let credential = match &self.credential {
                ExchangeCredential::Fixed(value) => value.clone(),
                ExchangeCredential::Command(command) => {
                    let secret = command.run().await?;
                    let value = self.placement.value(&secret);
                    value.map_err(|expected| {
                        Failure::local(format!("{}: expected {expected}", command.source))
                    })?
                }
            };
            let failed = match self.attempt(credential).await {
                Ok(token) => {
                    *self.lock() = None;
                    return Ok(token);
                }
                Err(failed) => failed,
            };
            made += 1;
            let hint = failed.hint.unwrap_or_default().min(MAX_HINT);
            let now = self.clock.now();
            *self.lock() = (!hint.is_zero()).then(|| (now.after(hint), failed.failure.clone()));
            if made >= attempts || !matches!(failed.failure.kind, FailureKind::Temporary(_)) {
                return Err(failed.failure);
            }
            let failure = &failed.failure;
            self.recovered_errors
                .record(RecoveredError::TokenRefresh, failure);
            // The jitter is only added, so the retry delay of the server is never undercut.
            let pause = self.jitter.stretch(BACKOFF.pause(made - 1).max(hint), 0.25);
            self.clock.sleep(pause).await;
        }
    }

    async fn attempt(&self, credential: HeaderValue) -> Result<SecretString, FailedAttempt> {
        let mut request = HttpRequest::new(Method::POST, routes::AUTH_TOKEN, RouteClass::Control);
        request.body = Bytes::from_static(b"{}");
        request.headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        request
            .headers
            .insert(self.placement.name.clone(), credential);
        let response = self.transport.send(request).await.map_err(|error| {
            use TransportErrorKind as K;
            let kind = match error.kind {
                K::Connect | K::Timeout | K::Broken => FailureKind::Temporary(error.kind),
                _ => FailureKind::Final,
            };
            FailedAttempt {
                failure: Failure {
                    kind,
                    message: format!("cannot exchange the credential for a token: {error}"),
                },
                hint: None,
            }
        })?;
        let (kind, hint) = match classify(&response, self.clock.wall()) {
            RetryAction::Accept => return self.token(&response),
            RetryAction::Refused { hint } | RetryAction::Again { hint, .. } => {
                (FailureKind::Temporary(TransportErrorKind::Broken), hint)
            }
            _ if response.status == StatusCode::UNAUTHORIZED => (FailureKind::Rejected, None),
            _ => (FailureKind::Final, None),
        };
        let reason = tinkers_wire::error_text(&response.body);
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let message = match kind {
            FailureKind::Rejected => {
                format!(
                    "the server rejects the credential in the token exchange{reason}; check the API key"
                )
            }
            _ => format!(
                "the token exchange failed with status {}{reason}",
                response.status
            ),
        };
        Err(FailedAttempt {
            failure: Failure { kind, message },
            hint,
        })
    }

    /// Reads the token from a successful response.
    fn token(&self, response: &HttpResponse) -> Result<SecretString, FailedAttempt> {
        let exchanged = serde_json::from_slice::<Exchanged>(&response.body);
        let token = exchanged
            .ok()
            .map(|exchanged| SecretString::from(exchanged.jwt));
        token
            .filter(|token| self.placement.value(token).is_ok())
            .ok_or_else(|| FailedAttempt {
                failure: Failure::local(
                    "the response to auth/token has no token in its field \"jwt\"".to_owned(),
                ),
                hint: None,
            })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Timestamp, Failure)>> {
        self.not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenSource for Exchange {
    fn fetch(&self, attempts: u32) -> BoxFuture<'_, Result<SecretString, Failure>> {
        Box::pin(self.run(attempts))
    }
}
