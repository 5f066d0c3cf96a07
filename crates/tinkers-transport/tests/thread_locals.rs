//! A transport and its clock in the destructor of a thread-local, where tokio's own thread-locals are gone. A panic there would
//! abort the process, so this test has a process of its own.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tinkers_core::{Clock, RouteClass, Transport};
use tinkers_transport::{DedicatedThread, HttpTransport, IoRuntime};

use common::{Server, Speak, answer, get};

mod common;

thread_local! {
    static KEPT: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

fn block_on<F: Future>(work: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        std::thread::park();
    }
}

/// Reads the clock and waits for it when it is dropped.
struct Late(Arc<dyn Clock>);

impl Drop for Late {
    fn drop(&mut self) {
        let before = self.0.now();
        let at = before.after(std::time::Duration::from_millis(1));
        block_on(self.0.sleep_until(at));
        assert!(self.0.now() >= at);
        let _ = self.0.wall();
    }
}

#[test]
fn a_transport_and_its_clock_can_go_with_a_thread_local() {
    let server = Server::start(Speak::Http1, |_| answer("x"));
    let url = server.url();
    let thread = std::thread::spawn(move || {
        // Destructors run in the reverse order of first uses: tokio's thread-local, which is first used below, is gone when this
        // one is dropped.
        KEPT.with(|_| ());
        let runtime = IoRuntime::shared().expect("a runtime");
        let time = runtime.time();
        let thread = DedicatedThread::start("tinkers-test").expect("a thread");
        let transport = HttpTransport::builder(url).build().expect("valid");
        // tokio's thread-local of this thread is in use from here on.
        let own = tokio::runtime::Runtime::new().expect("a runtime");
        own.block_on(transport.send(get("/x", RouteClass::Rest)))
            .expect("answered");
        let kept = Box::leak(Box::new(transport.clone()));
        let mut sending = kept.send(get("/x", RouteClass::Rest));
        let begun = sending
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        drop(begun);
        let all: Vec<Box<dyn Any>> = vec![
            Box::new(Late(Arc::clone(&time))),
            Box::new(Late(thread.runtime().time())),
            Box::new(sending),
            Box::new(time.sleep(std::time::Duration::from_secs(60))),
            Box::new(transport),
            Box::new(thread),
            Box::new(own),
        ];
        KEPT.with(|kept| kept.replace(all));
    });
    thread.join().expect("no panic");
}
