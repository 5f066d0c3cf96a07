//! Tests of the lifecycle of an entry: it is built once, shared while it is held, and removed with its last handle.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use tinkers_registry::{Contention, Registry};

#[test]
fn registry_entry_is_removed_with_its_last_handle() {
    let registry = Registry::new();
    let first = registry.get_or_create("a", || 1);
    let second = first.clone();
    drop(first);
    assert_eq!(registry.len(), 1);
    assert_eq!(*registry.get_or_create("a", || 2), 1);
    drop(second);
    assert!(registry.is_empty());
    assert!(registry.get(&"a").is_none());
    assert_eq!(*registry.get_or_create("a", || 2), 2);
}

#[test]
fn registry_keys_have_separate_values() {
    let registry = Registry::new();
    let (a, b) = (
        registry.get_or_create("a", || 1),
        registry.get_or_create("b", || 2),
    );
    assert_eq!((*a, *b, registry.len()), (1, 2, 2));
    drop(a);
    assert_eq!(registry.len(), 1);
    assert_eq!(registry.get(&"b").as_deref(), Some(&2));
}

#[test]
fn cloned_registry_shares_its_entries() {
    let registry = Registry::new();
    let other = registry.clone();
    let handle = registry.get_or_create("a", || 1);
    assert_eq!((other.get(&"a").as_deref(), other.len()), (Some(&1), 1));
    assert_eq!(*handle.key(), "a");
    drop(handle);
    assert!(other.is_empty());
    assert!(Registry::<&str, u8>::default().is_empty());
}

#[test]
fn registry_debug_output_contains_no_keys() {
    let registry = Registry::new();
    let handle = registry.get_or_create("key", || 1);
    assert_eq!(format!("{registry:?}"), "Registry { len: 1 }");
    assert_eq!(format!("{handle:?}"), "Handle(1)");
}

#[test]
fn total_contention_of_a_registry_is_the_sum_of_all_kinds() {
    let contention = Contention {
        lost_exchanges: 1,
        expired_entries: 2,
        build_waits: 4,
    };
    assert_eq!(contention.total(), 7);
}

#[test]
fn registry_handle_may_outlive_the_registry() {
    let registry = Registry::new();
    let handle = registry.get_or_create("a", || String::from("value"));
    drop(registry);
    assert_eq!(*handle, "value");
}

#[test]
fn concurrent_registry_lookups_build_a_value_once() {
    const THREADS: usize = 8;
    let registry = Registry::new();
    let (built, barrier) = (AtomicUsize::new(0), Barrier::new(THREADS));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                barrier.wait();
                let handle = registry.get_or_create(7, || built.fetch_add(1, Ordering::Relaxed));
                // No thread drops its handle before all threads have one, so a second value would exist at the same time as
                // the first.
                barrier.wait();
                assert_eq!(*handle, 0);
            });
        }
    });
    assert_eq!(built.load(Ordering::Relaxed), 1);
    assert!(registry.is_empty());
}

#[test]
fn panicking_build_function_leaves_no_registry_entry() {
    let registry: Registry<u8, u8> = Registry::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        registry.get_or_create(1, || panic!("on purpose"))
    }));
    assert!(outcome.is_err());
    assert!(registry.is_empty());
    assert_eq!(*registry.get_or_create(1, || 5), 5);
}

#[test]
fn build_error_is_returned_and_not_stored_in_the_registry() {
    let registry: Registry<u8, u8> = Registry::new();
    let failed = registry.try_get_or_create(1, || Err("no"));
    assert_eq!(failed.err(), Some("no"));
    assert!(registry.is_empty());
    let built = registry.try_get_or_create(1, || Ok::<_, ()>(5));
    assert_eq!(built.as_deref(), Ok(&5));
    let held = registry.try_get_or_create(1, || Err("not called"));
    assert_eq!(held.as_deref(), Ok(&5));
}

#[test]
fn after_a_failed_build_the_waiters_build_the_value_once() {
    const WAITERS: usize = 4;
    let registry: Registry<u8, usize> = Registry::new();
    let built = AtomicUsize::new(0);
    let barrier = Barrier::new(WAITERS);
    let all_are_waiting = || registry.contention().build_waits == WAITERS as u64;
    std::thread::scope(|scope| {
        let failed = registry.try_get_or_create(1, || {
            for _ in 0..WAITERS {
                scope.spawn(|| {
                    let build = || built.fetch_add(1, Ordering::Relaxed) + 1;
                    let handle = registry.get_or_create(1, build);
                    assert_eq!(*handle, 1);
                    // The handle is kept until all threads have one; otherwise the next thread would rightly build
                    // another value.
                    barrier.wait();
                });
            }
            while !all_are_waiting() {
                std::thread::yield_now();
            }
            Err("no")
        });
        assert_eq!(failed.err(), Some("no"));
    });
    assert_eq!(built.load(Ordering::Relaxed), 1);
    assert!(registry.is_empty());
}

#[test]
fn registry_serves_other_keys_during_a_build() {
    let registry: Registry<u8, u8> = Registry::new();
    let outer = registry.get_or_create(1, || {
        // The inner thread ends only if the outer build holds no lock.
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let inner = registry.get_or_create(2, || 20);
                assert_eq!(registry.len(), 2);
                *inner
            });
            other.join().expect("no panic")
        })
    });
    assert_eq!(*outer, 20);
    assert_eq!(registry.len(), 1);
}

#[test]
fn recursive_build_panics_instead_of_deadlocking() {
    let registry: Registry<u8, u8> = Registry::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        registry.get_or_create(1, || *registry.get_or_create(1, || 2))
    }));
    let panic = outcome.expect_err("the build is recursive");
    let message = panic.downcast_ref::<&str>();
    assert_eq!(
        message,
        Some(&"the builder of a key requested the same key")
    );
    assert!(registry.is_empty());
    assert_eq!(*registry.get_or_create(1, || 5), 5);
}

#[test]
fn registry_lookup_accepts_a_borrowed_key() {
    let registry: Registry<String, u8> = Registry::new();
    let held = registry.get_or_create("a".to_owned(), || 1);
    assert_eq!(registry.get("a").as_deref(), Some(&1));
    assert!(registry.get("b").is_none());
    assert_eq!(held.key(), "a");
}

#[test]
fn registry_may_be_used_while_a_value_is_built_or_dropped() {
    struct UsesRegistry(Registry<u8, Self>, Arc<AtomicUsize>);

    impl Drop for UsesRegistry {
        fn drop(&mut self) {
            // This call would deadlock if a lock were held.
            self.1.store(self.0.len() + 10, Ordering::Relaxed);
        }
    }
    let registry = Registry::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let handle = registry.get_or_create(1, || {
        assert!(registry.get(&1).is_none(), "the value is not built yet");
        assert!(registry.get(&2).is_none());
        UsesRegistry(registry.clone(), Arc::clone(&seen))
    });
    drop(handle);
    assert_eq!(seen.load(Ordering::Relaxed), 10);
}
