//! The calls that a client makes: connecting, training and sampling.

use std::sync::Arc;
use std::time::Duration;

use tinkers::{
    AdamParams, ApiFuture, Error, LossFn, SampleResponse, SamplingClient, ServiceClient,
    TrainingClient,
};
use tokio::runtime::Handle;

use super::counts::{Call, Counts, Operation, prompt};
use super::engine::{datum, token};
use super::loads::pause;

/// The base model that all clients use. The server's scripted engine, which returns predictable
/// results, offers it.
pub(crate) const MODEL: &str = "tinkers/scripted";
/// The API key of all clients. Clients with the same key share one limiter.
const KEY: &str = "tml-stress-0123456789abcdef";

/// The delay before a client retries a failed setup call (the creation of a session, a model or a
/// sampling client).
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// The parameters that all clients of a load share, and methods that make API calls and count their
/// outcomes.
#[derive(Clone)]
pub(crate) struct LoadContext {
    pub(crate) url: String,
    pub(crate) runtime: Handle,
    pub(crate) counts: Counts,
    /// A function that returns `false` as soon as the time limit of the load has passed.
    pub(crate) is_running: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl LoadContext {
    pub(crate) async fn connect(&self, heartbeat: Duration) -> Result<ServiceClient, Error> {
        let counts = self.counts.clone();
        let connecting = ServiceClient::builder()
            .without_environment()
            .base_url(&self.url)
            .api_key(KEY)
            .runtime(self.runtime.clone())
            .heartbeat_period(heartbeat)
            .layer_transport(move |below| counts.layer(below))
            .connect();
        self.count_setup(connecting).await
    }

    /// Waits for a setup call (the creation of a session, a model or a sampling client), and counts
    /// the call and its outcome.
    pub(crate) async fn count_setup<T>(
        &self,
        creation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let call = self.counts.call(Operation::Setup);
        let created = creation.await;
        self.counts.ended(&call, created.as_ref().map(|_| true));
        created
    }

    /// Connects a client. Retries until it is connected. Returns `None` if the time limit of the
    /// load passes before.
    pub(crate) async fn connected(&self, heartbeat: Duration) -> Option<ServiceClient> {
        self.retry_until_created(|| self.connect(heartbeat)).await
    }

    /// Creates a sampling client. Retries until it is created. Returns `None` if the time limit of
    /// the load passes before.
    pub(crate) async fn sampler(&self, service: &ServiceClient) -> Option<SamplingClient> {
        self.retry_until_created(|| self.count_setup(service.create_sampling_client(MODEL).send()))
            .await
    }

    /// Creates a model. Retries until it is created. Returns `None` if the time limit of the load
    /// passes before.
    pub(crate) async fn model(&self, service: &ServiceClient) -> Option<TrainingClient> {
        self.retry_until_created(|| {
            self.count_setup(service.create_lora_training_client(MODEL).rank(4).send())
        })
        .await
    }

    async fn retry_until_created<T, F>(&self, make: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        loop {
            match make().await {
                Ok(created) => return Some(created),
                Err(_) if (self.is_running)() => pause(RETRY_DELAY).await,
                Err(_) => return None,
            }
        }
    }

    /// Requests a sample, even if the returned future is never polled. The future waits for the
    /// result of the sample and records the outcome.
    pub(crate) fn sample(
        &self,
        sampler: &SamplingClient,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (call, handle) = self.start_sample(sampler);
        let counts = self.counts.clone();
        async move { record_sample(&counts, &call, handle.await) }
    }

    /// Requests `count` samples at the same time, waits for all of them in the current task, and
    /// records their outcomes.
    pub(crate) async fn at_once(&self, sampler: &SamplingClient, count: u32) {
        let all: Vec<_> = (0..count).map(|_| self.start_sample(sampler)).collect();
        for (call, handle) in all {
            record_sample(&self.counts, &call, handle.await);
        }
    }

    /// Requests a sample and drops its future after 10 ms, in most cases while the sample is in
    /// flight. Records the call as cancelled.
    pub(crate) async fn sample_and_drop(&self, sampler: &SamplingClient) {
        let (call, handle) = self.start_sample(sampler);
        pause(RETRY_DELAY / 2).await;
        drop(handle);
        self.counts.cancelled(&call);
    }

    fn start_sample(&self, sampler: &SamplingClient) -> (Call, ApiFuture<SampleResponse>) {
        let call = self.counts.call(Operation::Sample);
        let handle = sampler.sample(prompt(call.number)).max_tokens(2).send();
        (call, handle)
    }

    /// Repeats batches of `at_once` concurrent samples until the time limit of the load has passed.
    pub(crate) async fn samples(&self, sampler: SamplingClient, at_once: usize) {
        while (self.is_running)() {
            let all: Vec<_> = (0..at_once).map(|_| self.sample(&sampler)).collect();
            for one in all {
                one.await;
            }
        }
    }

    /// Starts a `forward_backward` call, even if the returned future is never polled. The future
    /// waits for the result of the call and records the outcome.
    pub(crate) fn pass(
        &self,
        training: &TrainingClient,
        data: usize,
        tokens: usize,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let call = self.counts.call(Operation::Pass);
        let data: Vec<_> = (0..data).map(|_| datum(call.number, tokens)).collect();
        let wanted = data.len();
        let handle = training.forward_backward(data, LossFn::CrossEntropy);
        let counts = self.counts.clone();
        async move {
            let output = handle.await;
            let ended = output
                .as_ref()
                .map(|output| output.loss_fn_outputs.len() == wanted);
            counts.ended(&call, ended);
            output.map(drop)
        }
    }

    /// Starts an `optim_step` call, even if the returned future is never polled. The future waits
    /// for the result of the call and records the outcome.
    pub(crate) fn step(
        &self,
        training: &TrainingClient,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let call = self.counts.call(Operation::Step);
        let handle = training.optim_step(AdamParams::new(call.number as f64 * 1e-9));
        let counts = self.counts.clone();
        async move {
            let output = handle.await;
            counts.ended(&call, output.as_ref().map(|_| true));
            output.map(drop)
        }
    }

    /// Makes training calls until the time limit of the load has passed. If the model no longer
    /// accepts calls, continues with a new model.
    pub(crate) async fn train(&self, service: ServiceClient) {
        let mut model = None;
        while (self.is_running)() {
            let training = match &model {
                Some(training) => training,
                None => match self.model(&service).await {
                    Some(created) => model.insert(created),
                    None => return,
                },
            };
            let pass = self.pass(training, 1, 16);
            let step = self.step(training);
            let (pass, step) = (pass.await, step.await);
            if (pass.is_err() || step.is_err()) && training.recover().is_err() {
                model = None;
            }
        }
    }
}

/// Records the outcome of a sample. The sampled tokens show whether the result belongs to this call
/// or to another call.
fn record_sample(counts: &Counts, call: &Call, reply: Result<SampleResponse, Error>) {
    let last = token(call.number);
    let ended = reply.as_ref().map(|reply| {
        let sequence = reply.sequences.first();
        sequence.is_some_and(|sequence| sequence.tokens[..] == [last + 1, last + 2])
    });
    counts.ended(call, ended);
}
