//! Tests of the engine through the `Engine` trait of the embedded server.

mod closing;
mod samples;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tinkers_engine::{ModelEngine, builtin};
use tinkers_local::engine::{
    CheckpointRecord, Engine, EngineError, Job, JobCallback, JobId, Outcome, Overwrite,
    SamplerWeights, Work,
};
use tinkers_wire::{
    AdamParams, CheckpointKind, Datum, FailureCategory, LoraConfig, Loss, LossFn, ModelInput,
    PassMode, SampleRequest, SampleResponse, SamplingParams, Stop, StopReason, TensorData,
    TinkerPath,
};

type JobResult = Result<Outcome, EngineError>;

/// An engine with a counter for job ids.
struct TestEngine {
    engine: ModelEngine,
    next: AtomicU64,
}

impl TestEngine {
    fn new(dir: &Path) -> Self {
        Self {
            engine: ModelEngine::builtin(dir).unwrap(),
            next: AtomicU64::new(1),
        }
    }

    fn start(&self, work: Work) -> (JobId, Receiver<JobResult>) {
        let id = JobId(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = channel();
        let done = JobCallback::new(move |ended| {
            let _ = sender.send(ended);
        });
        self.engine.start(Job { id, work }, done);
        (id, receiver)
    }

    fn run(&self, work: Work) -> JobResult {
        wait(&self.start(work).1)
    }

    fn create(&self, model: &str) {
        let work = Work::CreateModel {
            model: model.into(),
            base_model: builtin::NAME.into(),
            lora: LoraConfig::rank(4).seed(1),
        };
        assert_eq!(self.run(work), Ok(Outcome::Done));
    }

    fn pass(
        &self,
        model: &str,
        mode: PassMode,
        data: Vec<Datum>,
        loss: impl Into<Loss>,
    ) -> JobResult {
        self.run(Work::Pass {
            model: model.into(),
            mode,
            data,
            loss: loss.into(),
        })
    }

    /// Takes optimizer steps and returns the loss before each of them.
    fn train(&self, model: &str, steps: usize) -> Vec<f64> {
        (0..steps)
            .map(|_| {
                let data = vec![text("the Rays of Light are refracted")];
                let mode = PassMode::ForwardBackward;
                let output = match self.pass(model, mode, data, LossFn::CrossEntropy) {
                    Ok(Outcome::Pass(output)) => output,
                    other => panic!("{other:?}"),
                };
                let params = AdamParams::new(1e-2);
                let model = model.into();
                match self.run(Work::OptimStep { model, params }) {
                    Ok(Outcome::Step(step)) => assert!(step.metrics["grad_norm:mean"] > 0.0),
                    other => panic!("{other:?}"),
                }
                output.loss_sum().unwrap()
            })
            .collect()
    }

    fn save(&self, model: &str, kind: CheckpointKind, name: &str, over: Overwrite) -> JobResult {
        let record = CheckpointRecord {
            path: path(model, kind, name),
            base_model: builtin::NAME.into(),
            base_fingerprint: None,
            lora: LoraConfig::rank(4),
            saved_at: 12.5,
            expires_at: Some(99.0),
            size_bytes: 0,
            user_metadata: Some([("note".to_owned(), "ü".to_owned())].into()),
            run_metadata: None,
            owner: None,
            public: false,
            project_id: None,
        };
        self.run(Work::Save {
            model: model.into(),
            record,
            overwrite: over,
        })
    }

    fn sample(&self, weights: SamplerWeights, request: SampleRequest) -> SampleResponse {
        match self.run(sample(weights, request)) {
            Ok(Outcome::Sampled(response)) => response,
            other => panic!("{other:?}"),
        }
    }
}

fn wait(receiver: &Receiver<JobResult>) -> JobResult {
    let timeout = Duration::from_secs(120);
    receiver.recv_timeout(timeout).expect("the job ends")
}

fn refused(ended: JobResult) -> String {
    let error = ended.expect_err("the job is refused");
    assert_eq!(error.category, FailureCategory::User, "{error}");
    error.message
}

fn path(model: &str, kind: CheckpointKind, name: &str) -> TinkerPath {
    TinkerPath::new(model, kind, name).unwrap()
}

fn tokens(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn text(text: &str) -> Datum {
    let tokens = tokens(text);
    Datum::next_token(&tokens, vec![1.0; tokens.len() - 1]).unwrap()
}

fn sample(weights: SamplerWeights, request: SampleRequest) -> Work {
    Work::Sample {
        weights,
        request: Box::new(request),
    }
}

fn request(max_tokens: u32) -> SampleRequest {
    SampleRequest {
        prompt: ModelInput::from_tokens(tokens("And he said")),
        num_samples: Some(2),
        sampling_params: SamplingParams::new().max_tokens(max_tokens).seed(3),
        ..SampleRequest::default()
    }
}

#[test]
fn engine_trains_saves_and_samples() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    test.create("s:train:0");
    let losses = test.train("s:train:0", 8);
    assert!(losses[7] < 0.7 * losses[0], "{losses:?}");

    let training = CheckpointKind::Training;
    let saved = test
        .save("s:train:0", training, "a", Overwrite::Refuse)
        .unwrap();
    let Outcome::Saved { size_bytes } = saved else {
        panic!("{saved:?}");
    };
    test.save("s:train:0", CheckpointKind::Sampler, "a", Overwrite::Refuse)
        .unwrap();
    let again = refused(test.save("s:train:0", training, "a", Overwrite::Refuse));
    assert!(again.contains("is already saved"), "{again}");
    test.save("s:train:0", training, "a", Overwrite::Replace)
        .unwrap();

    let snapshot = Work::Snapshot {
        model: "s:train:0".into(),
        sampler: "s:sample:0".into(),
    };
    assert_eq!(test.run(snapshot), Ok(Outcome::Done));
    let sampler = path("s:train:0", CheckpointKind::Sampler, "a");
    let from_snapshot = test.sample(SamplerWeights::Snapshot("s:sample:0".into()), request(30));
    let from_file = test.sample(SamplerWeights::Checkpoint(sampler), request(30));
    assert_eq!(from_snapshot, from_file);
    let base = test.sample(SamplerWeights::Base(builtin::NAME.into()), request(30));
    assert_ne!(base.sequences[0].tokens, from_file.sequences[0].tokens);

    // Another engine with the same directory lists both checkpoints and resumes training from one.
    let next = test.train("s:train:0", 2);
    drop(test);
    let test = TestEngine::new(dir.path());
    let records = test.engine.checkpoints().unwrap();
    assert_eq!(records.len(), 2);
    let record = records
        .iter()
        .find(|r| r.path.kind() == Some(training))
        .unwrap();
    assert_eq!(record.size_bytes, size_bytes);
    assert_eq!(record.user_metadata.as_ref().unwrap()["note"], "ü");
    assert_eq!((record.saved_at, record.expires_at), (12.5, Some(99.0)));
    for optimizer in [true, false] {
        let work = Work::CreateFromCheckpoint {
            model: "s2:train:0".into(),
            path: record.path.clone(),
            optimizer,
        };
        assert_eq!(test.run(work), Ok(Outcome::Done));
        assert_eq!(test.train("s2:train:0", 2) == next, optimizer);
    }
    let work = Work::DeleteCheckpoint {
        path: record.path.clone(),
    };
    assert_eq!(test.run(work.clone()), Ok(Outcome::Done));
    assert_eq!(test.run(work), Ok(Outcome::Done));
    assert_eq!(test.engine.checkpoints().unwrap().len(), 1);
}

#[test]
fn models_with_the_same_base_model_train_independently() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    test.create("a");
    test.create("b");
    let alone = {
        let other = tempfile::tempdir().unwrap();
        let test = TestEngine::new(other.path());
        test.create("b");
        test.train("b", 2)
    };
    test.train("a", 3);
    assert_eq!(test.train("b", 2), alone);
}

