//! `cargo xtask bench NAME`: runs benchmarks of the limits, of the client, and of the client's
//! goodput on a server with an in-flight limit.

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

fn with_usage(error: String) -> String {
    format!("{error}\n{USAGE}")
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let (name, rest) = arguments.split_first().ok_or(USAGE)?;
    match name.as_str() {
        "client" => client::run(Options::parse(rest).map_err(with_usage)?),
        "goodput" => goodput::run(Options::parse(rest).map_err(with_usage)?),
        "limits" => limits::run(rest),
        other => Err(format!("unknown benchmark `{other}`\n{USAGE}")),
    }
}
