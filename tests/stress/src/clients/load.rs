//! One client of the load: a session, a model that is trained, and samples.

use std::sync::Arc;
use std::time::Duration;

use tinkers::{AdamParams, Error, LossFn, SamplingClient, ServiceClient, TrainingClient};
use tokio::runtime::Handle;

use super::count::{Counts, Verb, prompt};
use super::engine::datum;

/// The base model of the scripted engine.
pub(crate) const MODEL: &str = "tinkers/scripted";
/// The key of all clients, who so share their limits.
const KEY: &str = "tml-stress-0123456789abcdef";

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
        ServiceClient::builder()
            .without_environment()
            .base_url(&self.url)
            .api_key(KEY)
            .runtime(self.runtime.clone())
            .heartbeat_period(heartbeat)
            .layer_transport(move |below| counts.layer(below))
            .connect()
            .await
    }

    /// The same, tried until it works or the load is over.
    pub(crate) async fn connected(&self, heartbeat: Duration) -> Option<ServiceClient> {
        while (self.goes_on)() {
            match self.connect(heartbeat).await {
                Ok(service) => return Some(service),
                Err(_) => tokio::task::yield_now().await,
            }
        }
        None
    }

    /// Starts one sample now; the future gives its end.
    pub(crate) fn sample(
        &self,
        sampler: &SamplingClient,
    ) -> impl Future<Output = ()> + Send + 'static {
        let number = self.counts.number();
        let prompt = prompt(number);
        let last = prompt[3];
        let call = self.counts.call(Verb::Sample, number);
        let handle = sampler.sample(prompt).max_tokens(2).send();
        let counts = self.counts.clone();
        async move {
            let reply = handle.await;
            let ended = reply.as_ref().map(|reply| {
                let expected = [(last + 1) % 256, (last + 2) % 256];
                reply
                    .sequences
                    .first()
                    .is_some_and(|sequence| sequence.tokens[..] == expected)
            });
            counts.ended(&call, ended);
        }
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
        let number = self.counts.number();
        let data: Vec<_> = (0..data).map(|_| datum(number, tokens)).collect();
        let wanted = data.len();
        let call = self.counts.call(Verb::Pass, number);
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
        let number = self.counts.number();
        let call = self.counts.call(Verb::Step, number);
        let handle = training.optim_step(AdamParams::new(number as f64 * 1e-9));
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
                None => match service.lora_training(MODEL).rank(4).create().await {
                    Ok(made) => model.insert(made),
                    Err(_) => continue,
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

    /// A sampler, tried until it works or the load is over.
    pub(crate) async fn sampler(&self, service: &ServiceClient) -> Option<SamplingClient> {
        loop {
            match service.sampling(MODEL).create().await {
                Ok(sampler) => return Some(sampler),
                Err(_) if (self.goes_on)() => {}
                Err(_) => return None,
            }
        }
    }
}
