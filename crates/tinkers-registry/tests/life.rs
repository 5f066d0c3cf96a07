//! The life of an entry: shared while held, gone with its last holder, built once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use tinkers_registry::{Collisions, Registry};

#[test]
fn an_entry_goes_with_its_last_handle_and_not_before() {
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
fn keys_do_not_share() {
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
fn clones_of_a_registry_share_its_entries() {
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
fn debug_shows_the_value_of_a_handle_and_no_keys() {
    let registry = Registry::new();
    let handle = registry.get_or_create("key", || 1);
    assert_eq!(format!("{registry:?}"), "Registry { live: 1 }");
    assert_eq!(format!("{handle:?}"), "Handle(1)");
}

#[test]
fn total_of_collisions_is_their_sum() {
    let collisions = Collisions {
        overtaken: 1,
        departed: 2,
        waited: 4,
    };
    assert_eq!(collisions.total(), 7);
}

#[test]
fn a_handle_outlives_the_registry() {
    let registry = Registry::new();
    let handle = registry.get_or_create("a", || String::from("here"));
    drop(registry);
    assert_eq!(*handle, "here");
}

#[test]
fn threads_that_come_together_build_once() {
    const THREADS: usize = 8;
    let registry = Registry::new();
    let (built, together) = (AtomicUsize::new(0), Barrier::new(THREADS));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                together.wait();
                let handle = registry.get_or_create(7, || built.fetch_add(1, Ordering::Relaxed));
                // Nobody lets go before all have it, so a second value would be a second live one.
                together.wait();
                assert_eq!(*handle, 0);
            });
        }
    });
    assert_eq!(built.load(Ordering::Relaxed), 1);
    assert!(registry.is_empty());
}

#[test]
fn a_build_that_panics_leaves_nothing_behind() {
    let registry: Registry<u8, u8> = Registry::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        registry.get_or_create(1, || panic!("on purpose"))
    }));
    assert!(outcome.is_err());
    assert!(registry.is_empty());
    assert_eq!(*registry.get_or_create(1, || 5), 5);
}

#[test]
fn a_build_that_fails_gives_its_error_and_the_next_builds() {
    let registry: Registry<u8, u8> = Registry::new();
    let failed = registry.try_get_or_create(1, || Err("no"));
    assert_eq!(failed.err(), Some("no"));
    assert!(registry.is_empty());
    let built = registry.try_get_or_create(1, || Ok::<_, ()>(5));
    assert_eq!(built.as_deref(), Ok(&5));
    let held = registry.try_get_or_create(1, || Err("not asked"));
    assert_eq!(held.as_deref(), Ok(&5));
}

#[test]
fn those_who_wait_for_a_build_that_fails_build_in_their_turn_and_once() {
    const WAITING: usize = 4;
    let registry: Registry<u8, usize> = Registry::new();
    let built = AtomicUsize::new(0);
    let together = Barrier::new(WAITING);
    let all_wait = || registry.collisions().waited == WAITING as u64;
    std::thread::scope(|scope| {
        let failed = registry.try_get_or_create(1, || {
            for _ in 0..WAITING {
                scope.spawn(|| {
                    let build = || built.fetch_add(1, Ordering::Relaxed) + 1;
                    let handle = registry.get_or_create(1, build);
                    assert_eq!(*handle, 1);
                    // Held until all have it, or the next would rightly build another.
                    together.wait();
                });
            }
            while !all_wait() {
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
fn while_a_value_is_built_other_keys_are_free() {
    let registry: Registry<u8, u8> = Registry::new();
    let outer = registry.get_or_create(1, || {
        // On a thread of its own, which ends only if nothing that it needs is held here.
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
fn a_builder_that_asks_for_its_own_key_panics_and_does_not_wait_for_itself() {
    let registry: Registry<u8, u8> = Registry::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        registry.get_or_create(1, || *registry.get_or_create(1, || 2))
    }));
    let panic = outcome.expect_err("it cannot have one");
    let said = panic.downcast_ref::<&str>();
    assert_eq!(said, Some(&"the builder of a key asked for the same key"));
    assert!(registry.is_empty());
    assert_eq!(*registry.get_or_create(1, || 5), 5);
}

#[test]
fn a_key_is_found_by_what_it_borrows_as() {
    let registry: Registry<String, u8> = Registry::new();
    let held = registry.get_or_create("a".to_owned(), || 1);
    assert_eq!(registry.get("a").as_deref(), Some(&1));
    assert!(registry.get("b").is_none());
    assert_eq!(held.key(), "a");
}

#[test]
fn a_value_may_use_the_registry_while_it_is_built_and_dropped() {
    struct Nosy(Registry<u8, Self>, Arc<AtomicUsize>);
    impl Drop for Nosy {
        fn drop(&mut self) {
            // Would never return if the lock were held around it.
            self.1.store(self.0.len() + 10, Ordering::Relaxed);
        }
    }
    let registry = Registry::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let handle = registry.get_or_create(1, || {
        assert!(registry.get(&1).is_none(), "not before it is built");
        assert!(registry.get(&2).is_none());
        Nosy(registry.clone(), Arc::clone(&seen))
    });
    drop(handle);
    assert_eq!(seen.load(Ordering::Relaxed), 10);
}
