//! Threads that use one key share a value, also the one that comes while it is built; who comes after them gets a new one.

use tinkers_registry::Registry;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let registry: Registry<&str, String> = Registry::new();
    let handles: Vec<_> = std::thread::scope(|scope| {
        let ask =
            |user| registry.get_or_create("api.example", || format!("limiter of user {user}"));
        let users: Vec<_> = (1..=4).map(|user| scope.spawn(move || ask(user))).collect();
        users
            .into_iter()
            .filter_map(|user| user.join().ok())
            .collect()
    });
    for handle in &handles {
        println!("{}: {}", handle.key(), **handle);
    }
    println!("keys in use: {}", registry.len());
    drop(handles);
    println!("keys in use: {}", registry.len());
    let next = registry.get_or_create("api.example", || "limiter of who came later".to_owned());
    println!("{}: {}", next.key(), *next);
}
