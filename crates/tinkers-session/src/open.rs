//! The opening of a session: configuration, creation, and start of the background tasks.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tinkers_auth::Auth;
use tinkers_core::json_response::{self, decode};
use tinkers_core::retry::SAME_REASONS;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    Accepted, BaseUrl, BoxFuture, Call, CallPolicy, Caller, Deduplication, Error, ErrorKind,
    ProfileUpdate, RecoveredError, RouteClass, Sent, Timestamp, client_config,
};
use tinkers_dispatch::{ByteSemaphore, ClassSettings, LimiterSettings};
use tinkers_futures::on_io;
use tinkers_wire::{ClientConfig, CreateSession, DynamicConfig, SessionCreated, routes, to_json};

use crate::api_document;
use crate::caller::CallerParts;
use crate::cancel_queue::CancelQueue;
use crate::endpoint::Endpoint;
use crate::events::{EventSender, MessageLevel, SessionEvent};
use crate::heartbeat::HeartbeatLoop;
use crate::observed_transport::ObservedTransport;
use crate::options::{SessionOptions, SessionParts};
use crate::refresh;
use crate::session::{Session, Tasks};
use crate::session_state::SessionState;
use crate::telemetry::Telemetry;

/// The name of the public method in errors of [`Session::open`].
const OPERATION: &str = "ServiceClient.connect";

impl Session {
    /// Opens a session: requests the configuration of the server, creates the session, and starts its heartbeats.
    ///
    /// The first request is not retried, so that a wrong address fails at once. The configurations and the OpenAPI document are optional: if
    /// the server does not send them within 10 s, the defaults of the protocol apply. The creation of the session is retried for five minutes
    /// if the server has sent its configuration. The future can be awaited on any executor.
    ///
    /// # Errors
    /// `InvalidInput` for invalid options, before anything is sent. `Connection` if the server is not reachable, and `Protocol` if the
    /// server is not a Tinker server: check the base URL. `Unsupported` if the server requires a token exchange and the parts contain no
    /// authentication.
    /// Otherwise the errors that the server returns.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the opening. A session that was already created on the server ends there after its expiry.
    pub async fn open(parts: SessionParts, options: SessionOptions) -> Result<Arc<Self>, Error> {
        options.check()?;
        let spawner = Arc::clone(&parts.spawner);
        let work = Box::pin(async move {
            let events = Arc::<EventSender>::default();
            let mut caller = caller(&parts, &options, Arc::clone(&events));
            let negotiated = negotiate(&mut caller, &parts, &options)
                .await
                .map_err(|error| error.with_operation(OPERATION))?;
            report_messages(&negotiated.created, &events);
            Ok(Arc::new(Self::start(
                parts, options, caller, events, negotiated,
            )))
        });
        on_io(&*spawner, work).await
    }

    fn start(
        parts: SessionParts,
        options: SessionOptions,
        caller: Caller,
        events: Arc<EventSender>,
        negotiated: Negotiated,
    ) -> Self {
        let Negotiated {
            config,
            token_refresh,
            dynamic,
            created,
        } = negotiated;
        let expiry = expiry(&config, &options);
        let limits = parts
            .endpoint
            .limiter()
            .request_limits(limits(&config, &options), Arc::clone(&parts.time));
        let state = SessionState::new(
            dynamic,
            Arc::clone(&caller.recovered_errors),
            Arc::clone(&caller.closing),
            events,
        );
        let heartbeat = HeartbeatLoop::new(
            ObservedTransport::wrap(parts.heartbeat.transport, &parts.time, &parts.endpoint),
            parts.heartbeat.time,
            Arc::clone(&state),
            &created.session_id,
            options.heartbeat_period,
            expiry,
        )
        .with_timeouts(options.timeouts.of(RouteClass::Control));
        let refresh = refresh::run(caller.clone(), Arc::clone(&state), expiry / 3);
        let cancels = Arc::<CancelQueue>::default();
        let cancellations = Arc::clone(&cancels).run(caller.clone(), Arc::clone(&state));
        let telemetry = options
            .telemetry
            .then(|| Telemetry::new(&caller, &created.session_id));
        let reports = telemetry.as_ref().map(|telemetry| {
            let run = Arc::clone(telemetry).run(caller.clone());
            parts.spawner.spawn(Box::pin(run))
        });
        let tasks = Tasks {
            _heartbeat: parts.heartbeat.spawner.spawn(Box::pin(heartbeat.run())),
            _cancels: parts.spawner.spawn(Box::pin(cancellations)),
            _refresh: parts.spawner.spawn(Box::pin(refresh)),
            _telemetry: reports,
            _token_refresh: token_refresh.map(|refresh| parts.spawner.spawn(refresh)),
            _heartbeat_spawner: parts.heartbeat.spawner,
        };
        Self {
            id: created.session_id,
            options,
            caller,
            spawner: parts.spawner,
            endpoint: parts.endpoint,
            _limits: limits,
            response_bytes: ByteSemaphore::new(config.inflight_response_bytes_semaphore_size),
            config,
            model_seq: AtomicU64::new(0),
            sampling_seq: AtomicU64::new(0),
            state,
            telemetry,
            auth: parts.auth,
            cancels,
            tasks: Mutex::new(Some(tasks)),
        }
    }
}

