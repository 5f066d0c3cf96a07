//! The start of a session: what the server says of itself, the session, the background work.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tinkers_core::{
    Accepted, BaseUrl, Call, Caller, Deduplication, Error, ErrorKind, Fact, Policy, RecoveredError,
    RetryBudget, RouteClass, Sent,
};
use tinkers_dispatch::{ByteBudget, ClassSettings, LimiterSettings, SharedRetryBudget};
use tinkers_wire::{
    ClientConfig, ConfigRequest, CreateSession, DynamicConfig, SessionCreated, routes, to_json,
};

use crate::answer;
use crate::document;
use crate::elsewhere::on_io;
use crate::endpoint::Endpoint;
use crate::heartbeat::Heart;
use crate::life::Life;
use crate::options::{SessionOptions, SessionParts};
use crate::reachability::Observed;
use crate::refresh;
use crate::session::{Session, Tasks};

/// The public method that a failed start is reported under.
const OPERATION: &str = "ServiceClient.connect";

impl Session {
    /// Opens a session: asks the server for its configuration, creates the session, starts its heartbeat.
    ///
    /// The first request is made once, so that a wrong address says so at once; what follows is repeated for five minutes.
    /// It goes on while the caller's executor is busy. Dropped in between, it leaves nothing here and at most a session on the
    /// server that ends after its expiry.
    pub async fn open(parts: SessionParts, options: SessionOptions) -> Result<Arc<Self>, Error> {
        options.check()?;
        let spawner = Arc::clone(&parts.spawner);
        on_io(&*spawner, async move {
            let mut caller = caller(&parts);
            let found = negotiate(&mut caller, &parts.endpoint, &options)
                .await
                .map_err(|error| error.with_operation(OPERATION))?;
            Ok(Arc::new(Self::start(parts, options, caller, found)))
        })
        .await
    }

    fn start(parts: SessionParts, options: SessionOptions, caller: Caller, found: Found) -> Self {
        let Found {
            config,
            dynamic,
            created,
        } = found;
        let expiry = expiry(&config, &options);
        let limits = parts
            .endpoint
            .limiter()
            .claim(limits(&config, &options), Arc::clone(&parts.time));
        let life = Life::new(
            dynamic,
            Arc::clone(&caller.recovered_errors),
            Arc::clone(&caller.closing),
        );
        let heart = Heart::new(
            Observed::wrap(parts.heartbeat.transport, &parts.time, &parts.endpoint),
            parts.heartbeat.time,
            Arc::clone(&life),
            &created.session_id,
            options.heartbeat_period,
            expiry,
        );
        let refresh = refresh::run(caller.clone(), Arc::clone(&life), expiry / 3);
        let tasks = Tasks {
            _heartbeat: parts.heartbeat.spawner.spawn(Box::pin(heart.run())),
            _refresh: parts.spawner.spawn(Box::pin(refresh)),
            _heart: parts.heartbeat.spawner,
        };
        Self {
            id: created.session_id,
            options,
            caller,
            spawner: parts.spawner,
            endpoint: parts.endpoint,
            _limits: limits,
            response_bytes: ByteBudget::new(config.inflight_response_bytes_semaphore_size),
            config,
            model_seq: AtomicU64::new(0),
            sampling_seq: AtomicU64::new(0),
            life,
            tasks: Mutex::new(Some(tasks)),
        }
    }
}

/// What the start of a session found.
struct Found {
    config: ClientConfig,
    dynamic: DynamicConfig,
    created: SessionCreated,
}

async fn negotiate(
    caller: &mut Caller,
    endpoint: &Endpoint,
    options: &SessionOptions,
) -> Result<Found, Error> {
    let config = client_config(caller, endpoint.key().address()).await?;
    apply(&config, endpoint);
    caller.billing_limit = Duration::from_secs(config.billing_exception_max_pause_duration_sec);
    document::learn(caller, endpoint).await;
    let dynamic = dynamic_config(caller, expiry(&config, options) / 3).await?;
    let created = create(caller, options).await?;
    Ok(Found {
        config,
        dynamic,
        created,
    })
}

fn caller(parts: &SessionParts) -> Caller {
    let endpoint = &parts.endpoint;
    let admission = endpoint
        .limiter()
        .admission(Arc::clone(&parts.time), Arc::clone(&parts.jitter));
    let budget: Arc<dyn RetryBudget> = Arc::<SharedRetryBudget>::clone(endpoint.budget());
    Caller {
        transport: Observed::wrap(Arc::clone(&parts.transport), &parts.time, endpoint),
        admission: Arc::new(admission),
        time: Arc::clone(&parts.time),
        jitter: Arc::clone(&parts.jitter),
        budget,
        outages: Arc::clone(endpoint.outages()),
        notices: Arc::clone(endpoint.notices()),
        billing: Arc::clone(endpoint.billing()),
        billing_limit: Duration::from_secs(3600),
        recovered_errors: Arc::clone(&parts.recovered_errors),
        closing: Arc::default(),
    }
}

/// The first contact: whether there is a Tinker server at all, and what it says of itself.
async fn client_config(caller: &Caller, address: &BaseUrl) -> Result<ClientConfig, Error> {
    let body = to_json(&ConfigRequest::default());
    let mut call = Call::post(routes::CLIENT_CONFIG, body, RouteClass::Control);
    call.policy = Policy::ONCE;
    let accepted = caller
        .call(call)
        .await
        .map_err(|error| no_contact(error, address))?;
    let answer = &accepted.response;
    if !answer::is_object(&answer.body) {
        let error = no_tinker_server(address, "its answer to client/config is no JSON object");
        return Err(error.with_answer(answer.status.as_u16(), &answer.body));
    }
    let config: ClientConfig = answer::read(answer, "client/config")?;
    if config.pjwt_auth_enabled {
        let message = format!(
            "the server at {address} wants the API key exchanged for a token (pjwt_auth_enabled), which this version \
             cannot do; use a server that takes API keys"
        );
        return Err(Error::new(ErrorKind::Unsupported, Sent::Answered, message));
    }
    Ok(config)
}

