//! Two users of one key share a value; the third comes after they left and gets a new one.

use tinkers_registry::Registry;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let registry: Registry<&str, String> = Registry::new();
    let first = registry.get_or_create("api.example", || "limiter of the first".to_owned());
    let second = registry.get_or_create("api.example", || "limiter of the second".to_owned());
    println!("{} users' keys: {}, {}", registry.len(), *first, *second);
    drop(first);
    drop(second);
    println!("left: {}", registry.len());
    let third = registry.get_or_create("api.example", || "limiter of the third".to_owned());
    println!("{}: {}", third.key(), *third);
}
