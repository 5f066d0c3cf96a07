//! A server that cannot be reached: what a program at the default log level is told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, Transport, TransportError, TransportErrorKind,
};
use tinkers_core::Sent;
use tinkers_e2e::training::{model, step};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::LocalConfig;
use tinkers_session::SessionOptions;

use crate::log::Log;

/// Refuses connections while the server is down.
#[derive(Debug)]
struct Refuses {
    inner: Arc<dyn Transport>,
    is_down: Arc<AtomicBool>,
}

impl Transport for Refuses {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        if self.is_down.load(Ordering::SeqCst) {
            let refused = || {
                let kind = TransportErrorKind::Connect;
                TransportError::new(kind, Sent::NotSent, "connection refused")
            };
            return Box::pin(async move { Err(refused()) });
        }
        self.inner.send(request)
    }
}

/// What is under way while the server is down.
#[derive(Debug, Clone, Copy)]
enum Work {
    Heartbeats,
    Poll,
    SharedPoll,
    Submission,
}

const DOWN: &str = "the server does not answer";
const BACK: &str = "the server answers again";

#[tokio::test(start_paused = true)]
async fn an_outage_is_reported_with_address_and_cause_and_again() {
    for work in [
        Work::Heartbeats,
        Work::Poll,
        Work::SharedPoll,
        Work::Submission,
    ] {
        let (log, _logging) = Log::start();
        let is_down = Arc::new(AtomicBool::new(false));
        let down = Arc::clone(&is_down);
        let (config, options) = (LocalConfig::default(), SessionOptions::default());
        let latency = Duration::from_secs(2);
        let world = InMemory::slow(latency, config, options, |direct| {
            Arc::new(Refuses {
                inner: Arc::new(direct),
                is_down: down,
            })
        })
        .await;
        let training = model(&world).await;
        let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
        let sleep = |seconds| world.server.time().sleep(Duration::from_secs(seconds));
        assert_eq!(log.lines_with(DOWN).len(), 0);
        let accepted = match work {
            Work::Poll => Some(step(&training)),
            _ => None,
        };
        let sample = match work {
            Work::SharedPoll => Some(sampler.sample(vec![1]).send()),
            _ => None,
        };
        sleep(1).await;
        is_down.store(true, Ordering::SeqCst);
        let submission = match work {
            Work::Submission => Some(step(&training)),
            _ => None,
        };
        sleep(40).await;
        let lines = log.lines_with(DOWN);
        assert!((1..=3).contains(&lines.len()), "{work:?}: {lines:?}");
        for part in ["server=http://in-process", "cause=connection refused"] {
            assert!(lines[0].contains(part), "{work:?}: {}", lines[0]);
        }
        sleep(60).await;
        assert!(log.lines_with(DOWN).len() > lines.len(), "{work:?}");
        assert!(log.lines_with(DOWN).len() <= 4, "{work:?}");
        assert_eq!(log.lines_with(BACK).len(), 0);
        is_down.store(false, Ordering::SeqCst);
        sleep(60).await;
        assert_eq!(log.lines_with(BACK).len(), 1, "{work:?}");
        for one in [accepted, submission].into_iter().flatten() {
            one.await.unwrap();
        }
        if let Some(sample) = sample {
            sample.await.unwrap();
        }
    }
}
