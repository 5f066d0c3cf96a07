//! A store in memory that tests can stop and that several servers can use one after another.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use tinkers_core::ManualClock;
use tinkers_local::{
    BaseModel, Change, CheckpointRecord, Engine, EngineError, InProcess, Job, JobCallback,
    LocalServer, Outcome, RecordStore, Script, ScriptedEngine, StoreError, StoredRecord,
    TokioSpawn, Work,
};

use super::support::TestServer;

/// A store in memory. Clones share the records.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryStore(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<(String, String), Bytes>,
    commits: usize,
    is_stopped: bool,
    is_full: bool,
    is_broken: bool,
    failures: usize,
}

impl MemoryStore {
    /// Makes commits wait until the returned value is dropped, also by a failed test.
    pub(crate) fn stop(&self) -> Stopped {
        self.set(|state| state.is_stopped = true);
        Stopped(self.clone())
    }

    /// Makes commits fail or succeed.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.set(|state| state.is_full = is_full);
    }

    /// Makes the next commit panic.
    pub(crate) fn break_down(&self) {
        self.set(|state| state.is_broken = true);
    }

    /// Blocks until a commit has failed, and the server knows it: until a second one has failed.
    pub(crate) fn until_a_commit_fails(&self) {
        let state = self.0.state.lock().unwrap();
        let is_waiting = |state: &mut State| state.failures < 2;
        drop(self.0.changed.wait_while(state, is_waiting).unwrap());
    }

    /// Returns the number of records in a table.
    pub(crate) fn count(&self, table: &str) -> usize {
        let state = self.0.state.lock().unwrap();
        state.records.keys().filter(|(of, _)| of == table).count()
    }

    /// Returns the number of successful commits.
    pub(crate) fn commits(&self) -> usize {
        self.0.state.lock().unwrap().commits
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock().unwrap());
        self.0.changed.notify_all();
    }
}

/// A guard that lets the commits of a stopped store continue when it is dropped.
#[must_use]
pub(crate) struct Stopped(MemoryStore);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.set(|state| state.is_stopped = false);
    }
}

impl RecordStore for MemoryStore {
    fn load(&mut self) -> Result<Vec<StoredRecord>, StoreError> {
        let state = self.0.state.lock().unwrap();
        let records = state.records.iter();
        let records = records.map(|((table, key), value)| StoredRecord {
            table: table.clone(),
            key: key.clone(),
            value: value.clone(),
        });
        Ok(records.collect())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let state = self.0.state.lock().unwrap();
        let stopped = |state: &mut State| state.is_stopped;
        let mut state = self.0.changed.wait_while(state, stopped).unwrap();
        assert!(!state.is_broken, "the store is broken");
        if state.is_full {
            state.failures += 1;
            drop(state);
            self.0.changed.notify_all();
            return Err(StoreError::Io("the disk is full".into()));
        }
        for change in changes {
            let key = (change.table.to_owned(), change.key.clone());
            match &change.value {
                Some(value) => state.records.insert(key, value.clone()),
                None => state.records.remove(&key),
            };
        }
        state.commits += 1;
        Ok(())
    }
}

/// The state that survives a server: its store, and an engine that keeps the records of its checkpoints.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) store: MemoryStore,
    pub(crate) clock: ManualClock,
    engine: Arc<KeepingEngine>,
}

#[derive(Debug)]
struct KeepingEngine {
    inner: Arc<ScriptedEngine>,
    checkpoints: Arc<Mutex<BTreeMap<String, CheckpointRecord>>>,
}

impl Default for KeepingEngine {
    fn default() -> Self {
        Self {
            inner: Arc::new(ScriptedEngine::new(Script::default())),
            checkpoints: Arc::default(),
        }
    }
}

impl Engine for KeepingEngine {
    fn models(&self) -> Vec<BaseModel> {
        self.inner.models()
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        let all = self.checkpoints.lock().unwrap();
        Ok(all.values().cloned().collect())
    }

    fn start(&self, job: Job, done: JobCallback) {
        let checkpoints = Arc::clone(&self.checkpoints);
        let done = match &job.work {
            Work::Save { record, .. } | Work::CopyCheckpoint { record, .. } => {
                let mut record = record.clone();
                JobCallback::new(move |outcome| {
                    if let Ok(Outcome::Saved { size_bytes }) = outcome {
                        record.size_bytes = size_bytes;
                        let path = record.path.to_string();
                        checkpoints.lock().unwrap().insert(path, record);
                    }
                    done.finish(outcome);
                })
            }
            Work::DeleteCheckpoint { path } => {
                checkpoints.lock().unwrap().remove(path.as_str());
                done
            }
            _ => done,
        };
        self.inner.start(job, done);
    }
}

impl Machine {
    /// Starts a server.
    pub(crate) fn start(&self) -> TestServer {
        server_with(&self.store, &self.engine, &self.clock)
    }
}

fn server_with(
    store: &MemoryStore,
    engine: &Arc<KeepingEngine>,
    clock: &ManualClock,
) -> TestServer {
    let spawn = Arc::new(TokioSpawn::new(tokio::runtime::Handle::current()));
    let runs = Arc::<KeepingEngine>::clone(engine);
    let server = LocalServer::builder(runs, Arc::new(clock.clone()), spawn)
        .store(store.clone())
        .build()
        .expect("the records can be read");
    TestServer {
        clock: clock.clone(),
        engine: Arc::clone(&engine.inner),
        client: InProcess::new(server),
        faults: tinkers_local::Faults::new(),
        journal: tinkers_local::Journal::new(),
    }
}

/// Starts a server with an empty store. Returns the store, too.
pub(crate) fn server() -> (TestServer, MemoryStore) {
    let machine = Machine::default();
    (machine.start(), machine.store)
}
