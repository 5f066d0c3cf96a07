//! A process that is killed during saves leaves each checkpoint whole or absent.
//!
//! This file is its own program: as `kill --child DIR` it saves without end and tells of each save, otherwise it starts
//! such children, kills them at different moments, and looks at what they left.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use tinkers_engine::checkpoint::{Key, Saved, Store};
use tinkers_engine::{AdamW, Lora, LoraConfig, builtin};

/// Kills; the first few cases find a save in progress nearly every time.
const ROUNDS: usize = 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let ended = match args.as_slice() {
        [_, flag, dir] if flag == "--child" => save_without_end(Path::new(dir)),
        _ => kill_and_look(),
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

/// A checkpoint whose weights, moments and record all tell its number.
fn saved(number: u64) -> Result<Saved, Box<dyn Error>> {
    let config = LoraConfig {
        rank: 16,
        seed: number,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    let lora = Lora::new(config, &builtin::config())?;
    Ok(Saved {
        optimizer: Some(AdamW::new(lora.params())),
        lora,
        record: number.to_string(),
    })
}

fn save_without_end(dir: &Path) -> Result<(), Box<dyn Error>> {
    let store = Store::open(dir)?;
    let mut out = std::io::stdout().lock();
    for number in 0.. {
        let saved = saved(number)?;
        store.save(&key(&number.to_string()), &saved)?;
        store.save(&key("latest"), &saved)?;
        writeln!(out, "{number}")?;
        out.flush()?;
    }
    Ok(())
}

fn kill_and_look() -> Result<(), Box<dyn Error>> {
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let dir = tempfile::tempdir()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--child")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("the child has no output")?).lines();
        let mut told = None;
        for line in lines.take(1 + round % 3) {
            told = Some(line?.parse::<u64>()?);
        }
        // Some work of no use, so that the kills come at different moments of a save.
        let mut spin = round as u64;
        for _ in 0..round * 150_000 {
            spin = std::hint::black_box(spin.wrapping_mul(31).wrapping_add(1));
        }
        child.kill()?;
        child.wait()?;
        let told = told.ok_or("the child told of no save")?;
        interrupted += usize::from(unfinished(dir.path())?);
        look(dir.path(), told).map_err(|e| format!("round {round}: {e}"))?;
    }
    if interrupted == 0 {
        return Err("inconclusive: no kill came during a save".into());
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

/// Everything that was told is there, and everything that is there is whole.
fn look(dir: &Path, told: u64) -> Result<(), Box<dyn Error>> {
    let store = Store::open(dir)?;
    let files = std::fs::read_dir(dir.join("run/weights"))?.count();
    let records = store.records()?;
    if records.len() != files {
        return Err(format!("{files} files, {} of them whole", records.len()).into());
    }
    let mut number = 0;
    while store.contains(&key(&number.to_string()))? {
        check(&store, &number.to_string(), number)?;
        number += 1;
    }
    if number <= told {
        return Err(format!("checkpoint {number} is gone, {told} was told").into());
    }
    let latest: u64 = store.load(&key("latest"))?.record.parse()?;
    if latest < told {
        return Err(format!("the latest is {latest}, {told} was told").into());
    }
    check(&store, "latest", latest)
}

fn check(store: &Store, name: &str, number: u64) -> Result<(), Box<dyn Error>> {
    let (got, want) = (store.load(&key(name))?, saved(number)?);
    let data = |saved: &Saved| -> Vec<Vec<f32>> {
        saved
            .lora
            .params()
            .iter()
            .map(|p| p.data().to_vec())
            .collect()
    };
    if data(&got) != data(&want) || got.optimizer != want.optimizer {
        return Err(format!("checkpoint {name} does not hold what was saved as {number}").into());
    }
    Ok(())
}