#[test]
fn every_loss_returns_logprobs_losses_and_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    test.create("m");
    let observed = tokens("Behold");
    let len = observed.len();
    let policy = || {
        Datum::new(&observed[..])
            .with("target_tokens", TensorData::tokens(&observed))
            .with("logprobs", vec![-2.0f32; len])
            .with("advantages", vec![1.0f32; len])
    };
    let unweighted =
        || Datum::new(&observed[..]).with("target_tokens", TensorData::tokens(&observed));
    for (loss, datum) in [
        (LossFn::CrossEntropy, unweighted()),
        (LossFn::ImportanceSampling, policy()),
        (LossFn::Ppo, policy()),
        (LossFn::Cispo, policy()),
        (LossFn::Dro, policy()),
    ] {
        let compared = loss != LossFn::CrossEntropy;
        let ended = test.pass("m", PassMode::ForwardBackward, vec![datum], loss.clone());
        let Ok(Outcome::Pass(output)) = ended else {
            panic!("{loss}: {ended:?}");
        };
        let outputs = &output.loss_fn_outputs[0];
        assert_eq!(outputs["logprobs"].shape(), [len]);
        let losses = outputs["elementwise_loss"].as_f32().unwrap();
        let sum: f64 = losses.iter().map(|&x| f64::from(x)).sum();
        assert!((sum - output.loss_sum().unwrap()).abs() < 1e-3, "{loss}");
        assert_eq!(
            output.metrics.contains_key("ratio:mean"),
            compared,
            "{loss}"
        );
        let work = Work::OptimStep {
            model: "m".into(),
            params: AdamParams::new(1e-3),
        };
        let Ok(Outcome::Step(step)) = test.run(work) else {
            panic!("{loss}");
        };
        assert!(step.metrics["grad_norm:mean"] > 0.0, "{loss}");
    }
}

