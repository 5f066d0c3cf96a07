//! `cargo xtask ci`: runs all checks in order, until one of them fails.

mod crates;
mod deny;
mod package;
mod plan;
mod step;
mod supply;

use crate::{environment, metadata, no_arguments, out, tidy};

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    no_arguments(arguments)?;
    let workspace = metadata::workspace()?;
    let logs = workspace.target.join("xtask").join("ci");
    std::fs::create_dir_all(&logs)
        .map_err(|cause| format!("cannot create {}: {cause}", logs.display()))?;
    let watch = environment::Stopwatch::start();
    // The fast checks come first.
    step::timed("tidy", || tidy::run(&[]))?;
    step::timed("supply", supply::check)?;
    step::timed("cargo-deny", deny::check)?;
    step::timed("number of crates", crates::check)?;
    let mut steps = plan::steps(&workspace.packages, &workspace.target);
    package::delete_unpacked(&workspace.packages)?;
    steps.push(package::step(&workspace.packages)?);
    for step in &steps {
        step::timed(&step.name, || step.run(&logs))?;
    }
    out::line(&format!(
        "ci: {} steps passed in {:.0} s",
        steps.len() + 4,
        watch.seconds()
    ));
    Ok(())
}