/// The server's responses while a session is opened: the configuration and the new session.
struct Negotiated {
    config: ClientConfig,
    /// The background refresh of the token, if the server requires one.
    token_refresh: Option<BoxFuture<'static, ()>>,
    dynamic: DynamicConfig,
    created: SessionCreated,
}

/// The time limit of all optional requests of an opening together: the configurations and the OpenAPI document.
const OPTIONAL_LIMIT: Duration = Duration::from_secs(10);

async fn negotiate(
    caller: &mut Caller,
    parts: &SessionParts,
    options: &SessionOptions,
) -> Result<Negotiated, Error> {
    let endpoint = &parts.endpoint;
    let address = endpoint.key().address();
    let mut optional_until = caller.time.now().after(OPTIONAL_LIMIT);
    let configured = client_config(caller).await;
    let configured =
        configured.map_err(|error| first_request_error(error, "client/config", address))?;
    let is_tinker_server = configured.is_some();
    let config = configured.unwrap_or_default();
    let token_refresh = match config.pjwt_auth_enabled {
        true => {
            let began = caller.time.now();
            let refresh = exchange(parts.auth.as_deref(), &config, address).await?;
            // The exchange is not optional, so its time does not count.
            optional_until = optional_until.after(caller.time.now().since(began));
            Some(refresh)
        }
        false => None,
    };
    learn(&config, endpoint);
    caller.billing.limit = Duration::from_secs(config.billing_exception_max_pause_duration_sec);
    api_document::learn(caller, endpoint, optional_until).await;
    // A wrong address fails at once, so there are no retries before anything has shown that this is a Tinker server.
    let attempts = if is_tinker_server { 3 } else { 1 };
    let dynamic = dynamic_config(caller, optional_until, attempts).await?;
    let created = match is_tinker_server {
        true => {
            let deduplicates = endpoint.profile().deduplicates;
            let same_reasons = (deduplicates != Deduplication::Everything).then_some(SAME_REASONS);
            create(caller, options, CallPolicy::PATIENT, same_reasons).await?
        }
        // Nothing has shown yet that this is a Tinker server, so a wrong address fails here.
        false => {
            let created = create(caller, options, CallPolicy::ONCE, None).await;
            created.map_err(|error| first_request_error(error, "create_session", address))?
        }
    };
    Ok(Negotiated {
        config,
        token_refresh,
        dynamic,
        created,
    })
}

fn caller(parts: &SessionParts, options: &SessionOptions, events: Arc<EventSender>) -> Caller {
    let connection = CallerParts {
        transport: Arc::clone(&parts.transport),
        time: Arc::clone(&parts.time),
        jitter: Arc::clone(&parts.jitter),
        recovered_errors: Arc::clone(&parts.recovered_errors),
    };
    let mut caller = connection.caller(&parts.endpoint, options);
    caller.billing.observer = Some(events);
    caller
}