#[test]
fn error_names_the_invalid_input_field() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    test.create("m");
    let forward = |datum: Datum, loss: Loss| {
        refused(test.pass("m", PassMode::Forward, vec![text("fine"), datum], loss))
    };
    let cross = || Loss::from(LossFn::CrossEntropy);
    let bare = || Datum::new(&[1u32, 2, 3][..]);
    let targets = |ids: Vec<i64>| bare().with("target_tokens", TensorData::i64(ids));
    for (datum, loss, field) in [
        (bare(), cross(), "data[1].loss_fn_inputs.target_tokens"),
        (
            targets(vec![1, 2]),
            cross(),
            "data[1].loss_fn_inputs.target_tokens",
        ),
        (
            targets(vec![1, 2, 264]),
            cross(),
            "data[1].loss_fn_inputs.target_tokens",
        ),
        (
            targets(vec![1, 2, -7]),
            cross(),
            "data[1].loss_fn_inputs.target_tokens",
        ),
        (
            targets(vec![1, 2, 3]).with("weights", vec![1.0f32]),
            cross(),
            "data[1].loss_fn_inputs.weights",
        ),
        (
            targets(vec![1, 2, 3]).with("weights", vec![1.0, f32::NAN, 1.0]),
            cross(),
            "data[1].loss_fn_inputs.weights",
        ),
        (
            targets(vec![1, 2, 3]),
            LossFn::Ppo.into(),
            "data[0].loss_fn_inputs.weights",
        ),
        (
            targets(vec![1, 2, 3]).with("mask", vec![0.0f32; 3]),
            cross(),
            "data[1].loss_fn_inputs.mask",
        ),
        (text("ab"), LossFn::Gspo.into(), "loss_fn"),
        (text("ab"), cross().with("beta", 1.0), "loss_fn_config.beta"),
        (text("ab"), cross().with("beta", "x"), "loss_fn_config.beta"),
        (
            Datum::new(&[900u32][..]).with("target_tokens", vec![1i64]),
            cross(),
            "data[1].model_input",
        ),
    ] {
        let message = forward(datum, loss);
        assert!(message.starts_with(field), "{message}");
    }
    let targets_alone = vec![targets(vec![1, 2, 3])];
    let message = refused(test.pass("m", PassMode::Forward, targets_alone, LossFn::Ppo));
    assert!(
        message.starts_with("data[0].loss_fn_inputs.logprobs"),
        "{message}"
    );
    let unknown = refused(test.pass("gone", PassMode::Forward, vec![text("ab")], cross()));
    assert!(unknown.contains("\"gone\""), "{unknown}");
    let absent = path("m", CheckpointKind::Training, "absent");
    let work = Work::LoadCheckpoint {
        model: "m".into(),
        path: absent,
        optimizer: false,
    };
    assert!(refused(test.run(work)).contains("the file is missing"));
    let gone = sample(SamplerWeights::Snapshot("gone".into()), request(1));
    assert!(refused(test.run(gone)).contains("\"gone\""));
    let other = sample(SamplerWeights::Base("other".into()), request(1));
    assert!(refused(test.run(other)).starts_with("base_model"));
}

