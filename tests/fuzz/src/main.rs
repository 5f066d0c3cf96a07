//! Runs the targets for a while on all cores, and keeps what broke one.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]
#![expect(
    clippy::disallowed_methods,
    reason = "it goes on for as long as it is told to"
)]

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
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
use tinkers_fuzz::shrink::shrink;
use tinkers_fuzz::{TARGETS, Target};

/// Foreign bytes for everything that reads them.
///
/// What breaks a target is written to target/fuzz/TARGET, as short as it still breaks it. To keep it as a test, give it a name that
/// says what it is, under tests/fuzz/corpus/TARGET.
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
    /// Runs this file alone, such as one that an earlier run kept.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let one = options.target.as_deref().and_then(Target::named);
    if let (Some(target), Some(path)) = (one, &options.input) {
        return match fs::read(path) {
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
        holds &= match target.inputs() {
            Ok(inputs) => fuzz(target, &inputs, options.seed, each),
            Err(error) => {
                println!("{:<18} its corpus cannot be read: {error}", target.name);
                false
            }
        };
    }
    match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Whether nothing broke the target: first its own inputs as they are, then what is made of them.
fn fuzz(target: Target, inputs: &[Vec<u8>], seed: u64, length: Duration) -> bool {
    let (count, broken) = (AtomicU64::new(0), Mutex::new(None));
    let end = Instant::now() + length;
    let takes = |input: &[u8]| {
        count.fetch_add(1, Ordering::Relaxed);
        let takes = !breaks(target, input);
        if !takes && let Ok(mut broken) = broken.lock() {
            broken.get_or_insert(input.to_vec());
        }
        takes
    };
    let work = |stream: u64| {
        let mutator = Mutator::new(seed ^ stream << 48);
        while Instant::now() < end && takes(&(target.draw)(&mutator, inputs)) {}
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    if inputs.iter().all(|input| takes(input)) {
        thread::scope(|scope| {
            for stream in 0..threads as u64 {
                scope.spawn(move || work(stream));
            }
        });
    }
    let broken = broken.into_inner().ok().flatten();
    let count = count.into_inner();
    let Some(input) = broken else {
        println!("{:<18} holds over {count} inputs", target.name);
        return true;
    };
    println!("{:<18} BROKEN after {count} inputs", target.name);
    // What it says was said once already.
    std::panic::set_hook(Box::new(|_| ()));
    let short = shrink(input, |input| breaks(target, input));
    drop(std::panic::take_hook());
    match keep(target, &short) {
        Ok(path) => {
            let (name, path) = (target.name, path.display());
            println!("  {} bytes break it; to run them again:", short.len());
            println!("  cargo xtask fuzz {name} --input {path}");
            println!("  to keep them as a test: cp {path} tests/fuzz/corpus/{name}/WHAT-IT-IS");
        }
        Err(error) => println!("  {error}; the input: {short:?}"),
    }
    false
}

fn breaks(target: Target, input: &[u8]) -> bool {
    catch_unwind(|| (target.run)(input)).is_err()
}

/// Writes an input down under a name of its own.
fn keep(target: Target, input: &[u8]) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    hasher.write(input);
    let directory = Path::new("target/fuzz").join(target.name);
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{:016x}", hasher.finish()));
    fs::write(&path, input)?;
    Ok(path)
}
