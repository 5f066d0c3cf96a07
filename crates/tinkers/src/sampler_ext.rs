//! What needs training and sampling together.

use std::sync::Arc;

use tinkers_core::{Error, ErrorKind, Sent};
use tinkers_futures::{ApiFuture, start};
use tinkers_sampling::{CreateSamplingClient, SamplingClient};
use tinkers_training::{SaveForSampler, TrainingClient};

/// Sampling from the weights of a model that is being trained.
pub trait SaveAndSample {
    /// Saves the weights as they are after the calls so far, without a name, and gives a client that samples from them.
    /// Later training does not change what it samples from.
    fn save_weights_and_get_sampling_client(&self) -> ApiFuture<SamplingClient>;
}

impl SaveAndSample for TrainingClient {
    fn save_weights_and_get_sampling_client(&self) -> ApiFuture<SamplingClient> {
        let session = Arc::clone(self.session());
        let operation = self.operation("TrainingClient.save_weights_and_get_sampling_client");
        // Takes its place in the order now, and not when the handle is polled.
        let saved = self.save_weights_for_sampler_in(&operation, SaveForSampler::unnamed());
        start(operation.clone(), async move {
            let saved = saved.await?;
            match (saved.sampling_session_id, saved.path) {
                (Some(id), _) => Ok(SamplingClient::new(session, id)),
                (None, Some(path)) => {
                    CreateSamplingClient::new(session, path)
                        .create_in(&operation)
                        .await
                }
                (None, None) => {
                    let message =
                        "the server saved the weights and said neither where nor for which sampler";
                    Err(Error::new(ErrorKind::Protocol, Sent::Answered, message))
                }
            }
        })
    }
}
