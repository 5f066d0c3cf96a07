//! Runs the targets for a while on all cores, and keeps what broke one.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]
#![expect(
    clippy::disallowed_methods,
    reason = "it goes on for as long as it is told to"
)]

use std::num::NonZeroUsize;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use tinkers_fuzz::mutate::Mutator;
use tinkers_fuzz::{TARGETS, Target};

/// Foreign bytes for everything that reads them.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask fuzz")]
struct Options {
    /// One target alone.
    #[arg(value_parser = TARGETS.map(|target| target.name).to_vec())]
    target: Option<String>,
    /// Seconds for all targets together.
    #[arg(long, default_value_t = 30)]
    secs: u64,
    /// Where the inputs come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs this file alone, as an earlier run kept it.
    #[arg(long, requires = "target")]
    replay: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let one = options.target.as_deref().and_then(Target::named);
    if let (Some(target), Some(path)) = (one, &options.replay) {
        return match std::fs::read(path) {
            Ok(input) => {
                (target.run)(&input);
                println!("{} takes it", target.name);
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("{}: {error}", path.display());
                ExitCode::FAILURE
            }
        };
    }
    let targets = one.map_or_else(|| TARGETS.to_vec(), |target| vec![target]);
    let each = Duration::from_secs(options.secs) / targets.len() as u32;
    let mut holds = true;
    for target in targets {
        holds &= fuzz(target, options.seed, each);
    }
    match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Whether nothing broke the target.
fn fuzz(target: Target, seed: u64, length: Duration) -> bool {
    let seeds = (target.seeds)();
    let (count, broken) = (AtomicU64::new(0), Mutex::new(None));
    let end = Instant::now() + length;
    let work = |stream: u64| {
        let mutator = Mutator::new(seed ^ stream << 48);
        while Instant::now() < end {
            let input = mutator.next(&seeds);
            count.fetch_add(1, Ordering::Relaxed);
            if catch_unwind(|| (target.run)(&input)).is_err() {
                if let Ok(mut broken) = broken.lock() {
                    broken.get_or_insert(input);
                }
                return;
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for stream in 0..threads as u64 {
            scope.spawn(move || work(stream));
        }
    });
    let count = count.into_inner();
    match broken.into_inner().ok().flatten() {
        None => {
            println!("{:<18} holds over {count} inputs", target.name);
            true
        }
        Some(input) => {
            let path = Path::new("target/fuzz").join(target.name);
            let kept =
                std::fs::create_dir_all("target/fuzz").and_then(|()| std::fs::write(&path, &input));
            println!("{:<18} BROKEN after {count} inputs", target.name);
            match kept {
                Ok(()) => println!(
                    "  cargo xtask fuzz {} --replay {}",
                    target.name,
                    path.display()
                ),
                Err(error) => println!("  {error}; the input: {input:?}"),
            }
            false
        }
    }
}
