//! `cargo xtask bench client`: compares the CPU time per sample of the client with that of a plain
//! hyper loop that sends the same bytes.

use std::path::Path;

use serde_json::Value;

use super::options::Options;
use super::program::{Run, ScriptedServer, build, number, words};
use super::table::{Table, median};
use crate::out;

/// The maximum CPU time per sample of the client library, as a multiple of the CPU time of a
/// program that sends the same requests with plain hyper.
const TARGET_RATIO: f64 = 1.5;

/// An API key of realistic length for both programs. Hashing and sending an API key takes time that
/// depends on its length.
const KEY: &str = "tml-bench-0123456789abcdef0123456789abcdef0123456789abcdef";

/// The parameters of the load, which are the same for the client library and for plain hyper.
#[derive(Debug)]
struct Load {
    requests: u64,
    concurrency: u64,
    latency_ms: u64,
    rounds: u64,
    http2: bool,
}

/// The measurements, in all rounds, of one of the two compared programs.
#[derive(Debug, Default)]
struct Measurements {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    connections: Vec<f64>,
}

pub(crate) fn run(options: Options) -> Result<(), String> {
    if options.only.is_some() {
        return Err("--only is an option of `bench goodput`".to_owned());
    }
    let quick = options.quick;
    let load = Load {
        requests: options
            .requests
            .unwrap_or(if quick { 2000 } else { 10_000 }),
        concurrency: options.concurrency.unwrap_or(64),
        latency_ms: options.latency_ms.unwrap_or(20),
        rounds: options.turns.unwrap_or(if quick { 3 } else { 5 }),
        http2: options.http2,
    };
    let release = build()?;
    let latency = words(&format!("--latency {}", load.latency_ms));
    let server = ScriptedServer::start(&release, &latency)?;
    out::line(&format!(
        "{} rounds of {} samples, {} concurrent, with a latency of {} ms on the server; prompts of 256 tokens, results of \
         256 tokens in protobuf, {}",
        load.rounds,
        load.requests,
        load.concurrency,
        load.latency_ms,
        if load.http2 { "HTTP/2" } else { "HTTP/1.1" }
    ));
    let (mut client, mut bare) = (Measurements::default(), Measurements::default());
    for round in 1..=load.rounds {
        // The order of the programs alternates, so that neither of them always has the warmer
        // server.
        let order = if round % 2 == 1 {
            [true, false]
        } else {
            [false, true]
        };
        for is_client in order {
            let measurements = if is_client { &mut client } else { &mut bare };
            measurements.add(&measure(&release, &server, &load, is_client)?)?;
        }
        out::line(&format!(
            "round {round}: client {:.0} us, bare loop {:.0} us per sample",
            last(&client.cpu_us),
            last(&bare.cpu_us)
        ));
    }
    for line in table(&client, &bare).lines() {
        out::line(&line);
    }
    let ratio = ratio(&client, &bare);
    out::line(&format!(
        "CPU time per sample: {ratio:.2} times that of the bare loop (target: at most {TARGET_RATIO})"
    ));
    Ok(())
}

fn measure(
    release: &Path,
    server: &ScriptedServer,
    load: &Load,
    is_client: bool,
) -> Result<Value, String> {
    let mut arguments = words(&format!(
        "--base-url {} --api-key {KEY} --requests {} --concurrency {} --prompt-len 256 --max-tokens 256",
        server.url(),
        load.requests,
        load.concurrency
    ));
    if load.http2 {
        arguments.push("--http2".to_owned());
    }
    if !is_client {
        return Run::start(release, "bare-loop", &arguments)?.output();
    }
    let mut command = words("bench sample --json");
    command.append(&mut arguments);
    Run::start(release, "tinkers", &command)?.output()
}

impl Measurements {
    fn add(&mut self, report: &Value) -> Result<(), String> {
        self.cpu_us.push(number(report, "/cpu_us_per_request")?);
        self.per_second
            .push(number(report, "/requests_per_second")?);
        self.p50.push(number(report, "/latency_ms/p50")?);
        self.p99.push(number(report, "/latency_ms/p99")?);
        self.connections.push(number(report, "/connections")?);
        Ok(())
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let median = |numbers: &[f64]| median(numbers).unwrap_or(f64::NAN);
        vec![
            name.to_owned(),
            format!("{:.0}", median(&self.cpu_us)),
            format!("{:.0}", median(&self.per_second)),
            format!("{:.1}", median(&self.p50)),
            format!("{:.1}", median(&self.p99)),
            format!("{:.0}", median(&self.connections)),
        ]
    }
}

fn table(client: &Measurements, bare: &Measurements) -> Table {
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

fn ratio(client: &Measurements, bare: &Measurements) -> f64 {
    let median_cpu = |program: &Measurements| median(&program.cpu_us).unwrap_or(f64::NAN);
    median_cpu(client) / median_cpu(bare)
}

fn last(numbers: &[f64]) -> f64 {
    numbers.last().copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_ratio_is_the_ratio_of_the_medians() {
        let program = |cpu_us: &[f64]| Measurements {
            cpu_us: cpu_us.to_vec(),
            ..Measurements::default()
        };
        let ratio = ratio(
            &program(&[300.0, 900.0, 310.0]),
            &program(&[200.0, 155.0, 1.0]),
        );
        assert_eq!(ratio, 2.0);
    }

    #[test]
    fn missing_benchmark_measurement_is_an_error() {
        let report = serde_json::json!({
            "cpu_us_per_request": 1.0, "requests_per_second": 2.0, "connections": 3,
            "latency_ms": { "p50": 4.0, "p99": 5.0 },
        });
        let mut measurements = Measurements::default();
        measurements.add(&report).unwrap();
        assert_eq!(measurements.cells("x"), ["x", "1", "2", "4.0", "5.0", "3"]);
        let mut incomplete = report;
        incomplete["cpu_us_per_request"] = Value::Null;
        assert!(
            measurements
                .add(&incomplete)
                .unwrap_err()
                .contains("cpu_us_per_request")
        );
    }
}
