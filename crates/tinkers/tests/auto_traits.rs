//! Tests that the public types and futures implement `Send`, `Sync` and `Unpin`.

use std::fmt::Debug;

use tinkers::{
    ApiFuture, CreateLoraTrainingClient, CreateSamplingClient, CreateTrainingClientFromState,
    Error, Sample, SampleResponse, SampleStream, SamplingClient, SaveForSampler, SaveState,
    ServiceClient, ServiceClientBuilder, SessionEvents, TrainingClient,
};

const fn shared<T: Send + Sync + Debug + 'static>() {}
const fn handle<T: Send + Sync + Unpin + Clone + Debug + 'static>() {}
const fn awaited<T: Send + Unpin + Debug + 'static>() {}

#[test]
fn public_types_implement_the_auto_traits() {
    handle::<ServiceClient>();
    handle::<TrainingClient>();
    handle::<SamplingClient>();
    handle::<Sample>();
    handle::<Error>();
    shared::<ServiceClientBuilder>();
    shared::<CreateLoraTrainingClient>();
    shared::<CreateTrainingClientFromState>();
    shared::<CreateSamplingClient>();
    awaited::<ApiFuture<SampleResponse>>();
    awaited::<SampleStream<'_>>();
    awaited::<SaveState>();
    awaited::<SaveForSampler>();
    awaited::<SessionEvents>();
}

#[test]
fn futures_that_connect_a_client_implement_send() {
    fn spawnable<T: Send + 'static>(_: impl FnOnce() -> T) {}
    spawnable(|| ServiceClient::builder().connect());
    spawnable(ServiceClient::from_env);
    #[cfg(feature = "local")]
    {
        fn over(server: tinkers::local::LocalServer) -> impl Send + 'static {
            ServiceClient::over_local(server)
        }
        let _ = over;
    }
}
