//! `cargo xtask bench client`: processor time per sample, of the client and of a bare hyper loop that sends the same bytes.

use std::path::Path;

use serde_json::Value;

use super::options::Options;
use super::program::{Run, Scripted, build, number, words};
use super::table::{Table, median};
use crate::out;

/// What the client may cost, in costs of the bare loop.
const AIM: f64 = 1.5;

/// As long as keys are: what the client does about it costs by its length.
const KEY: &str = "tml-bench-0123456789abcdef0123456789abcdef0123456789abcdef";

/// One load.
#[derive(Debug)]
struct Plan {
    requests: u64,
    concurrency: u64,
    latency_ms: u64,
    turns: u64,
    http2: bool,
}

/// What the turns of one side came to.
#[derive(Debug, Default)]
struct Side {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    connections: Vec<f64>,
}

pub(crate) fn run(options: Options) -> Result<(), String> {
    if options.only.is_some() {
        return Err("--only goes with `bench goodput`".to_owned());
    }
    let quick = options.quick;
    let plan = Plan {
        requests: options
            .requests
            .unwrap_or(if quick { 2000 } else { 10_000 }),
        concurrency: options.concurrency.unwrap_or(64),
        latency_ms: options.latency_ms.unwrap_or(20),
        turns: options.turns.unwrap_or(if quick { 3 } else { 5 }),
        http2: options.http2,
    };
    let release = build()?;
    let latency = words(&format!("--latency {}", plan.latency_ms));
    let server = Scripted::start(&release, &latency)?;
    out::line(&format!(
        "{} samples in each of {} turns, {} under way at once, {} ms each on the server; prompts of 256 tokens, 256 \
         tokens back in protobuf, {}",
        plan.requests,
        plan.turns,
        plan.concurrency,
        plan.latency_ms,
        if plan.http2 { "HTTP/2" } else { "HTTP/1.1" }
    ));
    let (mut client, mut bare) = (Side::default(), Side::default());
    for turn in 1..=plan.turns {
        // Each goes first every other time, so that neither has the warmer server.
        let order = if turn % 2 == 1 {
            [true, false]
        } else {
            [false, true]
        };
        for is_client in order {
            let side = if is_client { &mut client } else { &mut bare };
            side.add(&measure(&release, &server, &plan, is_client)?)?;
        }
        out::line(&format!(
            "turn {turn}: client {:.0} us, bare loop {:.0} us per sample",
            last(&client.cpu_us),
            last(&bare.cpu_us)
        ));
    }
    for line in table(&client, &bare).lines() {
        out::line(&line);
    }
    let ratio = ratio(&client, &bare);
    out::line(&format!(
        "processor time per sample: {ratio:.2} times the bare loop's (aim: {AIM} or less)"
    ));
    Ok(())
}

fn measure(
    release: &Path,
    server: &Scripted,
    plan: &Plan,
    is_client: bool,
) -> Result<Value, String> {
    let mut arguments = words(&format!(
        "--base-url {} --api-key {KEY} --requests {} --concurrency {} --prompt-len 256 --max-tokens 256",
        server.url(),
        plan.requests,
        plan.concurrency
    ));
    if plan.http2 {
        arguments.push("--http2".to_owned());
    }
    if !is_client {
        return Run::start(release, "bare-loop", &arguments)?.object();
    }
    let mut all = words("bench sample --json");
    all.append(&mut arguments);
    Run::start(release, "tinkers", &all)?.object()
}

impl Side {
    fn add(&mut self, told: &Value) -> Result<(), String> {
        self.cpu_us.push(number(told, "/cpu_us_per_request")?);
        self.per_second.push(number(told, "/requests_per_second")?);
        self.p50.push(number(told, "/latency_ms/p50")?);
        self.p99.push(number(told, "/latency_ms/p99")?);
        self.connections.push(number(told, "/connections")?);
        Ok(())
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let middle = |numbers: &[f64]| median(numbers).unwrap_or(f64::NAN);
        vec![
            name.to_owned(),
            format!("{:.0}", middle(&self.cpu_us)),
            format!("{:.0}", middle(&self.per_second)),
            format!("{:.1}", middle(&self.p50)),
            format!("{:.1}", middle(&self.p99)),
            format!("{:.0}", middle(&self.connections)),
        ]
    }
}

fn table(client: &Side, bare: &Side) -> Table {
    let mut table = Table::new(&[
        "medians",
        "CPU us/sample",
        "samples/s",
        "p50 ms",
        "p99 ms",
        "connections",
    ]);
    table.row(client.cells("client"));
    table.row(bare.cells("bare hyper loop"));
    table
}

fn ratio(client: &Side, bare: &Side) -> f64 {
    let middle = |side: &Side| median(&side.cpu_us).unwrap_or(f64::NAN);
    middle(client) / middle(bare)
}

fn last(numbers: &[f64]) -> f64 {
    numbers.last().copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_one_of_medians() {
        let side = |cpu_us: &[f64]| Side {
            cpu_us: cpu_us.to_vec(),
            ..Side::default()
        };
        let ratio = ratio(&side(&[300.0, 900.0, 310.0]), &side(&[200.0, 155.0, 1.0]));
        assert_eq!(ratio, 2.0);
    }

    #[test]
    fn what_a_program_does_not_tell_is_an_error() {
        let whole = serde_json::json!({
            "cpu_us_per_request": 1.0, "requests_per_second": 2.0, "connections": 3,
            "latency_ms": { "p50": 4.0, "p99": 5.0 },
        });
        let mut side = Side::default();
        side.add(&whole).unwrap();
        assert_eq!(side.cells("x"), ["x", "1", "2", "4.0", "5.0", "3"]);
        let mut without = whole;
        without["cpu_us_per_request"] = Value::Null;
        assert!(
            side.add(&without)
                .unwrap_err()
                .contains("cpu_us_per_request")
        );
    }
}
