//! What share of a server's window the limits make use of, in simulated time.
#![cfg(not(tinkers_loom))]

#[path = "support/sim.rs"]
mod sim;

use sim::{Case, Outcome, Window, run};
use std::time::Duration;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const TWO: &[Duration] = &[Duration::ZERO, Duration::from_secs(5)];
fn w20(_: Duration, _: u64) -> u32 {
    20
}
fn w50(_: Duration, _: u64) -> u32 {
    50
}
fn w500(_: Duration, _: u64) -> u32 {
    500
}
fn steps10(at: Duration, _: u64) -> u32 {
    [20, 50, 10][(at.as_secs() / 10 % 3) as usize]
}
fn steps30(at: Duration, _: u64) -> u32 {
    [20, 50, 10][(at.as_secs() / 30 % 3) as usize]
}
/// Another step of up to five every second, between 5 and 80.
fn walk(at: Duration, seed: u64) -> u32 {
    let mut z = seed.wrapping_add(0x9e37);
    let mut w: i64 = 40;
    for _ in 0..at.as_secs() {
        z = z
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        w = (w + (z >> 33) as i64 % 11 - 5).clamp(5, 80);
    }
    w as u32
}

#[test]
fn figures() {
    let windows: [(&str, Window, u64); 6] = [
        ("20", w20, 20),
        ("50", w50, 50),
        ("500", w500, 500),
        ("steps10", steps10, 27),
        ("steps30", steps30, 27),
        ("walk", walk, 40),
    ];
    for (name, window, w) in windows {
        for sample in [200, 1000] {
            for hint in [Some(200), Some(1000), None] {
                let n = match name {
                    "walk" | "steps10" | "steps30" => 50 * w * (if sample == 200 { 10 } else { 4 }),
                    _ => 50 * w,
                };
                let case = Case {
                    window,
                    seed: 3,
                    sample: ms(sample),
                    hint: hint.map(ms),
                    way: Duration::from_micros(500),
                    samples: n,
                    clients: &[Duration::ZERO],
                };
                let o: Outcome = run(&case);
                println!(
                    "{name:8} sample {sample:4} hint {hint:?}: share {:.3} refused/accepted {:.4} per event {:.1} events {} took {:?}",
                    o.share(),
                    o.refused as f64 / o.accepted as f64,
                    o.refused as f64 / o.events.max(1) as f64,
                    o.events,
                    o.took
                );
            }
        }
    }
    for sample in [200, 1000] {
        for hint in [200, 1000] {
            let case = Case {
                window: w50,
                seed: 3,
                sample: ms(sample),
                hint: Some(ms(hint)),
                way: Duration::from_micros(500),
                samples: 0,
                clients: TWO,
            };
            let case = Case {
                samples: 600 * 1000 / sample * 50,
                ..case
            };
            let o = run(&case);
            println!(
                "two      sample {sample:4} hint {hint}: share {:.3} late {:?} refused/accepted {:.4}",
                o.share(),
                o.finished_late,
                o.refused as f64 / o.accepted as f64
            );
        }
    }
}

fn phased(at: Duration, seed: u64) -> u32 {
    [20, 50, 10][((at.as_millis() as u64 + seed * 1700) / 10_000 % 3) as usize]
}
#[test]
fn summary() {
    let line = |name: &str, v: Vec<f64>, r: Vec<f64>| {
        print!(
            "{name} {:.3}/{:.3} r{:.3} | ",
            v.iter().sum::<f64>() / v.len() as f64,
            v.iter().fold(9.0f64, |a, b| a.min(*b)),
            r.iter().fold(0.0f64, |a, b| a.max(*b))
        )
    };
    let grid: Vec<(u64, u64)> = [(200, 200), (1000, 200), (1000, 1000)].to_vec();
    let all = |window: Window, samples: &dyn Fn(u64) -> u64, seeds: u64| {
        let (mut v, mut r) = (vec![], vec![]);
        for (sample, hint) in &grid {
            for seed in 0..seeds {
                let o = run(&Case {
                    window,
                    seed,
                    sample: ms(*sample),
                    hint: Some(ms(*hint)),
                    way: Duration::from_micros(500),
                    samples: samples(*sample),
                    clients: &[Duration::ZERO],
                });
                v.push(o.share());
                r.push(o.refused as f64 / o.accepted as f64);
            }
        }
        (v, r)
    };
    for (n, w) in [("20", w20 as Window), ("50", w50)] {
        let (v, r) = all(
            w,
            &|s| 50 * w(Duration::ZERO, 0) as u64 * if s == 200 { 3 } else { 1 },
            1,
        );
        line(n, v, r);
    }
    let (v, r) = all(phased, &|s| 27 * 180 * 1000 / s, 6);
    line("steps", v, r);
    let (v, r) = all(walk, &|s| 40 * 180 * 1000 / s, 6);
    line("walk", v, r);
    for (sample, hint) in [(200, 200), (200, 1000), (1000, 200), (1000, 1000)] {
        let o = run(&Case {
            window: w50,
            seed: 0,
            sample: ms(sample),
            hint: Some(ms(hint)),
            way: Duration::from_micros(500),
            samples: 600 * 1000 / sample * 50,
            clients: TWO,
        });
        print!(
            "two {:.2} {:.3} ",
            *o.finished_late.iter().min().unwrap() as f64
                / *o.finished_late.iter().max().unwrap() as f64,
            o.share()
        );
    }
    println!();
}
