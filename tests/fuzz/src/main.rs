//! The program behind `cargo xtask fuzz`.
#![expect(clippy::print_stdout, reason = "the program prints its results")]
#![expect(
    clippy::disallowed_methods,
    reason = "the program runs for a given time"
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

/// Fuzz every parser of untrusted input
///
/// A failing input is shortened and written to target/fuzz/TARGET. To keep it as a regression test, copy it to
/// tests/fuzz/corpus/TARGET under a name that describes it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask fuzz")]
struct Options {
    /// Run only this target
    #[arg(value_parser = TARGETS.map(|target| target.name).to_vec())]
    target: Option<String>,
    /// The duration in seconds of all targets together
    #[arg(long, default_value_t = 30)]
    secs: u64,
    /// The random seed of the inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run only this input file, such as one that an earlier run wrote
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
                println!("{} passes", target.name);
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
    let mut all_passed = true;
    for target in targets {
        all_passed &= match target.inputs() {
            Ok(inputs) => fuzz(target, &inputs, options.seed, each),
            Err(error) => {
                println!("{:<18} cannot read its corpus: {error}", target.name);
                false
            }
        };
    }
    match all_passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Runs a fuzz target first with each of `inputs`, and then with generated inputs until the
/// duration `length` has passed. Returns `true` if no input failed.
fn fuzz(target: Target, inputs: &[Vec<u8>], seed: u64, length: Duration) -> bool {
    let (count, failing) = (AtomicU64::new(0), Mutex::new(None));
    let end = Instant::now() + length;
    let passes = |input: &[u8]| {
        count.fetch_add(1, Ordering::Relaxed);
        let passes = !fails(target, input);
        if !passes && let Ok(mut failing) = failing.lock() {
            failing.get_or_insert(input.to_vec());
        }
        passes
    };
    let work = |stream: u64| {
        let mutator = Mutator::new(seed ^ stream << 48);
        while Instant::now() < end && passes(&(target.generate)(&mutator, inputs)) {}
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    if inputs.iter().all(|input| passes(input)) {
        thread::scope(|scope| {
            for stream in 0..threads as u64 {
                scope.spawn(move || work(stream));
            }
        });
    }
    let failing = failing.into_inner().ok().flatten();
    let count = count.into_inner();
    let Some(input) = failing else {
        println!("{:<18} passed {count} inputs", target.name);
        return true;
    };
    println!("{:<18} FAILED after {count} inputs", target.name);
    // The panic message has already been printed once.
    std::panic::set_hook(Box::new(|_| ()));
    let short = shrink(input, |input| fails(target, input));
    drop(std::panic::take_hook());
    match save(target, &short) {
        Ok(path) => {
            let (name, path) = (target.name, path.display());
            println!(
                "  {} bytes reproduce the failure; to run them again:",
                short.len()
            );
            println!("  cargo xtask fuzz {name} --input {path}");
            println!("  to keep them as a test: cp {path} tests/fuzz/corpus/{name}/DESCRIPTION");
        }
        Err(error) => println!("  {error}; the input: {short:?}"),
    }
    false
}

fn fails(target: Target, input: &[u8]) -> bool {
    catch_unwind(|| (target.run)(input)).is_err()
}

/// Writes a failing input to `target/fuzz`, and returns its path. The file name is the hash of the
/// input.
fn save(target: Target, input: &[u8]) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    hasher.write(input);
    let directory = Path::new("target/fuzz").join(target.name);
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{:016x}", hasher.finish()));
    fs::write(&path, input)?;
    Ok(path)
}
