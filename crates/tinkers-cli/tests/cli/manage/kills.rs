//! `tinkers serve` is killed again and again during random management calls. Nothing that it has acknowledged is lost or doubled.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::program::Program;
use crate::raw_http::request;

/// The number of calls in all.
const CALLS: usize = 200;
/// The number of threads that call at the same time, each with a session and a checkpoint of its own.
const THREADS: usize = 4;

/// What a thread knows about its session and its checkpoint. Each list has the values that the server may have: more than one if the last
/// change was not acknowledged.
#[derive(Debug)]
struct Known {
    session: String,
    run: String,
    public: Vec<bool>,
    ttl: Vec<Option<u64>>,
    project: Vec<String>,
    /// The acknowledged copies.
    copies: Vec<String>,
    /// The copies whose deletion was sent but not acknowledged.
    perhaps_deleted: Vec<String>,
    unacknowledged_copies: usize,
    /// The numbers of acknowledged and of unacknowledged changes, by the name of the event in the audit log.
    events: BTreeMap<&'static str, (usize, usize)>,
}

/// A generator of random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }
}

/// Applies the outcome of a change to the values that the server may have.
fn changed<T>(values: &mut Vec<T>, new: T, is_acknowledged: bool) {
    if is_acknowledged {
        values.clear();
    }
    values.push(new);
}

impl Known {
    fn checkpoint(&self, last: &str) -> String {
        format!("training_runs/{}/checkpoints/weights/base/{last}", self.run)
    }

    fn count(&mut self, event: &'static str, is_acknowledged: bool) {
        let (acknowledged, other) = self.events.entry(event).or_default();
        *if is_acknowledged { acknowledged } else { other } += 1;
    }

    /// Makes a random change. Returns whether the server acknowledged it.
    fn change(&mut self, address: &str, random: &mut Random) -> bool {
        match random.below(5) {
            // The state is known, since the thread asks for it after each restart.
            0 => {
                let public = !self.public[0];
                let (method, event) = match public {
                    true => ("POST", "checkpoint_published"),
                    false => ("DELETE", "checkpoint_unpublished"),
                };
                let sent = request(address, method, &self.checkpoint("publish"), &json!({}));
                let done = acknowledged(sent.as_ref());
                changed(&mut self.public, public, done);
                self.count(event, done);
                done
            }
            1 => {
                let ttl = 3600 * (1 + random.below(1000));
                let body = json!({ "ttl_seconds": ttl });
                let sent = request(address, "PUT", &self.checkpoint("ttl"), &body);
                let done = acknowledged(sent.as_ref());
                changed(&mut self.ttl, Some(ttl), done);
                self.count("checkpoint_ttl_set", done);
                done
            }
            2 => {
                let project = format!("project-{}", random.below(1_000_000));
                let path = format!("sessions/{}/project", self.session);
                let body = json!({ "project_id": project });
                let sent = request(address, "PUT", &path, &body);
                let done = acknowledged(sent.as_ref());
                changed(&mut self.project, project, done);
                self.count("session_project_assigned", done);
                done
            }
            3 if !self.copies.is_empty() => {
                let at = random.below(self.copies.len() as u64) as usize;
                let copy = self.copies.swap_remove(at);
                let path = copy.strip_prefix("tinker://").unwrap();
                let (run, id) = path.split_once('/').unwrap();
                let path = format!("training_runs/{run}/checkpoints/{id}");
                let sent = request(address, "DELETE", &path, &json!({}));
                let done = acknowledged(sent.as_ref());
                if !done {
                    self.perhaps_deleted.push(copy);
                }
                self.count("checkpoint_deleted", done);
                done
            }
            _ => {
                let source = format!("tinker://{}/weights/base", self.run);
                let body = json!({ "source_path": source, "destination_project_id": "copies" });
                let sent = request(address, "POST", "copy_weights", &body);
                let done = acknowledged(sent.as_ref());
                match sent.filter(|_| done) {
                    Some((_, new)) => {
                        let path = new["tinker_path"].as_str().unwrap();
                        self.copies.push(path.to_owned());
                    }
                    None => self.unacknowledged_copies += 1,
                }
                self.count("checkpoint_copied", done);
                done
            }
        }
    }

