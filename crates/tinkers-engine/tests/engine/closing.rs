//! The end of an engine, and checkpoints that belong to another one.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use tinkers_engine::{ModelEngine, builtin};
use tinkers_local::engine::{
    CheckpointRecord, Done, Engine, Job, JobId, Outcome, Overwrite, Weights, Work,
};
use tinkers_wire::{CheckpointKind, LoraConfig, SampleRequest};

use crate::{Bench, path, refused, sample};

/// Begins a save of `model` with an adapter of `rank`, and does not wait for it. Gives the file that it writes.
fn begin_save(bench: &Bench, dir: &Path, rank: u32) -> std::path::PathBuf {
    let record = CheckpointRecord {
        path: path("m", CheckpointKind::Training, "n"),
        base_model: builtin::NAME.into(),
        base_fingerprint: None,
        lora: LoraConfig::rank(rank),
        saved_at: 1.0,
        expires_at: None,
        size_bytes: 0,
        user_metadata: None,
        run_metadata: None,
    };
    let work = Work::Save {
        model: "m".into(),
        record,
        overwrite: Overwrite::Refuse,
    };
    drop(bench.start(work));
    dir.join("checkpoints/m/weights/n.safetensors")
}

/// A model whose save takes its time.
fn create_large(bench: &Bench) {
    let work = Work::CreateModel {
        model: "m".into(),
        base_model: builtin::NAME.into(),
        lora: LoraConfig::rank(512),
    };
    assert_eq!(bench.run(work), Ok(Outcome::Done));
}

#[test]
fn closing_finishes_a_save_and_takes_no_more_work() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    create_large(&bench);
    let file = begin_save(&bench, dir.path(), 512);
    assert!(bench.engine.close(Duration::from_secs(120)));
    assert!(file.exists());
    let late = bench.save("m", CheckpointKind::Training, "late", Overwrite::Refuse);
    assert!(late.unwrap_err().message.contains("closed"));
    // The directory is free for the next engine while this one still exists.
    drop(ModelEngine::builtin(dir.path()).unwrap());
}

#[test]
fn dropping_the_engine_finishes_a_save() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    create_large(&bench);
    let file = begin_save(&bench, dir.path(), 512);
    drop(bench);
    assert!(file.exists());
}

#[test]
fn closing_waits_no_longer_than_its_patience() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.create("m");
    let (go_on, wait) = channel::<()>();
    let busy = Job {
        id: JobId(900),
        work: Work::UnloadModel {
            model: String::new(),
        },
    };
    // The training thread does not get on before it is told to.
    bench
        .engine
        .start(busy, Done::new(move |_| wait.recv().unwrap_or_default()));
    let file = begin_save(&bench, dir.path(), 4);
    assert!(!bench.engine.close(Duration::ZERO));
    assert!(!file.exists());
    drop(go_on);
    assert!(bench.engine.close(Duration::from_secs(120)));
    assert!(file.exists());
}

#[test]
fn a_checkpoint_of_another_base_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.create("m");
    for kind in [CheckpointKind::Training, CheckpointKind::Sampler] {
        bench.save("m", kind, "n", Overwrite::Refuse).unwrap();
    }
    let own = bench.engine.models()[0].fingerprint.clone().unwrap();
    let records = bench.engine.checkpoints().unwrap();
    assert!(
        records
            .iter()
            .all(|record| record.base_fingerprint.as_ref() == Some(&own))
    );
    // The same files with the fingerprint of another model, as that model's server would have written them.
    let other = "0".repeat(own.len());
    for kind in ["weights", "sampler_weights"] {
        let file = dir
            .path()
            .join(format!("checkpoints/m/{kind}/n.safetensors"));
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes
            .windows(own.len())
            .position(|part| part == own.as_bytes())
            .unwrap();
        bytes[at..at + own.len()].copy_from_slice(other.as_bytes());
        std::fs::write(&file, bytes).unwrap();
    }
    let training = path("m", CheckpointKind::Training, "n");
    let sampler = path("m", CheckpointKind::Sampler, "n");
    for work in [
        Work::CreateFromCheckpoint {
            model: "x".into(),
            path: training.clone(),
            optimizer: false,
        },
        Work::LoadCheckpoint {
            model: "m".into(),
            path: training,
            optimizer: true,
        },
        sample(Weights::Checkpoint(sampler), SampleRequest::default()),
    ] {
        let reason = refused(bench.run(work));
        for part in [builtin::NAME, &other[..12], &own[..12]] {
            assert!(reason.contains(part), "{reason}");
        }
    }
}
