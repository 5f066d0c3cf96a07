//! The maximum age of connections, and their end after a suspend of the machine.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tinkers_core::{BoxFuture, Clock, ManualClock, RouteClass, Timestamp, Transport};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, HttpVersions, IoRuntime};

use common::frames::{Peer, ok};
use common::{BOTH, Server, client, get, holding_server, respond_with, spawn, until};

mod common;

/// A manual clock with a separate date, to simulate that the machine was suspended: then only the date advances.
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
async fn connections_are_replaced_after_a_suspend_of_the_machine() {
    for (server_version, versions) in BOTH {
        let (server, permits) = holding_server(server_version);
        let clock = Suspended::default();
        let transport = client(&server.url())
            .http_versions(versions)
            .clock(Arc::new(clock.clone()))
            .build()
            .expect("valid");
        let idle = || transport.stats(RouteClass::Rest).in_use == 0;
        for _ in 0..2 {
            let sent = transport.send(get("/x", RouteClass::Rest)).await;
            sent.expect("a response");
            until(idle).await;
        }
        assert_eq!(server.connections(), 1, "reused");
        let held = spawn(&transport, get("/held", RouteClass::Rest));
        until(|| server.requests().len() == 3).await;
        *clock.slept.lock().expect("no panic") += Duration::from_secs(3600);
        let sent = transport.send(get("/x", RouteClass::Rest)).await;
        sent.expect("a response");
        assert_eq!(server.connections(), 2, "another");
        permits.add_permits(1);
        held.await.expect("no panic").expect("a response");
        until(idle).await;
        let sent = transport.send(get("/x", RouteClass::Rest)).await;
        sent.expect("a response");
        assert_eq!(server.connections(), 2, "the new one is reused");
        until(|| transport.stats(RouteClass::Rest).open == 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_http2_connection_to_a_lost_peer_is_closed() {
    let peer = Peer::start(9).await;
    let mut limits = ClassConnectionLimits::of(RouteClass::Rest);
    (limits.idle_http2, limits.max_age) = (Duration::MAX, Duration::MAX);
    let runtime = IoRuntime::from_handle(tokio::runtime::Handle::current());
    let transport = HttpTransport::builder(format!("http://{}", peer.address))
        .runtime(runtime.clone())
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .class_limits(RouteClass::Rest, limits)
        .build()
        .expect("valid");
    let sending = spawn(&transport, get("/x", RouteClass::Rest));
    until(|| peer.streams() == [1]).await;
    peer.write(ok(1));
    sending.await.expect("no panic").expect("a response");
    let stats = || transport.stats(RouteClass::Rest);
    assert_eq!((stats().open, stats().in_use), (1, 0));
    // The server does not respond to pings.
    runtime.clock().sleep(Duration::from_secs(60)).await;
    assert_eq!(stats().open, 0);
}

#[tokio::test]
async fn connection_above_the_maximum_age_is_replaced() {
    for (server_version, versions) in BOTH {
        let server = Server::start(server_version, |_| respond_with("x"));
        let clock = ManualClock::new();
        let mut limits = ClassConnectionLimits::of(RouteClass::Rest);
        (limits.idle_http1, limits.idle_http2) = (Duration::MAX, Duration::MAX);
        let transport = client(&server.url())
            .http_versions(versions)
            .class_limits(RouteClass::Rest, limits)
            .clock(Arc::new(clock.clone()))
            .build()
            .expect("valid");
        for connections in [1, 1, 2, 2] {
            let sent = transport.send(get("/x", RouteClass::Rest)).await;
            sent.expect("a response");
            until(|| transport.stats(RouteClass::Rest).in_use == 0).await;
            assert_eq!(server.connections(), connections);
            clock.advance(limits.max_age * 3 / 5);
        }
    }
}