/// Puts the failure of the first contact into words that say what to check.
fn no_contact(error: Error, address: &BaseUrl) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let status = error.status().unwrap_or_default();
            no_tinker_server(address, "it does not know client/config")
                .with_answer(status, &Bytes::copy_from_slice(error.body()))
        }
        _ if is_foreign(&error) => {
            let status = error.status().unwrap_or_default();
            let why = format!("it answers client/config with status {status} and no JSON");
            no_tinker_server(address, &why)
                .with_answer(status, &Bytes::copy_from_slice(error.body()))
        }
        ErrorKind::Connection | ErrorKind::Timeout => error.with_context(format!(
            "no server can be reached at {address}; check base_url, and that the server runs"
        )),
        ErrorKind::Authentication => {
            error.with_context(format!("the server at {address} does not take the API key"))
        }
        ErrorKind::PermissionDenied => error.with_context(format!(
            "the server at {address} does not let this API key in"
        )),
        _ => error.with_context(format!("the first contact with {address} failed")),
    }
}

/// Whether an error is what servers of files and pages answer to a POST. Proxies of Tinker servers have other statuses of their own.
fn is_foreign(error: &Error) -> bool {
    let has_page = !error.body().is_empty() && !answer::is_object(error.body());
    has_page && matches!(error.status(), Some(400 | 411 | 415 | 501))
}

fn no_tinker_server(address: &BaseUrl, why: &str) -> Error {
    let message = format!("{address} is no Tinker server: {why}; check base_url");
    Error::new(ErrorKind::Protocol, Sent::Answered, message)
}

/// Returns the limits that the configuration names, or the caller's own where they are stricter. What no configuration names is the
/// caller's choice.
fn limits(config: &ClientConfig, options: &SessionOptions) -> LimiterSettings {
    let usual = LimiterSettings::default();
    let of_server = LimiterSettings {
        sample: ClassSettings {
            bytes: Some(config.sample_dispatch_bytes_semaphore_size),
            // Where one poll serves a whole session, samples in flight hold nothing that would have to be spared.
            flights: (!config.sample_use_retrieve_futures)
                .then_some(config.sample_max_concurrent_requests),
            ..usual.sample
        },
        train: ClassSettings {
            bytes: Some(config.fwdbwd_dispatch_bytes_semaphore_size),
            ..usual.train
        },
        ..usual
    };
    let Some(own) = options.limits else {
        return of_server;
    };
    let lane = |server: ClassSettings, own: ClassSettings| ClassSettings {
        // No server names these, so the caller's own hold.
        slots: own.slots,
        rate: own.rate,
        ..server.stricter(own)
    };
    LimiterSettings {
        sample: lane(of_server.sample, own.sample),
        train: lane(of_server.train, own.train),
        poll: lane(of_server.poll, own.poll),
        rest: lane(of_server.rest, own.rest),
        max_hint: own.max_hint,
    }
}

/// What the configuration says of the server, for all sessions of the endpoint.
fn apply(config: &ClientConfig, endpoint: &Endpoint) {
    // The hosted service applies a repeated (model, seq_id) once and does not say so.
    let is_hosted = endpoint.key().address().is_hosted_service();
    if config.deduplicates_seq_ids.unwrap_or(is_hosted) {
        endpoint.learn(Fact::Deduplicates(Deduplication::Everything));
    }
    if config.proto_compress_fwdbwd {
        endpoint.learn(Fact::ZstdBodies);
    }
    if let Some(name) = &config.server {
        endpoint.learn(Fact::Software(name.clone()));
    }
}

/// How long the server keeps a session without a heartbeat.
fn expiry(config: &ClientConfig, options: &SessionOptions) -> Duration {
    config
        .session_expiry_sec
        .filter(|seconds| *seconds > 0)
        .map_or(options.expiry, Duration::from_secs)
}

/// The flags at the start. A hint is followed as on all of the lane of control: for a third of the expiry.
async fn dynamic_config(caller: &Caller, longest_hint: Duration) -> Result<DynamicConfig, Error> {
    let policy = Policy::PATIENT.following_hints_up_to(longest_hint);
    match caller.call(refresh::request(policy)).await {
        Ok(Accepted { response, .. }) => answer::read(&response, "client/dynamic_config"),
        // Servers without flags have no such route.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            caller
                .recovered_errors
                .note(RecoveredError::Refresh, &error);
            Ok(DynamicConfig::default())
        }
        Err(error) => Err(error),
    }
}

async fn create(caller: &Caller, options: &SessionOptions) -> Result<SessionCreated, Error> {
    let body = to_json(&CreateSession {
        tags: options.tags.clone(),
        user_metadata: options.user_metadata.clone(),
        project_id: options.project_id.clone(),
        display_name: options.display_name.clone(),
        ..CreateSession::default()
    });
    let call = Call::post(routes::CREATE_SESSION, body, RouteClass::Rest);
    let accepted = caller.call(call).await?;
    let created: SessionCreated = answer::read(&accepted.response, "create_session")?;
    if let Some(message) = &created.info_message {
        tracing::info!(session_id = created.session_id, "{message}");
    }
    if let Some(message) = &created.warning_message {
        tracing::warn!(session_id = created.session_id, "{message}");
    }
    if let Some(message) = &created.error_message {
        tracing::error!(session_id = created.session_id, "{message}");
    }
    Ok(created)
}
