//! Tests of closing an engine, and of checkpoints of another base model.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use tinkers_engine::{ModelEngine, builtin};
use tinkers_local::engine::{
    CheckpointRecord, Engine, Job, JobCallback, JobId, Outcome, Overwrite, SamplerWeights, Work,
};
use tinkers_wire::{CheckpointKind, LoraConfig, SampleRequest};

use crate::{TestEngine, path, refused, sample};

/// Starts a save of the model `m`, and does not wait for the end of the save. Returns the path of the checkpoint file.
fn begin_save(test: &TestEngine, dir: &Path, rank: u32) -> std::path::PathBuf {
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
        owner: None,
        public: false,
        project_id: None,
    };
    let work = Work::Save {
        model: "m".into(),
        record,
        overwrite: Overwrite::Refuse,
    };
    drop(test.start(work));
    dir.join("checkpoints/m/weights/n.safetensors")
}

/// Creates a model with a large adapter. A save of this model takes long.
fn create_large(test: &TestEngine) {
    let work = Work::CreateModel {
        model: "m".into(),
        base_model: builtin::NAME.into(),
        lora: LoraConfig::rank(512),
    };
    assert_eq!(test.run(work), Ok(Outcome::Done));
}

#[test]
fn closed_engine_finishes_saves_and_refuses_new_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    create_large(&test);
    let file = begin_save(&test, dir.path(), 512);
    assert!(test.engine.close(Duration::from_secs(120)));
    assert!(file.exists());
    let late = test.save("m", CheckpointKind::Training, "late", Overwrite::Refuse);
    assert!(late.unwrap_err().message.contains("closed"));
    // The closed engine still exists, but another engine can use the directory.
    drop(ModelEngine::builtin(dir.path()).unwrap());
}

#[test]
fn dropped_engine_finishes_its_saves() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    create_large(&test);
    let file = begin_save(&test, dir.path(), 512);
    drop(test);
    assert!(file.exists());
}

#[test]
fn engine_close_returns_after_its_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    test.create("m");
    let (release, wait) = channel::<()>();
    let busy = Job {
        id: JobId(900),
        work: Work::UnloadModel {
            model: String::new(),
        },
    };
    // The callback blocks the training thread until `release` is dropped.
    test.engine.start(
        busy,
        JobCallback::new(move |_| wait.recv().unwrap_or_default()),
    );
    let file = begin_save(&test, dir.path(), 4);
    assert!(!test.engine.close(Duration::ZERO));
    assert!(!file.exists());
    drop(release);
    assert!(test.engine.close(Duration::from_secs(120)));
    assert!(file.exists());
}

#[test]
fn checkpoint_of_another_base_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    test.create("m");
    for kind in [CheckpointKind::Training, CheckpointKind::Sampler] {
        test.save("m", kind, "n", Overwrite::Refuse).unwrap();
    }
    let own = test.engine.models()[0].fingerprint.clone().unwrap();
    let records = test.engine.checkpoints().unwrap();
    assert!(
        records
            .iter()
            .all(|record| record.base_fingerprint.as_ref() == Some(&own))
    );
    // Replaces the fingerprint in the files with that of another model.
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
        sample(
            SamplerWeights::Checkpoint(sampler),
            SampleRequest::default(),
        ),
    ] {
        let reason = refused(test.run(work));
        for part in [builtin::NAME, &other[..12], &own[..12]] {
            assert!(reason.contains(part), "{reason}");
        }
    }
}
