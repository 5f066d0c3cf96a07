//! How old connections become, and what a suspend of the machine does to them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::Response;
use tinkers_core::{BoxFuture, Clock, ManualClock, RouteClass, Timestamp, Transport};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, IoRuntime, Protocol};
use tokio::sync::Semaphore;

use common::frames::{Peer, ok};
use common::{Server, Speak, answer, client, get, until};

mod common;

/// A clock that is moved by hand, and whose date a suspend of the machine moves alone.
#[derive(Debug, Clone, Default)]
struct Suspended {
    clock: ManualClock,
    slept: Arc<Mutex<Duration>>,
}

impl Clock for Suspended {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn wall(&self) -> SystemTime {
        self.clock.wall() + *self.slept.lock().expect("no panic")
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        self.clock.sleep_until(at)
    }
}

#[tokio::test]
async fn connections_from_before_a_suspend_carry_nothing_more() {
    for (speak, protocol) in [
        (Speak::Http1, Protocol::Http1),
        (Speak::Http2, Protocol::Http2PriorKnowledge),
    ] {
        let release = Arc::new(Semaphore::new(0));
        let server = Server::start(speak, {
            let release = Arc::clone(&release);
            move |seen| {
                let release = Arc::clone(&release);
                Box::pin(async move {
                    if seen.uri.path() == "/held" {
                        release.acquire().await.expect("open").forget();
                    }
                    Response::default()
                })
            }
        });
        let time = Suspended::default();
        let transport = client(&server.url())
            .protocol(protocol)
            .time(Arc::new(time.clone()))
            .build()
            .expect("valid");
        let idle = || transport.stats(RouteClass::Rest).in_use == 0;
        for _ in 0..2 {
            let sent = transport.send(get("/x", RouteClass::Rest)).await;
            sent.expect("answered");
            until(idle).await;
        }
        assert_eq!(server.connections(), 1, "reused");
        let held = {
            let transport = transport.clone();
            tokio::spawn(async move { transport.send(get("/held", RouteClass::Rest)).await })
        };
        until(|| server.seen().len() == 3).await;
        *time.slept.lock().expect("no panic") += Duration::from_secs(3600);
        let sent = transport.send(get("/x", RouteClass::Rest)).await;
        sent.expect("answered");
        assert_eq!(server.connections(), 2, "another");
        release.add_permits(1);
        held.await
            .expect("no panic")
            .expect("it goes on to its end");
        until(idle).await;
        let sent = transport.send(get("/x", RouteClass::Rest)).await;
        sent.expect("answered");
        assert_eq!(server.connections(), 2, "the new one is reused");
        until(|| transport.stats(RouteClass::Rest).open == 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_whose_peer_is_gone_is_closed() {
    let peer = Peer::start(9).await;
    let mut limits = ClassConnectionLimits::of(RouteClass::Rest);
    (limits.idle_http2, limits.max_age) = (Duration::MAX, Duration::MAX);
    let runtime = IoRuntime::from_handle(tokio::runtime::Handle::current());
    let transport = HttpTransport::builder(format!("http://{}", peer.address))
        .runtime(runtime.clone())
        .protocol(Protocol::Http2PriorKnowledge)
        .lane(RouteClass::Rest, limits)
        .build()
        .expect("valid");
    let sending = {
        let transport = transport.clone();
        tokio::spawn(async move { transport.send(get("/x", RouteClass::Rest)).await })
    };
    until(|| peer.streams() == [1]).await;
    peer.write(ok(1));
    sending.await.expect("no panic").expect("answered");
    let stats = || transport.stats(RouteClass::Rest);
    assert_eq!((stats().open, stats().in_use), (1, 0));
    // It answers no ping from here on.
    runtime.time().sleep(Duration::from_secs(60)).await;
    assert_eq!(stats().open, 0);
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_replaced() {
    for (speak, protocol) in [
        (Speak::Http1, Protocol::Http1),
        (Speak::Http2, Protocol::Http2PriorKnowledge),
    ] {
        let server = Server::start(speak, |_| answer("x"));
        let clock = ManualClock::new();
        let mut limits = ClassConnectionLimits::of(RouteClass::Rest);
        (limits.idle_http1, limits.idle_http2) = (Duration::MAX, Duration::MAX);
        let transport = client(&server.url())
            .protocol(protocol)
            .lane(RouteClass::Rest, limits)
            .time(Arc::new(clock.clone()))
            .build()
            .expect("valid");
        for connections in [1, 1, 2, 2] {
            let sent = transport.send(get("/x", RouteClass::Rest)).await;
            sent.expect("answered");
            until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
            assert_eq!(server.connections(), connections);
            clock.advance(limits.max_age * 3 / 5);
        }
    }
}
