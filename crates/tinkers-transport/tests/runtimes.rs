//! Requests on the transport's own runtime and on other executors, and their cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use http::Response;
use tinkers_core::{
    BoxFuture, Clock, ManualClock, RouteClass, Sent, Spawn, Timestamp, Transport,
    TransportErrorKind,
};
use tinkers_transport::{DedicatedThread, HttpTransport, IoRuntime, block_on};
use tokio::runtime::Runtime;
use tokio::sync::mpsc as channel;

use common::{
    BOTH, SERVERS, Server, ServerVersion, client, get, holding_server, respond_with, until,
};

mod common;

#[test]
fn request_works_without_an_async_runtime_of_the_caller() {
    for (server_version, versions) in BOTH {
        let server = Server::start(server_version, |_| respond_with("plain"));
        let transport = HttpTransport::builder(server.url())
            .http_versions(versions)
            .build()
            .expect("valid");
        let response = block_on(transport.send(get("/x", RouteClass::Rest))).expect("a response");
        assert_eq!(response.body, "plain");
    }
}

#[test]
fn request_outlives_the_runtime_of_its_caller() {
    let (server, permits) = holding_server(ServerVersion::Http1);
    let transport = HttpTransport::builder(server.url()).build().expect("valid");
    let mut sending = transport.send(get("/held", RouteClass::Rest));
    let first = tokio::runtime::Runtime::new().expect("a runtime");
    first.block_on(async {
        until(|| {
            let polled = sending
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            server.requests().len() == 1
        })
        .await;
    });
    drop(first);
    permits.add_permits(1);
    let second = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    second.block_on(sending).expect("a response");
    // The connection is reused: it does not run on the caller's runtime.
    let again = block_on(async {
        permits.add_permits(1);
        transport.send(get("/held", RouteClass::Rest)).await
    });
    again.expect("a response");
    assert_eq!(server.connections(), 1);
}

#[test]
fn request_proceeds_while_the_callers_runtime_is_blocked() {
    let (server, permits) = holding_server(ServerVersion::Http1);
    let transport = HttpTransport::builder(server.url()).build().expect("valid");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut sending = transport.send(get("/held", RouteClass::Rest));
        let polled = sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "the server holds the request");
        // This thread is the only one of the caller's runtime. It is blocked until the request is done.
        let (done, blocked) = mpsc::channel();
        let watched = transport.clone();
        let watcher = std::thread::spawn(move || {
            let stats = || watched.stats(RouteClass::Rest);
            while stats().in_use == 0 {
                std::thread::yield_now();
            }
            permits.add_permits(1);
            // Waits for the request, including the handover of its response.
            watched.close();
            block_on(watched.closed());
            let _ = done.send(());
        });
        blocked.recv().expect("the request is done");
        watcher.join().expect("no panic");
        let polled = sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(response) = polled else {
            panic!("the response is there")
        };
        response.expect("a response");
    });
}