/// Exchanges the credential for a token, which all later requests carry. Returns the background refresh of the token.
async fn exchange(
    auth: Option<&Auth>,
    config: &ClientConfig,
    address: &BaseUrl,
) -> Result<BoxFuture<'static, ()>, Error> {
    let from_command = config.requires_credential_command();
    let Some(auth) = auth else {
        let message = format!(
            "the server at {address} requires an exchange of the API key for a token (pjwt_auth_enabled), and this session has no \
             credential to exchange; connect with ServiceClient::builder"
        );
        return Err(Error::new(ErrorKind::Unsupported, Sent::Answered, message));
    };
    let exchanged = auth.start_exchange(from_command).await;
    exchanged.map_err(|error| error.with_context(format!("cannot authenticate at {address}")))
}

/// Adds the address of the server to the error of a request that shows whether a Tinker server runs at `address`, and a text that says which
/// setting to check. `route` is the name of the request.
fn first_request_error(error: Error, route: &str, address: &BaseUrl) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let status = error.status().unwrap_or_default();
            not_tinker_server(address, &format!("it has no route {route}"))
                .with_response(status, &Bytes::copy_from_slice(error.body()))
        }
        _ if is_web_server(&error) => {
            let status = error.status().unwrap_or_default();
            let cause = format!("it responds to {route} with status {status} and no JSON");
            not_tinker_server(address, &cause)
                .with_response(status, &Bytes::copy_from_slice(error.body()))
        }
        ErrorKind::Protocol => {
            let status = error.status().unwrap_or_default();
            not_tinker_server(address, &format!("it sends no valid response to {route}"))
                .with_response(status, &Bytes::copy_from_slice(error.body()))
                .with_source(error)
        }
        ErrorKind::Connection | ErrorKind::Timeout => error.with_context(format!(
            "cannot reach a server at {address}; check base_url, and that the server is running"
        )),
        ErrorKind::Authentication => error.with_context(format!(
            "the server at {address} does not accept the API key"
        )),
        ErrorKind::PermissionDenied => error.with_context(format!(
            "the server at {address} denies access to this API key"
        )),
        _ => error.with_context(format!("the first request to {address} failed")),
    }
}

/// Returns whether an error shows that the server is an ordinary web server, not a Tinker server. Such a server rejects a POST request with
/// a certain status and a body that is not JSON. Proxies in front of Tinker servers reject requests with other statuses.
fn is_web_server(error: &Error) -> bool {
    let has_page = !error.body().is_empty() && !json_response::is_object(error.body());
    has_page && matches!(error.status(), Some(400 | 411 | 415 | 501))
}

fn not_tinker_server(address: &BaseUrl, cause: &str) -> Error {
    let message = format!("{address} is no Tinker server: {cause}; check base_url");
    Error::new(ErrorKind::Protocol, Sent::Answered, message)
}

/// Combines the rate limits in the server's configuration with those in the options of the session. The stricter value of each limit
/// applies. Limits that the configuration cannot set are taken from the options.
fn limits(config: &ClientConfig, options: &SessionOptions) -> LimiterSettings {
    let defaults = LimiterSettings::default();
    let of_server = LimiterSettings {
        sample: ClassSettings {
            bytes: Some(config.sample_dispatch_bytes_semaphore_size),
            // With a shared poll, samples in flight hold no connection, so their number is not limited.
            max_in_flight: (!config.sample_use_retrieve_futures)
                .then_some(config.sample_max_concurrent_requests),
            ..defaults.sample
        },
        train: ClassSettings {
            bytes: Some(config.fwdbwd_dispatch_bytes_semaphore_size),
            ..defaults.train
        },
        ..defaults
    };
    let Some(own) = options.limits else {
        return of_server;
    };
    let stricter = |server: ClassSettings, own: ClassSettings| ClassSettings {
        // The configuration cannot set these limits.
        slots: own.slots,
        rate: own.rate,
        ..server.stricter(own)
    };
    LimiterSettings {
        sample: stricter(of_server.sample, own.sample),
        train: stricter(of_server.train, own.train),
        poll: stricter(of_server.poll, own.poll),
        rest: stricter(of_server.rest, own.rest),
        max_hint: own.max_hint,
    }
}

