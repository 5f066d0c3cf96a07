//! A tour of the API with one client: every kind of call once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers_core::SplitMix;
use tinkers_e2e::training::{datum, step};
use tinkers_e2e::{SCRIPTED, open};
use tinkers_local::{
    Dialect, Flags, InProcess, Journal, LocalConfig, LocalServer, OpenApi, Quirk, Script,
    ScriptedEngine, TokioSpawn,
};
use tinkers_session::SessionOptions;
use tinkers_transport::TokioClock;
use tokio::runtime::Handle;

/// A step of a [`Tour`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    Create,
    Pass,
    Optimizer,
    Save,
    Load,
    SaveForSampler,
    Sampler,
    Sample,
    UnnamedSampler,
    Unload,
    Capabilities,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The outcome of one call of each kind.
#[derive(Debug)]
pub(super) struct Tour {
    /// The step that failed, with its error; `None` if all steps succeeded.
    pub(super) failure: Option<(Step, Error)>,
    /// The duration of the tour on the virtual clock.
    pub(super) took: Duration,
    /// The requests that the server has received.
    pub(super) journal: Journal,
}

/// Returns the configuration of a server of another make: it announces nothing about itself, and has these quirks.
pub(super) fn foreign(quirks: &[Quirk]) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.announces_deduplication = false;
    config.session_polls = false;
    config.dialect = Dialect::tinker();
    config.dialect.flags = Flags::JwtAlone;
    let needs_document = [Quirk::DocumentElsewhere, Quirk::DocumentRelative]
        .iter()
        .any(|quirk| quirks.contains(quirk));
    if !needs_document {
        config.dialect.open_api = OpenApi::Absent;
    }
    config.quirks.extend(quirks);
    config
}

impl Tour {
    /// Starts a server with this configuration, and takes the tour up to the first call that fails.
    pub(super) async fn take(config: LocalConfig) -> Self {
        let handle = Handle::current();
        let clock = Arc::new(TokioClock::new(handle.clone()));
        let spawn = Arc::new(TokioSpawn::new(handle));
        let engine = Arc::new(ScriptedEngine::new(Script::default()));
        let journal = Journal::new();
        let server = LocalServer::builder(engine, clock, spawn)
            .config(config)
            .journal(journal.clone())
            .jitter(Arc::new(SplitMix::new(1)))
            .build()
            .expect("a server without checkpoints starts");
        let began = server.time().now();
        let failure = calls(&server).await.err();
        Self {
            failure,
            took: server.time().now().since(began),
            journal,
        }
    }
}

async fn calls(server: &LocalServer) -> Result<(), (Step, Error)> {
    let at = |step| move |error| (step, error);
    // Without a deadline, an operation that never ends would never fail.
    let options = SessionOptions {
        operation_deadline: Some(Duration::from_secs(60)),
        ..SessionOptions::default()
    };
    let transport = Arc::new(InProcess::new(server.clone()));
    let session = open(transport, options).await.map_err(at(Step::Connect))?;
    let service = ServiceClient::from_session(session);
    let creation = service.create_lora_training_client(SCRIPTED).rank(4);
    let training = creation.await.map_err(at(Step::Create))?;
    let pass = training.forward_backward([datum(1), datum(2)], LossFn::CrossEntropy);
    let pass = pass.await.map_err(at(Step::Pass))?;
    assert_eq!(pass.loss_fn_outputs.len(), 2);
    assert!(pass.loss_fn_outputs[0].contains_key("logprobs"));
    step(&training).await.map_err(at(Step::Optimizer))?;
    let saved = training.save_state("first").await.map_err(at(Step::Save))?;
    let loaded = training.load_state_with_optimizer(&saved.path).await;
    loaded.map_err(at(Step::Load))?;
    let resumed = service.create_training_client_from_state(&saved.path).await;
    resumed.map_err(at(Step::Load))?;
    let weights = training.save_weights_for_sampler("first").await;
    let weights = weights.map_err(at(Step::SaveForSampler))?;
    let path = weights.path.expect("named weights have a path");
    let sampler = service.create_sampling_client(&path).await;
    let sampler = sampler.map_err(at(Step::Sampler))?;
    let reply = sampler.sample(vec![1, 2]).max_tokens(3).await;
    let reply = reply.map_err(at(Step::Sample))?;
    assert_eq!(reply.sequences[0].tokens.len(), 3);
    let unnamed = training.save_weights_and_get_sampling_client().await;
    let unnamed = unnamed.map_err(at(Step::UnnamedSampler))?;
    let reply = unnamed.sample(vec![1, 2]).max_tokens(3).await;
    reply.map_err(at(Step::Sample))?;
    training.unload().await.map_err(at(Step::Unload))?;
    let capabilities = service.capabilities().await;
    let capabilities = capabilities.map_err(at(Step::Capabilities))?;
    let names = capabilities.supported_models.iter();
    let mut names = names.filter_map(|model| model.model_name.as_deref());
    assert!(names.any(|name| name == SCRIPTED));
    Ok(())
}
