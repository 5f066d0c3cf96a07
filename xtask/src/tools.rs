//! Installation of Cargo's third-party subcommands below `target/tools`.

use std::path::PathBuf;

use crate::environment;

/// Returns the path of the installed program `name`. If it is missing, installs the version
/// `version` of the package with the same name.
pub(crate) fn installed(name: &str, version: &str) -> Result<PathBuf, String> {
    let tools = environment::root().join("target/tools");
    let program = tools
        .join("bin")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if program.exists() {
        return Ok(program);
    }
    let package = format!("{name}@{version}");
    let status = environment::cargo(&["install", "--quiet", "--locked", &package])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        .status()
        .map_err(|cause| format!("cannot run cargo: {cause}"))?;
    if !status.success() {
        return Err(format!("cannot install {package}: cargo failed: {status}"));
    }
    // The build directory is larger than everything else under target/tools.
    std::fs::remove_dir_all(tools.join("build"))
        .map_err(|cause| format!("cannot delete the build of {package}: {cause}"))?;
    Ok(program)
}
