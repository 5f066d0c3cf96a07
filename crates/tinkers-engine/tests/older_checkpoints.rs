//! A test of checkpoints without a fingerprint, as older versions wrote them. Alone in its process, because it sets the global
//! tracing subscriber.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use tinkers_engine::checkpoint::{CheckpointContents, Key, Store};
use tinkers_engine::{AdapterConfig, Lora, ModelEngine, builtin};
use tinkers_local::engine::{Engine, Job, JobCallback, JobId, Outcome, Work};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

static WARNINGS: AtomicUsize = AtomicUsize::new(0);

/// A log subscriber that counts warnings.
struct Count;

impl Subscriber for Count {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == Level::WARN {
            WARNINGS.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn checkpoint_without_fingerprint_loads_with_one_warning() {
    tracing::subscriber::set_global_default(Count).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = AdapterConfig {
        rank: 2,
        seed: 1,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    let checkpoint = CheckpointContents {
        lora: Lora::new(config, &builtin::config()).unwrap(),
        optimizer: None,
        record: format!(
            r#"{{"path":"tinker://run/weights/a","base_model":"{}","lora":{{"rank":2}},"saved_at":1.0}}"#,
            builtin::NAME
        ),
    };
    let key = Key {
        run: "run".into(),
        kind: "weights".into(),
        name: "a".into(),
    };
    let store = Store::open(&dir.path().join("checkpoints")).unwrap();
    store.save(&key, &checkpoint).unwrap();

    let engine = ModelEngine::builtin(dir.path()).unwrap();
    let records = engine.checkpoints().unwrap();
    assert_eq!(records[0].base_fingerprint, None);
    for number in 0..3 {
        let work = Work::CreateFromCheckpoint {
            model: format!("m{number}"),
            path: records[0].path.clone(),
            optimizer: false,
        };
        let (sender, ended) = channel();
        let done = JobCallback::new(move |ended| drop(sender.send(ended)));
        engine.start(
            Job {
                id: JobId(number),
                work,
            },
            done,
        );
        assert_eq!(ended.recv().unwrap(), Ok(Outcome::Done));
    }
    assert_eq!(WARNINGS.load(Ordering::SeqCst), 1);
}
