//! Shows how a text is read as what to sample from.

use tinkers_sampling::Source;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    for text in [
        "Qwen/Qwen3-8B",
        "tinker://run/sampler_weights/final",
        "tinker://run",
        "",
    ] {
        match Source::read(text) {
            Ok(source) => println!("{text:?}: {source:?}"),
            Err(error) => println!("{text:?}: {error}"),
        }
    }
}
