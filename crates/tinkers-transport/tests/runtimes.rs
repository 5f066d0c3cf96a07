//! The work goes on whatever becomes of the caller's runtime, and stops when the caller drops its future.

use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};

use http::Response;
use tinkers_core::{RouteClass, Sent, Spawn, Transport, TransportErrorKind};
use tinkers_transport::{DedicatedThread, HttpTransport, IoRuntime, Protocol};
use tokio::sync::{Semaphore, mpsc as channel};

use common::{SERVERS, Server, Speak, answer, client, get, until};

mod common;

/// The smallest executor: parks the thread, knows no runtime.
fn block_on<F: Future>(work: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut work = std::pin::pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        std::thread::park();
    }
}

#[test]
fn a_caller_without_any_runtime_is_served() {
    for speak in [Speak::Http1, Speak::Http2] {
        let server = Server::start(speak, |_| answer("plain"));
        let protocol = if matches!(speak, Speak::Http1) {
            Protocol::Http1
        } else {
            Protocol::Http2PriorKnowledge
        };
        let transport = HttpTransport::builder(server.url())
            .protocol(protocol)
            .build()
            .expect("valid");
        let response = block_on(transport.send(get("/x", RouteClass::Rest))).expect("answered");
        assert_eq!(response.body, "plain");
    }
}

#[test]
fn a_request_begun_on_a_runtime_that_is_dropped_ends_on_another() {
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start(Speak::Http1, {
        let gate = Arc::clone(&gate);
        move |_| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await.expect("open").forget();
                Response::new("survived".into())
            })
        }
    });
    let transport = HttpTransport::builder(server.url()).build().expect("valid");
    let mut sending = transport.send(get("/x", RouteClass::Rest));
    let first = tokio::runtime::Runtime::new().expect("a runtime");
    first.block_on(async {
        until(|| {
            let polled = sending
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            server.seen().len() == 1
        })
        .await;
    });
    drop(first);
    gate.add_permits(1);
    let second = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    assert_eq!(second.block_on(sending).expect("answered").body, "survived");
    // The connection lives on too: it never was the caller's.
    let again = block_on(async {
        gate.add_permits(1);
        transport.send(get("/y", RouteClass::Rest)).await
    });
    assert_eq!(again.expect("answered").body, "survived");
}

#[test]
fn work_goes_on_while_the_callers_runtime_is_blocked() {
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start(Speak::Http1, {
        let gate = Arc::clone(&gate);
        move |_| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await.expect("open").forget();
                Response::new("done".into())
            })
        }
    });
    let transport = HttpTransport::builder(server.url()).build().expect("valid");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut sending = transport.send(get("/x", RouteClass::Rest));
        let polled = sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "the server holds it");
        // This thread is the caller's whole runtime, and from here it is blocked until the request is over.
        let (done, blocked) = mpsc::channel();
        let watched = transport.clone();
        let watcher = std::thread::spawn(move || {
            let stats = || watched.stats(RouteClass::Rest);
            while stats().in_use == 0 {
                std::thread::yield_now();
            }
            gate.add_permits(1);
            // Closing waits for what is under way, the handing over of its answer included.
            watched.close();
            block_on(watched.closed());
            let _ = done.send(());
        });
        blocked.recv().expect("the work went on");
        watcher.join().expect("no panic");
        let polled = sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(answer) = polled else {
            panic!("the answer is there")
        };
        assert_eq!(answer.expect("answered").body, "done");
    });
}

