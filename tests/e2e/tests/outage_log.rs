//! Log lines about an outage at the default log level.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, Transport, TransportError, TransportErrorKind,
};
use tinkers_core::Sent;
use tinkers_e2e::training::{model, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::InProcess;

use crate::log_capture::Log;

/// A transport that refuses all connections while the simulated outage lasts.
#[derive(Debug)]
struct RefusingTransport {
    inner: InProcess,
    is_down: AtomicBool,
}

impl Transport for RefusingTransport {
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

/// The kind of request that the client sends during the simulated outage.
#[derive(Debug, Clone, Copy)]
enum Traffic {
    Heartbeats,
    Poll,
    SharedPoll,
    Submission,
}

const DOWN: &str = "the server does not answer";
const BACK: &str = "the server answers again";

#[tokio::test(start_paused = true)]
async fn outage_is_logged_repeatedly_with_address_and_cause() {
    for traffic in [
        Traffic::Heartbeats,
        Traffic::Poll,
        Traffic::SharedPoll,
        Traffic::Submission,
    ] {
        let (log, _logging) = Log::start();
        let setup = Setup {
            latency: Duration::from_secs(2),
            ..Setup::default()
        };
        let (harness, transport) = Harness::through(setup, |inner| RefusingTransport {
            inner,
            is_down: AtomicBool::new(false),
        })
        .await;
        let training = model(&harness).await;
        let sampler = harness
            .service
            .create_sampling_client(SCRIPTED)
            .await
            .unwrap();
        let sleep = |seconds| harness.server.time().sleep(Duration::from_secs(seconds));
        assert_eq!(log.lines_with(DOWN).len(), 0);
        let accepted = match traffic {
            Traffic::Poll => Some(step(&training)),
            _ => None,
        };
        let sample = match traffic {
            Traffic::SharedPoll => Some(sampler.sample(vec![1]).send()),
            _ => None,
        };
        sleep(1).await;
        transport.is_down.store(true, Ordering::SeqCst);
        let submission = match traffic {
            Traffic::Submission => Some(step(&training)),
            _ => None,
        };
        sleep(40).await;
        let lines = log.lines_with(DOWN);
        assert!((1..=3).contains(&lines.len()), "{traffic:?}: {lines:?}");
        for part in ["server=http://in-process", "cause=connection refused"] {
            assert!(lines[0].contains(part), "{traffic:?}: {}", lines[0]);
        }
        sleep(60).await;
        assert!(log.lines_with(DOWN).len() > lines.len(), "{traffic:?}");
        assert!(log.lines_with(DOWN).len() <= 4, "{traffic:?}");
        assert_eq!(log.lines_with(BACK).len(), 0);
        transport.is_down.store(false, Ordering::SeqCst);
        sleep(60).await;
        assert_eq!(log.lines_with(BACK).len(), 1, "{traffic:?}");
        for call in [accepted, submission].into_iter().flatten() {
            call.await.unwrap();
        }
        if let Some(sample) = sample {
            sample.await.unwrap();
        }
    }
}
