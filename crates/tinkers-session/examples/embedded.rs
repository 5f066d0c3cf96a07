//! Opens a session on an embedded server in this process, prints its models, and closes it.

use std::sync::Arc;

use tinkers_core::{Clock, Jitter, SplitMix, Transport};
use tinkers_local::{InProcess, LocalServer, ScriptedEngine};
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};
use tinkers_transport::IoRuntime;
use tinkers_wire::FinishReason;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = IoRuntime::shared()?;
    let time: Arc<dyn Clock> = runtime.clock();
    let server = LocalServer::builder(
        Arc::new(ScriptedEngine::default()),
        Arc::clone(&time),
        Arc::new(runtime.clone()),
    )
    .build()?;
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new(server));
    let jitter: Arc<dyn Jitter> = Arc::new(SplitMix::new(1));
    let key = EndpointKey::new(BaseUrl::parse("http://in-process")?, b"");
    let spawner = Arc::new(runtime.clone());
    let parts = SessionParts {
        auth: None,
        transport: Arc::clone(&transport),
        time: Arc::clone(&time),
        jitter,
        endpoint: Endpoints::shared().get_or_create(key),
        heartbeat: HeartbeatParts {
            transport,
            time,
            spawner: Arc::<IoRuntime>::clone(&spawner),
        },
        spawner,
        recovered_errors: Arc::default(),
    };
    runtime.block_on(async {
        let session = Session::open(parts, SessionOptions::default()).await?;
        for model in session.capabilities().await?.supported_models {
            println!(
                "{} on session {}",
                model.model_name.unwrap_or_default(),
                session.id()
            );
        }
        session.close(FinishReason::Success, None).await?;
        Ok(())
    })
}
