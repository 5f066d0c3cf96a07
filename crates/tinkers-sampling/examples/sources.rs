//! Prints which texts are accepted as the source of a sampling client: model names and `tinker://` paths.

use tinkers_sampling::SamplerSource;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    for text in [
        "Qwen/Qwen3-8B",
        "tinker://run/sampler_weights/final",
        "tinker://run",
        "",
    ] {
        match SamplerSource::parse(text) {
            Ok(source) => println!("{text:?}: {source:?}"),
            Err(error) => println!("{text:?}: {error}"),
        }
    }
}