#[tokio::test]
async fn request_is_cancelled_when_its_future_is_dropped() {
    for (server_version, versions) in BOTH {
        struct DropSignal(channel::UnboundedSender<&'static str>);
        impl Drop for DropSignal {
            fn drop(&mut self) {
                let _ = self.0.send("cancelled");
            }
        }
        let (signal, mut signals) = channel::unbounded_channel();
        let server = Server::start(server_version, move |recorded| {
            let signal = DropSignal(signal.clone());
            Box::pin(async move {
                if recorded.uri.path() == "/quick" {
                    return Response::new("quick".into());
                }
                let _ = signal.0.send("begun");
                std::future::pending().await
            })
        });
        let transport = client(&server.url())
            .http_versions(versions)
            .build()
            .expect("valid");
        let quick = transport
            .send(get("/quick", RouteClass::Sample))
            .await
            .expect("a response");
        assert_eq!(
            (quick.body, signals.recv().await),
            ("quick".into(), Some("cancelled"))
        );
        let sending = {
            let transport = transport.clone();
            tokio::spawn(async move { transport.send(get("/slow", RouteClass::Sample)).await })
        };
        assert_eq!(signals.recv().await, Some("begun"));
        sending.abort();
        assert_eq!(signals.recv().await, Some("cancelled"));
        until(|| transport.stats(RouteClass::Sample).in_use == 0).await;
        // An HTTP/2 connection is not affected by the reset of a stream.
        transport
            .send(get("/quick", RouteClass::Sample))
            .await
            .expect("a response");
        let expected = if matches!(server_version, ServerVersion::Http2) {
            1
        } else {
            server.connections()
        };
        assert_eq!(server.connections(), expected);
    }
}

#[test]
fn transport_runs_on_a_dedicated_thread() {
    let server = Server::start(ServerVersion::Http1, |_| respond_with("beat"));
    let thread = DedicatedThread::start("tinkers-heart").expect("starts");
    let transport = HttpTransport::builder(server.url())
        .runtime(thread.runtime())
        .build()
        .expect("valid");
    let (tx, rx) = mpsc::channel();
    let task = thread.spawn(Box::pin(async move {
        let outcome = transport.send(get("/x", RouteClass::Control)).await;
        let name = std::thread::current().name().map(str::to_owned);
        let _ = tx.send((outcome.map(|response| response.body), name));
    }));
    let (outcome, name) = rx.recv().expect("ran");
    assert_eq!(
        (outcome.expect("a response"), name.as_deref()),
        ("beat".into(), Some("tinkers-heart"))
    );
    drop(task);
}

/// The number of tasks of a runtime with one idle HTTP/1.1 connection: one task does the I/O of the connection, one task closes idle
/// connections, and one task belongs to the clock.
const IDLE_TASKS: usize = 3;

#[test]
fn request_on_the_runtime_of_its_transport_spawns_no_task() {
    let (server, permits) = holding_server(ServerVersion::Http1);
    let (own, transport) = transport_on_its_own_runtime(&server, None);
    let tasks = || own.metrics().num_alive_tasks();
    let first = block_on(transport.send(get("/x", RouteClass::Rest)));
    first.expect("a response");
    for (is_own, extra) in [(true, 0), (false, 1)] {
        block_on(until(|| tasks() == IDLE_TASKS));
        let request = async {
            let arrived = server.requests().len() + 1;
            let mut sending = transport.send(get("/held", RouteClass::Rest));
            until(|| {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(sending.as_mut().poll(&mut cx).is_pending());
                server.requests().len() == arrived
            })
            .await;
            assert_eq!(tasks(), IDLE_TASKS + extra);
            permits.add_permits(1);
            sending.await.expect("a response");
        };
        if is_own {
            own.block_on(request);
        } else {
            block_on(request);
        }
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn request_started_on_its_runtime_can_be_awaited_outside_of_it() {
    let other = Server::start(ServerVersion::Http1, |_| respond_with("redirected"));
    let location = other.url();
    let server = Server::start(ServerVersion::Http1, move |_| {
        let redirect = Response::builder().status(302);
        let redirect = redirect.header("location", &location);
        common::respond(redirect.body("".into()).expect("valid"))
    });
    let (own, transport) = transport_on_its_own_runtime(&server, None);
    let context = own.enter();
    let sending = transport.send(get("/x", RouteClass::Rest));
    drop(context);
    // Opens connections to both servers.
    assert_eq!(block_on(sending).expect("a response").body, "redirected");
}

/// A clock that panics when a test tells it to.
#[derive(Debug, Default)]
struct PanickingClock {
    clock: ManualClock,
    panics: AtomicBool,
}

impl Clock for PanickingClock {
    fn now(&self) -> Timestamp {
        assert!(!self.panics.load(Ordering::SeqCst), "a panic on demand");
        self.clock.now()
    }

    fn wall(&self) -> SystemTime {
        self.clock.wall()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        self.clock.sleep_until(at)
    }
}

#[test]
fn panic_in_a_request_is_an_error() {
    let server = Server::start(ServerVersion::Http1, |_| respond_with("x"));
    let clock = Arc::new(PanickingClock::default());
    let (own, transport) = transport_on_its_own_runtime(&server, Some(Arc::clone(&clock)));
    for is_own in [true, false] {
        let send = || async { transport.send(get("/x", RouteClass::Rest)).await };
        let outcome = || match is_own {
            true => own.block_on(send()),
            false => block_on(send()),
        };
        clock.panics.store(true, Ordering::SeqCst);
        let error = outcome().expect_err("a panic");
        assert_eq!(
            (error.kind, error.sent),
            (TransportErrorKind::Aborted, Sent::MaybeSent)
        );
        clock.panics.store(false, Ordering::SeqCst);
        outcome().expect("a response");
        block_on(until(|| transport.stats(RouteClass::Rest).in_use == 0));
    }
}

/// Creates a transport to `server` on a new runtime, which no other transport uses. Returns the runtime and the transport.
fn transport_on_its_own_runtime(
    server: &Server,
    clock: Option<Arc<PanickingClock>>,
) -> (Runtime, HttpTransport) {
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let runtime = IoRuntime::from_handle(own.handle().clone());
    let mut builder = HttpTransport::builder(server.url()).runtime(runtime);
    if let Some(clock) = clock {
        builder = builder.clock(clock);
    }
    (own, builder.build().expect("valid"))
}

#[test]
fn request_on_a_runtime_that_has_ended_fails() {
    let server = Server::start(ServerVersion::Http1, |_| respond_with("x"));
    let own = tokio::runtime::Runtime::new().expect("a runtime");
    let transport = HttpTransport::builder(server.url())
        .runtime(IoRuntime::from_handle(own.handle().clone()))
        .build()
        .expect("valid");
    own.block_on(transport.send(get("/x", RouteClass::Rest)))
        .expect("a response");
    drop(own);
    let error = block_on(transport.send(get("/x", RouteClass::Rest))).expect_err("no runtime");
    assert!(error.to_string().contains("runtime"), "{error}");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Aborted, Sent::NotSent)
    );
    assert_eq!(
        server.requests().len(),
        1,
        "only the first request was sent"
    );
}

#[test]
fn request_interrupted_by_the_end_of_its_runtime_is_maybe_sent() {
    let server = Server::start(ServerVersion::Http1, |_| Box::pin(std::future::pending()));
    let own = tokio::runtime::Runtime::new().expect("a runtime");
    let transport = HttpTransport::builder(server.url())
        .runtime(IoRuntime::from_handle(own.handle().clone()))
        .build()
        .expect("valid");
    let mut sending = transport.send(get("/x", RouteClass::Rest));
    block_on(until(|| {
        let polled = sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        server.requests().len() == 1
    }));
    drop(own);
    let error = block_on(sending).expect_err("no runtime");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Aborted, Sent::MaybeSent)
    );
}

#[test]
fn public_transport_types_are_send_and_sync() {
    fn check<T: Send + Sync + Unpin + std::fmt::Debug + 'static>() {}
    check::<HttpTransport>();
    check::<tinkers_transport::HttpTransportBuilder>();
    check::<IoRuntime>();
    check::<DedicatedThread>();
    check::<tinkers_transport::TokioClock>();
    check::<tinkers_transport::ProxyConfig>();
    check::<tinkers_core::BaseUrl>();
    // The other tests of this file use the runtime of the servers; without a use here, it would be dead code.
    drop(SERVERS.handle().clone());
}
