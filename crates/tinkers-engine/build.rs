//! Passes the optimisation level of the build to the engine, which warns about a slow one.

#[expect(
    clippy::disallowed_methods,
    reason = "Cargo passes the settings of a build in environment variables"
)]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo::rustc-env=TINKERS_ENGINE_OPT_LEVEL={level}");
}
