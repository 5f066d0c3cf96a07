//! The combination of training and sampling clients.

use std::sync::Arc;

use tinkers_core::{Error, ErrorKind, Sent};
use tinkers_futures::{ApiFuture, start};
use tinkers_sampling::{CreateSamplingClient, SamplingClient};
use tinkers_training::{SaveForSampler, TrainingClient};

/// Sampling from the current weights of a training client.
pub trait SaveAndSample {
    /// Saves the weights without a name, and returns a client that samples from them.
    ///
    /// The save takes its place in the order of training calls when the method is called. Later training does not change the samples.
    fn save_weights_and_get_sampling_client(&self) -> ApiFuture<SamplingClient>;
}

impl SaveAndSample for TrainingClient {
    fn save_weights_and_get_sampling_client(&self) -> ApiFuture<SamplingClient> {
        let session = Arc::clone(self.session());
        let operation = self.operation("TrainingClient.save_weights_and_get_sampling_client");
        // Called here and not in the future, since the call fixes the position in the order.
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
                    let message = "the response to saving weights contains neither a path nor a sampling session";
                    Err(Error::new(ErrorKind::Protocol, Sent::Answered, message))
                }
            }
        })
    }
}
