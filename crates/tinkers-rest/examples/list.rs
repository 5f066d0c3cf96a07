//! Lists the sessions and the checkpoints of an embedded server in this process, without a session.

use std::sync::Arc;

use tinkers_core::{Clock, SplitMix};
use tinkers_local::{InProcess, LocalServer, ScriptedEngine};
use tinkers_rest::{RestClient, RestParts};
use tinkers_session::{BaseUrl, CallerParts, EndpointKey, Endpoints, SessionOptions};
use tinkers_transport::IoRuntime;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = IoRuntime::shared()?;
    let time: Arc<dyn Clock> = runtime.clock();
    let spawner = Arc::new(runtime.clone());
    let engine = Arc::new(ScriptedEngine::default());
    let server = LocalServer::builder(engine, Arc::clone(&time), Arc::<IoRuntime>::clone(&spawner))
        .build()?;
    let key = EndpointKey::new(BaseUrl::parse("http://in-process")?, b"");
    let endpoint = Endpoints::shared().get_or_create(key);
    let connection = CallerParts {
        transport: Arc::new(InProcess::new(server)),
        time,
        jitter: Arc::new(SplitMix::new(1)),
        recovered_errors: Arc::default(),
    };
    let client = endpoint.limiter().next_client();
    let rest = RestClient::new(RestParts {
        caller: connection.caller(&endpoint, &SessionOptions::default()),
        spawner,
        client,
        auth: None,
        is_without_session: true,
        operation_deadline: None,
        project_id: None,
        keep_alive: Arc::new(endpoint),
    });
    runtime.block_on(async {
        let sessions = rest.list_sessions().stream().collect_up_to(100).await?;
        println!("{} sessions", sessions.len());
        let mut checkpoints = rest.list_user_checkpoints().stream();
        while let Some(checkpoint) = checkpoints.next().await {
            println!("{}", checkpoint?.tinker_path);
        }
        Ok(())
    })
}
