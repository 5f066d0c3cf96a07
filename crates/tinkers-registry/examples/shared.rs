//! Shares one value between threads that use the same key, and builds a new value after all handles are dropped.

use tinkers_registry::Registry;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let registry: Registry<&str, String> = Registry::new();
    let handles: Vec<_> = std::thread::scope(|scope| {
        let create = |thread| {
            registry.get_or_create("api.example", || {
                format!("limiter built by thread {thread}")
            })
        };
        let threads: Vec<_> = (1..=4)
            .map(|thread| scope.spawn(move || create(thread)))
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    });
    for handle in &handles {
        println!("{}: {}", handle.key(), **handle);
    }
    println!("keys in use: {}", registry.len());
    drop(handles);
    println!("keys in use: {}", registry.len());
    let next = registry.get_or_create("api.example", || "limiter built later".to_owned());
    println!("{}: {}", next.key(), *next);
}
