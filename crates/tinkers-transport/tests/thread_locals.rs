//! A transport and its clock in the destructor of a thread-local, after the thread-locals of tokio are destroyed. A panic there would abort
//! the process, so this test has a process of its own.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};

use tinkers_core::{Clock, RouteClass, Transport};
use tinkers_transport::{DedicatedThread, HttpTransport, IoRuntime, block_on};

use common::{Server, ServerVersion, get, respond_with};

mod common;

thread_local! {
    static LEAKED: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// A value whose destructor reads the clock and sleeps on it.
struct UsedInDrop(Arc<dyn Clock>);

impl Drop for UsedInDrop {
    fn drop(&mut self) {
        let before = self.0.now();
        let at = before.after(std::time::Duration::from_millis(1));
        block_on(self.0.sleep_until(at));
        assert!(self.0.now() >= at);
        let _ = self.0.wall();
    }
}

#[test]
fn transport_and_clock_can_be_dropped_in_thread_local_destructor() {
    let server = Server::start(ServerVersion::Http1, |_| respond_with("x"));
    let url = server.url();
    let thread = std::thread::spawn(move || {
        // Destructors run in the reverse order of initialisation. The thread-local of tokio is initialised below, so it is destroyed
        // first.
        LEAKED.with(|_| ());
        let runtime = IoRuntime::shared().expect("a runtime");
        let clock = runtime.clock();
        let thread = DedicatedThread::start("tinkers-test").expect("a thread");
        let transport = HttpTransport::builder(url).build().expect("valid");
        // Initialises the thread-local of tokio.
        let own = tokio::runtime::Runtime::new().expect("a runtime");
        own.block_on(transport.send(get("/x", RouteClass::Rest)))
            .expect("a response");
        let leaked = Box::leak(Box::new(transport.clone()));
        let mut sending = leaked.send(get("/x", RouteClass::Rest));
        let polled = sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        drop(polled);
        let all: Vec<Box<dyn Any>> = vec![
            Box::new(UsedInDrop(Arc::clone(&clock))),
            Box::new(UsedInDrop(thread.runtime().clock())),
            Box::new(sending),
            Box::new(clock.sleep(std::time::Duration::from_secs(60))),
            Box::new(transport),
            Box::new(thread),
            Box::new(own),
        ];
        LEAKED.with(|leaked| leaked.replace(all));
    });
    thread.join().expect("no panic");
}
