//! In this process, in virtual time, over canned results.

use std::sync::Arc;

use tinkers::ServiceClient;
use tinkers_conformance::{Connect, Context, Limits, Profile, Recorder, Report, Setting, run};
use tinkers_e2e::{InMemory, SCRIPTED, open};
use tinkers_local::{InProcess, LocalConfig, Script};
use tinkers_session::SessionOptions;

async fn suite(config: LocalConfig) -> Report {
    let world = InMemory::with(Script::default(), config, SessionOptions::default()).await;
    let server = world.server.clone();
    let connect: Connect = Arc::new(move |recorder: Recorder| {
        let transport = recorder.over(Arc::new(InProcess::new(server.clone())));
        Box::pin(async move {
            let session = open(transport, SessionOptions::default()).await?;
            Ok(ServiceClient::over(session))
        })
    });
    let mut setting = Setting::of(SCRIPTED);
    setting.rank = 4;
    let context = Context::new(connect, setting, "test");
    let time = Arc::clone(world.server.time());
    let limits = Limits::default();
    run(&context, &*time, Profile::Full, &[], limits, |_| ()).await
}

#[tokio::test(start_paused = true)]
async fn the_embedded_server_passes() {
    let report = suite(LocalConfig::default()).await;
    assert!(report.holds(), "{report}");
}
