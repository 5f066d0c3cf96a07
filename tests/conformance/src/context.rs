//! The context of the checks: the server, its settings, and shared sessions and models.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::prelude::*;
use tinkers::transport::BoxFuture;
use tokio::sync::OnceCell;

use crate::checks::text;
use crate::recorder::Recorder;
use crate::verdict::{CheckError, chain};

/// A function that opens a session with the server under test. It must send all requests of the
/// session through the given recorder.
pub type Connect =
    Arc<dyn Fn(Recorder) -> BoxFuture<'static, Result<Service, Error>> + Send + Sync>;

/// The client of a session with the server under test.
pub type Service = ServiceClient;

/// Whether the server runs a real model or a mock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// A real model. Training calls change its outputs, so the checks compare results.
    Real,
    /// A mock model. The checks do not compare results, and checks that need a real model are
    /// reported as not offered.
    Mock,
}

/// The settings of a conformance run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether the server runs a real model or a mock.
    pub model_kind: ModelKind,
    /// The name of the base model to train and to sample from.
    pub model: String,
    /// The rank of the LoRA adapters that the checks train.
    pub rank: u32,
    /// The exclusive upper bound of the token ids that the checks use. The lowest used token id is
    /// 3.
    pub vocabulary: u32,
    /// The id of a project of the user. The checks that need a project move a session to it and
    /// create a copy of a checkpoint in it. Without a project, they are reported as not offered.
    pub project: Option<String>,
}

impl Settings {
    /// Creates settings for a server with the real model `model`, LoRA rank 8, token ids below 96,
    /// and no project.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model_kind: ModelKind::Real,
            model: model.into(),
            rank: 8,
            vocabulary: 96,
            project: None,
        }
    }

    /// Checks that a forward pass has returned as many log-probabilities for each datum as
    /// `expected` returns for its number. If a server with a mock model returns exactly one
    /// log-probability for every datum, the mock ignores the data, which is reported as not
    /// offered. Any other wrong count is a failure.
    pub(crate) fn check_counts(
        &self,
        logprobs: &[Vec<f32>],
        expected: impl Fn(usize) -> usize,
    ) -> Result<(), CheckError> {
        let mut counts = logprobs.iter().map(Vec::len).enumerate();
        let wrong = counts.find(|&(number, found)| found != expected(number));
        let Some((number, found)) = wrong else {
            return Ok(());
        };
        let expected = expected(number);
        let why = format!("datum {number}: expected {expected} log-probabilities, got {found}");
        let ignores_data =
            self.model_kind == ModelKind::Mock && logprobs.iter().all(|one| one.len() == 1);
        Err(if ignores_data {
            CheckError::NotOffered(format!("the mock model ignores the data: {why}"))
        } else {
            CheckError::Failed(why)
        })
    }
}

/// The context of the checks in a conformance run: the settings, the recorder, and the session and
/// the trained model that the checks share.
pub struct Context {
    /// The settings of the conformance run.
    pub settings: Settings,
    /// The recorder of the requests and responses of all sessions.
    pub recorder: Recorder,
    connect: Connect,
    service: OnceCell<Service>,
    trained: OnceCell<Trained>,
    names: AtomicU32,
    run: String,
    /// The models that the running check has created. They are unloaded after the check, because
    /// servers limit the number of loaded models.
    models: Mutex<Vec<TrainingClient>>,
    /// The checkpoints that the running check has created. They are deleted after the check.
    checkpoints: Mutex<Vec<String>>,
    /// The sessions of the running check. They are closed after the check.
    sessions: Mutex<Vec<Service>>,
}

/// A model that was trained briefly. Checks that do not change the weights of a model share it.
#[derive(Debug)]
pub struct Trained {
    /// The client of the trained model.
    pub client: TrainingClient,
    /// The loss per token before the first training step and after the last one.
    pub losses: (f64, f64),
}