    /// Compares what the server has with what it may have, and takes over what it has.
    fn check(&mut self, address: &str, checkpoints: &BTreeMap<String, Value>) {
        let path = format!("tinker://{}/weights/base", self.run);
        let base = &checkpoints[&path];
        let public = base["public"].as_bool().unwrap();
        assert!(self.public.contains(&public), "{public}: {self:?}");
        self.public = vec![public];
        let is_known = self
            .ttl
            .iter()
            .any(|ttl| ttl.is_some() == base["expires_at"].is_string());
        assert!(is_known, "{base}: {self:?}");
        let (_, found) = request(address, "POST", "sessions/search", &json!({
            "session_id": self.session, "user_metadata": {}, "owner": { "type": "own" }, "limit": 1,
        }))
        .unwrap();
        let project = found["sessions"][0]["project_id"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(self.project.contains(&project), "{project}: {self:?}");
        self.project = vec![project];
        for copy in &self.copies {
            assert!(checkpoints.contains_key(copy), "{copy} is lost: {self:?}");
        }
    }
}

/// Returns whether the server has acknowledged a change. Panics if it has refused it.
fn acknowledged(response: Option<&(u16, Value)>) -> bool {
    match response {
        None => false,
        Some((status, body)) => {
            assert!((200..300).contains(status), "{status}: {body}");
            true
        }
    }
}

fn serve(home: &std::path::Path) -> (Program, String) {
    let data = home.join("data");
    let serve = ["serve", "--port", "0", "--data-dir", data.to_str().unwrap()];
    let mut program = Program::start(home, &serve);
    let url = program.line("listening on ");
    let address = url.strip_prefix("http://").unwrap().to_owned();
    (program, address)
}

/// Creates a session with a model and a checkpoint.
fn create(address: &str) -> Known {
    let post = |path: &str, body: &Value| request(address, "POST", path, body).unwrap().1;
    let result = |submitted: &Value| {
        loop {
            let body = json!({ "request_id": submitted["request_id"] });
            let found = post("retrieve_future", &body);
            if found["type"] != "try_again" {
                return found;
            }
        }
    };
    let session = post(
        "create_session",
        &json!({ "tags": [], "sdk_version": "0.38.0", "project_id": "first" }),
    );
    let session = session["session_id"].as_str().unwrap().to_owned();
    let model = json!({
        "session_id": session, "model_seq_id": 0, "base_model": "tinkers/tiny", "lora_config": { "rank": 1 },
    });
    let created = result(&post("create_model", &model));
    let run = created["model_id"].as_str().unwrap().to_owned();
    let save = json!({ "model_id": run, "seq_id": 1, "path": "base" });
    let saved = result(&post("save_weights", &save));
    assert!(saved["path"].is_string(), "{saved}");
    Known {
        session,
        run,
        public: vec![false],
        ttl: vec![None],
        project: vec!["first".to_owned()],
        copies: Vec::new(),
        perhaps_deleted: Vec::new(),
        unacknowledged_copies: 0,
        events: BTreeMap::new(),
    }
}

/// Returns all checkpoints by their paths. Fails if a path is listed twice.
fn checkpoints(address: &str) -> BTreeMap<String, Value> {
    let (_, found) = request(address, "GET", "checkpoints?limit=10000", &json!({})).unwrap();
    let all = found["checkpoints"].as_array().unwrap().iter();
    let mut listed = BTreeMap::new();
    for one in all {
        let path = one["tinker_path"].as_str().unwrap().to_owned();
        assert!(
            listed.insert(path, one.clone()).is_none(),
            "listed twice: {one}"
        );
    }
    listed
}

/// Returns the audit log since a day, which may have ended during the test.
fn entries(address: &str, first_day: &str) -> Vec<Value> {
    let of = |query: &str| {
        let (_, log) = request(address, "GET", &format!("audit{query}"), &json!({})).unwrap();
        log["entries"].as_array().unwrap().clone()
    };
    let mut first = of(&format!("?day={first_day}"));
    let today = of("");
    if today != first {
        first.extend(today);
    }
    first
}

#[test]
fn killed_server_loses_and_doubles_no_acknowledged_change() {
    let home = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    let (mut program, mut address) = serve(home.path());
    let mut threads: Vec<Known> = (0..THREADS).map(|_| create(&address)).collect();
    let first = checkpoints(&address).into_values().next().unwrap();
    let first_day = first["time"].as_str().unwrap()[..10].to_owned();
    let (mut calls, mut kills) = (0, 0);
    while calls < CALLS {
        // The server is killed while the threads wait for responses.
        let until = 10 + random.below(30) as usize;
        let answered = AtomicUsize::new(0);
        let sent = AtomicUsize::new(0);
        let program_to_kill = Mutex::new(Some(program));
        std::thread::scope(|scope| {
            for known in &mut threads {
                let mut random = Random(random.below(u64::MAX));
                let (address, answered, sent, program) =
                    (&address, &answered, &sent, &program_to_kill);
                scope.spawn(move || {
                    loop {
                        sent.fetch_add(1, Ordering::SeqCst);
                        if !known.change(address, &mut random) {
                            return;
                        }
                        if answered.fetch_add(1, Ordering::SeqCst) + 1 == until {
                            // Dropping the program kills the process with SIGKILL.
                            drop(program.lock().unwrap().take());
                        }
                    }
                });
            }
        });
        calls += sent.load(Ordering::SeqCst);
        kills += 1;
        (program, address) = serve(home.path());
        let listed = checkpoints(&address);
        for known in &mut threads {
            known.check(&address, &listed);
        }
        let least: usize = threads.iter().map(|known| known.copies.len()).sum();
        let open = threads
            .iter()
            .map(|known| known.unacknowledged_copies + known.perhaps_deleted.len());
        let most = least + open.sum::<usize>();
        let copies = listed
            .keys()
            .filter(|path| path.starts_with("tinker://copy-"))
            .count();
        assert!(
            (least..=most).contains(&copies),
            "{copies}, not {least} to {most}"
        );
    }
    let entries = entries(&address, &first_day);
    for event in [
        "checkpoint_published",
        "checkpoint_unpublished",
        "checkpoint_ttl_set",
        "session_project_assigned",
        "checkpoint_deleted",
        "checkpoint_copied",
    ] {
        let counts = threads.iter().filter_map(|known| known.events.get(event));
        let (least, open) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let logged = entries
            .iter()
            .filter(|entry| entry["event"] == event)
            .count();
        assert!(least > 0, "no {event} was acknowledged");
        let expected = least..=least + open;
        assert!(
            expected.contains(&logged),
            "{event}: {logged} logged, not {expected:?}"
        );
    }
    assert!(kills >= 5, "{kills} kills");
    drop(program);
}
