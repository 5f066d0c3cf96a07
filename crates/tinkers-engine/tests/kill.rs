//! Tests that a process killed during a save leaves every checkpoint either complete or absent.
//!
//! The test has no harness. Started as `kill --child DIR`, it saves checkpoints in a loop and prints the number of each. Started in
//! any other way, it starts such child processes, kills them at different moments, and checks the files.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use tinkers_engine::checkpoint::{CheckpointContents, Key, Store};
use tinkers_engine::{AdamW, AdapterConfig, Lora, builtin};

/// The number of child processes that the test starts and kills. In most rounds, the kill interrupts a save.
const ROUNDS: usize = 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let ended = match args.as_slice() {
        [_, flag, dir] if flag == "--child" => save_in_a_loop(Path::new(dir)),
        _ => kill_and_check(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn key(name: &str) -> Key {
    Key {
        run: "run".into(),
        kind: "weights".into(),
        name: name.into(),
    }
}

/// Creates a checkpoint whose weights and record depend on `number`.
fn numbered_checkpoint(number: u64) -> Result<CheckpointContents, Box<dyn Error>> {
    let config = AdapterConfig {
        rank: 16,
        seed: number,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    let lora = Lora::new(config, &builtin::config())?;
    Ok(CheckpointContents {
        optimizer: Some(AdamW::new(lora.params())),
        lora,
        record: number.to_string(),
    })
}

fn save_in_a_loop(dir: &Path) -> Result<(), Box<dyn Error>> {
    let store = Store::open(dir)?;
    let mut out = std::io::stdout().lock();
    for number in 0.. {
        let checkpoint = numbered_checkpoint(number)?;
        store.save(&key(&number.to_string()), &checkpoint)?;
        store.save(&key("latest"), &checkpoint)?;
        writeln!(out, "{number}")?;
        out.flush()?;
    }
    Ok(())
}

fn kill_and_check() -> Result<(), Box<dyn Error>> {
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let dir = tempfile::tempdir()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--child")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("the child has no output")?).lines();
        let mut reported = None;
        for line in lines.take(1 + round % 3) {
            reported = Some(line?.parse::<u64>()?);
        }
        // A busy loop delays each kill differently, so that the kills hit different moments of a save.
        let mut spin = round as u64;
        for _ in 0..round * 150_000 {
            spin = std::hint::black_box(spin.wrapping_mul(31).wrapping_add(1));
        }
        child.kill()?;
        child.wait()?;
        let reported = reported.ok_or("the child reported no save")?;
        interrupted += usize::from(unfinished(dir.path())?);
        check_files(dir.path(), reported).map_err(|e| format!("round {round}: {e}"))?;
    }
    if interrupted == 0 {
        return Err("inconclusive: no kill interrupted a save".into());
    }
    Ok(())
}

fn unfinished(dir: &Path) -> Result<bool, Box<dyn Error>> {
    for entry in std::fs::read_dir(dir.join("run/weights"))? {
        if entry?.path().extension().is_some_and(|e| e == "tmp") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks that every checkpoint that the child process reported exists, and that every checkpoint file is complete.
fn check_files(dir: &Path, reported: u64) -> Result<(), Box<dyn Error>> {
    let store = Store::open(dir)?;
    let files = std::fs::read_dir(dir.join("run/weights"))?.count();
    let records = store.records()?;
    if records.len() != files {
        return Err(format!("{files} files, {} of them complete", records.len()).into());
    }
    let mut number = 0;
    while store.contains(&key(&number.to_string()))? {
        check(&store, &number.to_string(), number)?;
        number += 1;
    }
    if number <= reported {
        return Err(format!("checkpoint {number} is missing, {reported} was reported").into());
    }
    let latest: u64 = store.load(&key("latest"))?.record.parse()?;
    if latest < reported {
        return Err(format!("the latest is {latest}, {reported} was reported").into());
    }
    check(&store, "latest", latest)
}

fn check(store: &Store, name: &str, number: u64) -> Result<(), Box<dyn Error>> {
    let (got, want) = (store.load(&key(name))?, numbered_checkpoint(number)?);
    let data = |checkpoint: &CheckpointContents| -> Vec<Vec<f32>> {
        checkpoint
            .lora
            .params()
            .iter()
            .map(|p| p.data().to_vec())
            .collect()
    };
    if data(&got) != data(&want) || got.optimizer != want.optimizer {
        return Err(format!("checkpoint {name} differs from what was saved as {number}").into());
    }
    Ok(())
}