#[tokio::test]
async fn a_dropped_future_cancels_its_request_on_the_server() {
    for (speak, protocol) in [
        (Speak::Http1, Protocol::Http1),
        (Speak::Http2, Protocol::Http2PriorKnowledge),
    ] {
        struct Tell(channel::UnboundedSender<&'static str>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.send("cancelled");
            }
        }
        let (tell, mut told) = channel::unbounded_channel();
        let server = Server::start(speak, move |seen| {
            let tell = Tell(tell.clone());
            Box::pin(async move {
                if seen.uri.path() == "/quick" {
                    return Response::new("quick".into());
                }
                let _ = tell.0.send("begun");
                std::future::pending().await
            })
        });
        let transport = client(&server.url())
            .protocol(protocol)
            .build()
            .expect("valid");
        let quick = transport
            .send(get("/quick", RouteClass::Sample))
            .await
            .expect("answered");
        assert_eq!(
            (quick.body, told.recv().await),
            ("quick".into(), Some("cancelled"))
        );
        let sending = {
            let transport = transport.clone();
            tokio::spawn(async move { transport.send(get("/slow", RouteClass::Sample)).await })
        };
        assert_eq!(told.recv().await, Some("begun"));
        sending.abort();
        assert_eq!(told.recv().await, Some("cancelled"));
        until(|| transport.stats(RouteClass::Sample).in_use == 0).await;
        // An HTTP/2 connection survives the reset of one of its streams.
        transport
            .send(get("/quick", RouteClass::Sample))
            .await
            .expect("answered");
        let expected = if matches!(speak, Speak::Http2) {
            1
        } else {
            server.connections()
        };
        assert_eq!(server.connections(), expected);
    }
}

#[test]
fn a_transport_may_live_on_a_thread_of_its_own() {
    let server = Server::start(Speak::Http1, |_| answer("beat"));
    let thread = DedicatedThread::start("tinkers-heart").expect("starts");
    let transport = HttpTransport::builder(server.url())
        .runtime(thread.runtime())
        .build()
        .expect("valid");
    let (tx, rx) = mpsc::channel();
    let task = thread.spawn(Box::pin(async move {
        let answered = transport.send(get("/x", RouteClass::Control)).await;
        let name = std::thread::current().name().map(str::to_owned);
        let _ = tx.send((answered.map(|response| response.body), name));
    }));
    let (answered, name) = rx.recv().expect("ran");
    assert_eq!(
        (answered.expect("answered"), name.as_deref()),
        ("beat".into(), Some("tinkers-heart"))
    );
    drop(task);
}

#[test]
fn a_runtime_that_ended_is_an_error_and_no_hang() {
    let server = Server::start(Speak::Http1, |_| answer("x"));
    let own = tokio::runtime::Runtime::new().expect("a runtime");
    let transport = HttpTransport::builder(server.url())
        .runtime(IoRuntime::from_handle(own.handle().clone()))
        .build()
        .expect("valid");
    own.block_on(transport.send(get("/x", RouteClass::Rest)))
        .expect("answered");
    drop(own);
    let error = block_on(transport.send(get("/x", RouteClass::Rest))).expect_err("no runtime");
    assert!(error.to_string().contains("runtime"), "{error}");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Aborted, Sent::NotSent)
    );
    assert_eq!(
        server.seen().len(),
        1,
        "the one before the runtime's end is all"
    );
}

#[test]
fn a_request_under_way_when_its_runtime_ends_may_have_been_sent() {
    let server = Server::start(Speak::Http1, |_| Box::pin(std::future::pending()));
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
        server.seen().len() == 1
    }));
    drop(own);
    let error = block_on(sending).expect_err("no runtime");
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Aborted, Sent::MaybeSent)
    );
}

#[test]
fn the_public_types_may_be_shared_and_moved() {
    fn check<T: Send + Sync + Unpin + std::fmt::Debug + 'static>() {}
    check::<HttpTransport>();
    check::<tinkers_transport::HttpTransportBuilder>();
    check::<IoRuntime>();
    check::<DedicatedThread>();
    check::<tinkers_transport::TokioClock>();
    check::<tinkers_transport::ProxyConfig>();
    check::<tinkers_transport::Credential>();
    check::<tinkers_core::BaseUrl>();
    // The servers' runtime is started by the first server, so name it here for the one test without.
    drop(SERVERS.handle().clone());
}