/// Adds the features that the server states in its configuration to the server profile of the endpoint.
fn learn(config: &ClientConfig, endpoint: &Endpoint) {
    // The hosted service applies a repeated (model, seq_id) once without reporting this.
    let is_hosted = endpoint.key().address().is_hosted_service();
    if config.deduplicates_seq_ids.unwrap_or(is_hosted) {
        endpoint.learn(ProfileUpdate::Deduplicates(Deduplication::Everything));
    }
    if config.proto_compress_fwdbwd {
        endpoint.learn(ProfileUpdate::ZstdBodies);
    }
    if let Some(name) = &config.server {
        endpoint.learn(ProfileUpdate::Software(name.clone()));
    }
}

/// Returns the session expiry, the time after which the server ends a session without heartbeats: from the server's configuration if it is
/// set there, and from the options otherwise.
fn expiry(config: &ClientConfig, options: &SessionOptions) -> Duration {
    config
        .session_expiry_sec
        .filter(|seconds| *seconds > 0)
        .map_or(options.expiry, Duration::from_secs)
}

/// Requests the dynamic configuration: the server's settings that may change during a session. Returns the defaults of the protocol if the
/// server has no such configuration, or does not send it until `until`. The session requests it again later.
///
/// # Errors
/// If the server does not accept the API key, and if the client is closed.
async fn dynamic_config(
    caller: &Caller,
    until: Timestamp,
    attempts: u32,
) -> Result<DynamicConfig, Error> {
    let left = until.since(caller.time.now());
    let policy = CallPolicy {
        window: left,
        attempts,
        ..CallPolicy::PATIENT.following_hints_up_to(left)
    };
    let answer = caller
        .time
        .deadline(until, caller.call(refresh::request(policy)));
    let answer = answer.await.unwrap_or_else(|| {
        let message = "no dynamic configuration within the time limit of optional requests";
        Err(Error::new(ErrorKind::Timeout, Sent::MaybeSent, message))
    });
    let config =
        answer.and_then(|Accepted { response, .. }| decode(&response, "client/dynamic_config"));
    config.or_else(|error| match error.kind() {
        ErrorKind::Authentication | ErrorKind::Closed => Err(error),
        _ => {
            let recovered_errors = &caller.recovered_errors;
            recovered_errors.record(RecoveredError::Refresh, &error);
            Ok(DynamicConfig::default())
        }
    })
}

async fn create(
    caller: &Caller,
    options: &SessionOptions,
    policy: CallPolicy,
    max_same_reason: Option<u32>,
) -> Result<SessionCreated, Error> {
    let body = to_json(&CreateSession {
        tags: options.tags.clone(),
        user_metadata: options.user_metadata.clone(),
        project_id: options.project_id.clone(),
        display_name: options.display_name.clone(),
        ..CreateSession::default()
    });
    let mut call = Call::post(routes::CREATE_SESSION, body, RouteClass::Rest);
    call.policy = policy;
    call.max_same_reason = max_same_reason;
    let accepted = caller.call(call).await?;
    let created: SessionCreated = decode(&accepted.response, "create_session")?;
    Ok(created)
}

/// Logs the messages of the server in its response to the creation of a session, and sends them as events.
fn report_messages(created: &SessionCreated, events: &EventSender) {
    let session_id = &created.session_id;
    let messages = [
        (MessageLevel::Info, &created.info_message),
        (MessageLevel::Warning, &created.warning_message),
        (MessageLevel::Error, &created.error_message),
    ];
    for (level, text) in messages {
        let Some(text) = text.clone() else { continue };
        catch_panic(|| match level {
            MessageLevel::Info => tracing::info!(session_id, "{text}"),
            MessageLevel::Warning => tracing::warn!(session_id, "{text}"),
            MessageLevel::Error => tracing::error!(session_id, "{text}"),
        });
        events.send(SessionEvent::ServerMessage { level, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_server_limit_submissions() {
        let mut config = ClientConfig::default();
        config.sample_dispatch_bytes_semaphore_size = 11;
        config.fwdbwd_dispatch_bytes_semaphore_size = 22;
        config.sample_max_concurrent_requests = 3;
        for (has_shared_poll, max_in_flight) in [(false, Some(3)), (true, None)] {
            config.sample_use_retrieve_futures = has_shared_poll;
            let limits = limits(&config, &SessionOptions::default());
            assert_eq!(limits.sample.bytes, Some(11));
            assert_eq!(limits.train.bytes, Some(22));
            assert_eq!(limits.sample.max_in_flight, max_in_flight);
        }
    }
}
