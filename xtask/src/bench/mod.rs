//! `cargo xtask bench NAME`: what the limits and the client cost beside other things, and how close the client comes to what a
//! server takes.

mod case;
mod client;
mod goodput;
mod limits;
mod options;
mod oracle;
mod program;
mod table;

use options::Options;

const USAGE: &str = "\
usage: cargo xtask bench client  [--quick] [--requests N] [--concurrency C] [--latency MS] [--turns N] [--http2]
       cargo xtask bench goodput [--quick] [--only NAME]
       cargo xtask bench limits  [--quick] [--json]";

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let (name, rest) = arguments.split_first().ok_or(USAGE)?;
    match name.as_str() {
        "client" => client::run(Options::read(rest).map_err(|why| format!("{why}\n{USAGE}"))?),
        "goodput" => goodput::run(Options::read(rest).map_err(|why| format!("{why}\n{USAGE}"))?),
        "limits" => limits::run(rest),
        other => Err(format!("no benchmark `{other}`\n{USAGE}")),
    }
}
