//! One client of the load: a session, a model that is trained, and samples.

use std::sync::Arc;
use std::time::Duration;

use tinkers::{
    AdamParams, ApiFuture, Error, LossFn, SampleResponse, SamplingClient, ServiceClient,
    TrainingClient,
};
use tokio::runtime::Handle;

use super::count::{Call, Counts, Verb, prompt};
use super::engine::{datum, token};
use super::shapes::pause;

/// The base model of the scripted engine.
pub(crate) const MODEL: &str = "tinkers/scripted";
/// The key of all clients, who so share their limits.
const KEY: &str = "tml-stress-0123456789abcdef";

/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// What every client needs.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) url: String,
    pub(crate) runtime: Handle,
    pub(crate) counts: Counts,
    /// Whether the load is to go on.
    pub(crate) goes_on: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Ground {
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
        self.set_up(connecting).await
    }

    /// Counts something that has to be there before the load.
    pub(crate) async fn set_up<T>(
        &self,
        making: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let call = self.counts.call(Verb::SetUp);
        let made = making.await;
        self.counts.ended(&call, made.as_ref().map(|_| true));
        made
    }

    /// A client, tried for until there is one or the load is over.
    pub(crate) async fn connected(&self, heartbeat: Duration) -> Option<ServiceClient> {
        self.until_made(|| self.connect(heartbeat)).await
    }

    /// A sampler, tried for likewise.
    pub(crate) async fn sampler(&self, service: &ServiceClient) -> Option<SamplingClient> {
        self.until_made(|| self.set_up(service.sampling(MODEL).create()))
            .await
    }

    /// A model, tried for likewise.
    pub(crate) async fn model(&self, service: &ServiceClient) -> Option<TrainingClient> {
        self.until_made(|| self.set_up(service.lora_training(MODEL).rank(4).create()))
            .await
    }

    async fn until_made<T, F>(&self, make: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        loop {
            match make().await {
                Ok(made) => return Some(made),
                Err(_) if (self.goes_on)() => pause(AGAIN).await,
                Err(_) => return None,
            }
        }
    }

    /// Starts one sample now; the future gives its end.
    pub(crate) fn sample(
        &self,
        sampler: &SamplingClient,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (call, handle) = self.begun(sampler);
        let counts = self.counts.clone();
        async move { sampled(&counts, &call, handle.await) }
    }

    /// Starts so many samples now, and waits for them with nothing but their handles.
    pub(crate) async fn at_once(&self, sampler: &SamplingClient, count: u32) {
        let all: Vec<_> = (0..count).map(|_| self.begun(sampler)).collect();
        for (call, handle) in all {
            sampled(&self.counts, &call, handle.await);
        }
    }

    /// Starts one sample and leaves it, likely under way.
    pub(crate) async fn sample_and_leave(&self, sampler: &SamplingClient) {
        let (call, handle) = self.begun(sampler);
        pause(AGAIN / 2).await;
        drop(handle);
        self.counts.given_up(&call);
    }

    fn begun(&self, sampler: &SamplingClient) -> (Call, ApiFuture<SampleResponse>) {
        let call = self.counts.call(Verb::Sample);
        let handle = sampler.sample(prompt(call.number)).max_tokens(2).send();
        (call, handle)
    }

    /// Samples so many at once, again and again.
    pub(crate) async fn samples(&self, sampler: SamplingClient, at_once: usize) {
        while (self.goes_on)() {
            let all: Vec<_> = (0..at_once).map(|_| self.sample(&sampler)).collect();
            for one in all {
                one.await;
            }
        }
    }

    /// One pass, called now.
    pub(crate) fn pass(
        &self,
        training: &TrainingClient,
        data: usize,
        tokens: usize,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let call = self.counts.call(Verb::Pass);
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

    /// One step, called now.
    pub(crate) fn step(
        &self,
        training: &TrainingClient,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let call = self.counts.call(Verb::Step);
        let handle = training.optim_step(AdamParams::new(call.number as f64 * 1e-9));
        let counts = self.counts.clone();
        async move {
            let output = handle.await;
            counts.ended(&call, output.as_ref().map(|_| true));
            output.map(drop)
        }
    }

    /// Trains until the load is over; after a failure without a way back with a new model.
    pub(crate) async fn trains(&self, service: ServiceClient) {
        let mut model = None;
        while (self.goes_on)() {
            let training = match &model {
                Some(training) => training,
                None => match self.model(&service).await {
                    Some(made) => model.insert(made),
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

/// A sample has ended; its tokens tell whether the result is its own.
fn sampled(counts: &Counts, call: &Call, reply: Result<SampleResponse, Error>) {
    let last = token(call.number);
    let ended = reply.as_ref().map(|reply| {
        let sequence = reply.sequences.first();
        sequence.is_some_and(|sequence| sequence.tokens[..] == [last + 1, last + 2])
    });
    counts.ended(call, ended);
}