#[test]
fn each_option_of_a_sample_request_takes_effect() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    let base = || SamplerWeights::Base(builtin::NAME.into());
    let prompt = tokens("And he said");
    let asked: Vec<i64> = prompt[1..]
        .iter()
        .flat_map(|&t| [i64::from(t), -1])
        .collect();
    let shape = vec![prompt.len() - 1, 2];
    let values = tinkers_wire::TensorValues::I64(asked.into());
    let mut wanted = request(4);
    wanted.prompt_logprobs = Some(true);
    wanted.prompt_logprobs_last_n = Some(3);
    wanted.topk_prompt_logprobs = Some(2);
    wanted.topk_sample_logprobs = Some(3);
    wanted.target_prompt_logprobs = Some(TensorData::dense(values, shape.clone()).unwrap());
    let response = test.sample(base(), wanted);
    let own = response.prompt_logprobs.unwrap();
    assert_eq!(own.len(), prompt.len());
    let last = own.len() - 3;
    assert!(own[..last].iter().all(Option::is_none) && own[last..].iter().all(Option::is_some));
    let top = response.topk_prompt_logprobs.unwrap();
    assert_eq!(
        (top.len(), top.row(0).count(), top.row(1).count()),
        (prompt.len(), 0, 2)
    );
    let targets = response.target_prompt_logprobs.unwrap();
    assert_eq!(targets.shape(), shape);
    let targets = targets.as_f32().unwrap();
    assert!(targets.iter().skip(1).step_by(2).all(|p| *p == 0.0));
    assert_eq!(
        targets[2 * (prompt.len() - 2)],
        own[prompt.len() - 1].unwrap()
    );
    for sequence in &response.sequences {
        assert_eq!(sequence.stop_reason, StopReason::Length);
        assert_eq!(sequence.logprobs.as_ref().unwrap().len(), 4);
        assert_eq!(sequence.topk_logprobs.as_ref().unwrap().row(3).count(), 3);
    }

    let mut stopped = request(200);
    stopped.sampling_params.stop = Some(Stop::from(" "));
    for sequence in test.sample(base(), stopped).sequences {
        assert_eq!(sequence.stop_reason, StopReason::Stop);
        assert_eq!(sequence.tokens.last(), Some(&32));
    }
    let mut endless = request(600);
    endless.sampling_params.stop = Some(Stop::Texts(Vec::new()));
    for sequence in test.sample(base(), endless).sequences {
        assert_eq!(
            (sequence.stop_reason, sequence.tokens.len()),
            (StopReason::Length, 600)
        );
    }
    // Requests without a seed have different seeds.
    let mut free = request(20);
    free.sampling_params.seed = None;
    let (one, two) = (test.sample(base(), free.clone()), test.sample(base(), free));
    assert_ne!(one.sequences[0].tokens, two.sequences[0].tokens);
}