impl Context {
    /// Creates a context. `connect` opens sessions with the server under test. Checkpoint names
    /// contain the text `run`, so that they do not collide with those of other runs.
    pub fn new(connect: Connect, settings: Settings, run: impl Into<String>) -> Self {
        Self {
            settings,
            recorder: Recorder::default(),
            connect,
            service: OnceCell::new(),
            trained: OnceCell::new(),
            names: AtomicU32::new(0),
            run: run.into(),
            models: Mutex::default(),
            checkpoints: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    /// Returns the session that all checks share, and opens it at the first call.
    pub async fn service(&self) -> Result<&Service, CheckError> {
        let service = self.service.get_or_try_init(|| self.connect());
        Ok(service.await?)
    }

    /// Opens a new session, which no other check uses.
    pub async fn connect(&self) -> Result<Service, Error> {
        (self.connect)(self.recorder.clone()).await
    }

    /// Opens a session for the running check. The session is closed after the check.
    pub async fn session(&self) -> Result<Service, CheckError> {
        let opened = self.connect().await?;
        lock(&self.sessions).push(opened.clone());
        Ok(opened)
    }

    /// Creates a model for the running check in the shared session. The model is unloaded after the
    /// check.
    pub async fn model(&self) -> Result<TrainingClient, CheckError> {
        self.model_in(self.service().await?).await
    }

    /// Creates a model for the running check in a session. The model is unloaded after the check.
    pub async fn model_in(&self, service: &Service) -> Result<TrainingClient, CheckError> {
        let made = self.create_model(service).await?;
        self.unload_later(&made);
        Ok(made)
    }

    /// Registers a model to be unloaded when the running check has ended.
    pub fn unload_later(&self, model: &TrainingClient) {
        lock(&self.models).push(model.clone());
    }

    /// Registers a checkpoint to be deleted when the running check has ended.
    pub fn delete_later(&self, tinker_path: impl Into<String>) {
        lock(&self.checkpoints).push(tinker_path.into());
    }

    /// Deletes the checkpoints that the last check registered, and closes its sessions. Returns a
    /// note that names the checkpoints that could not be deleted, if there are any.
    pub async fn clean_up(&self) -> Option<String> {
        let mut left = Vec::new();
        let mut reason = String::new();
        let checkpoints = std::mem::take(&mut *lock(&self.checkpoints));
        if let Ok(service) = self.service().await {
            let rest = service.rest_client();
            for path in checkpoints {
                let deleted = rest.delete_checkpoint_from_tinker_path(&path).await;
                if let Err(error) = deleted
                    && error.kind() != ErrorKind::NotFound
                {
                    left.push(path);
                    reason = chain(&error);
                }
            }
        }
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        for session in sessions {
            // A server that cannot close a session ends it after a timeout.
            drop(session.close(FinishReason::Success, None).await);
        }
        let left = left.join(" ");
        (!left.is_empty()).then(|| format!("not deleted: {left} ({reason})"))
    }

    /// Unloads the models that the last check created. Also makes the shared model usable again if
    /// a failed call has stopped it from accepting further calls.
    pub async fn unload_models(&self) {
        if let Some(trained) = self.trained.get() {
            // If the shared model cannot accept calls again, the next check that uses it reports
            // the error.
            let _ = trained.client.recover();
        }
        let models = std::mem::take(&mut *lock(&self.models));
        for model in models {
            // The server removes a model that cannot be unloaded when its session ends.
            drop(model.unload().await);
        }
    }

    async fn create_model(&self, service: &Service) -> Result<TrainingClient, CheckError> {
        let creation = service.create_lora_training_client(&self.settings.model);
        Ok(creation.rank(self.settings.rank).seed(7).await?)
    }

    /// Returns the model that the checks share, and trains it at the first call.
    pub async fn trained(&self) -> Result<&Trained, CheckError> {
        self.trained
            .get_or_try_init(|| async {
                let client = self.create_model(self.service().await?).await?;
                let data = text::data(&self.settings, 4, 24);
                if self.settings.model_kind == ModelKind::Real {
                    let other = self.model().await?;
                    text::check_learning(&client, &other, &data).await?;
                }
                let losses = text::train(&client, &data, 8).await?;
                let (first, last) = (losses[0], losses[losses.len() - 1]);
                Ok(Trained {
                    client,
                    losses: (first, last),
                })
            })
            .await
    }

    /// Returns whether the server runs a real model, so that results can be compared.
    pub fn has_real_model(&self) -> bool {
        self.settings.model_kind == ModelKind::Real
    }

    /// Returns the trained model that the checks share. On a server with a mock model, returns
    /// [`CheckError::NotOffered`], so that the check is reported as not offered.
    pub async fn require_real_model(&self) -> Result<&Trained, CheckError> {
        if self.has_real_model() {
            return self.trained().await;
        }
        Err(CheckError::not_offered("needs a real model"))
    }

    /// Returns the project of the settings. Without one, returns [`CheckError::NotOffered`], so that
    /// the check is reported as not offered.
    pub fn require_project(&self) -> Result<&str, CheckError> {
        let project = self.settings.project.as_deref();
        project.ok_or_else(|| CheckError::not_offered("needs a project; set it with --project"))
    }

    /// Returns a checkpoint name that contains `what` and that no other run uses on the server.
    pub fn name(&self, what: &str) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        format!("{what}-{}-{number}", self.run)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;

    fn verdict(model_kind: ModelKind, counts: [usize; 3]) -> &'static str {
        let mut settings = Settings::new("model");
        settings.model_kind = model_kind;
        let logprobs = counts.map(|count| vec![-1.0; count]);
        let checked = settings.check_counts(&logprobs, |number| 5 + number);
        Verdict::from(checked.map(|()| String::new())).name()
    }

    #[test]
    fn mock_model_may_return_only_one_logprob_for_every_datum() {
        for model_kind in [ModelKind::Real, ModelKind::Mock] {
            assert_eq!(verdict(model_kind, [5, 6, 7]), "passed");
            for counts in [[5, 6, 1], [1, 1, 7], [5, 6, 8], [2, 2, 2], [0, 0, 0]] {
                assert_eq!(verdict(model_kind, counts), "FAILED", "{counts:?}");
            }
        }
        assert_eq!(verdict(ModelKind::Mock, [1, 1, 1]), "not offered");
        assert_eq!(verdict(ModelKind::Real, [1, 1, 1]), "FAILED");
    }
}
