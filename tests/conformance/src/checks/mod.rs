//! The checks, in the order of execution.

mod errors;
mod load;
mod rest;
mod retry;
mod sampling;
mod session;
mod state;
pub(crate) mod text;
mod training;

use std::fmt;

use tinkers::transport::BoxFuture;

use crate::context::Context;
use crate::verdict::CheckResult;

/// A set of conformance checks to run against a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The checks of the features that every training loop needs.
    Core,
    /// The checks of all features of training and sampling, including those of [`Profile::Core`].
    Full,
    /// The checks of the management of sessions, runs and checkpoints, and of usage, storage and
    /// logs. No other profile includes them: they publish a checkpoint for a short time and, with
    /// a project, move a session to it for good.
    Rest,
}

impl Profile {
    /// Returns whether a run of this profile includes the checks of the profile `other`.
    pub fn includes(self, other: Self) -> bool {
        match self {
            Self::Core | Self::Rest => other == self,
            Self::Full => other != Self::Rest,
        }
    }
}

/// A conformance check of one feature of the server.
#[derive(Clone, Copy)]
pub struct Check {
    /// The name of the check in reports.
    pub name: &'static str,
    /// The behaviour that the check expects from the server.
    pub about: &'static str,
    /// The smallest profile whose runs include the check.
    pub profile: Profile,
    /// The function that runs the check.
    pub run: fn(&Context) -> BoxFuture<'_, CheckResult>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

macro_rules! checks {
    ($($profile:ident $name:literal $about:literal $function:path;)*) => {
        const CHECKS: &[Check] = &[$(Check {
            name: $name,
            about: $about,
            profile: Profile::$profile,
            run: |context| Box::pin($function(context)),
        }),*];
    };
}

checks! {
    Core "session" "a session opens and accepts heartbeats, and a second session can exist at the same time" session::session;
    Core "capabilities" "the server lists the base model" session::capabilities;
    Core "create_model" "a LoRA model of the base model is created, and its info names the base model" training::create_model;
    Core "train_loss_falls" "passes and steps on four short texts lower the loss" training::loss_falls;
    Core "forward" "a forward pass returns log-probabilities and adds no gradients" training::forward;
    Core "order" "pipelined calls give the same results as sequential calls" training::order;
    Core "idempotent_retry" "a pass whose reply is lost adds its gradients once, or ends with OutcomeUnknown" retry::idempotent;
    Core "save_load" "loading a saved state restores the weights" state::save_load;
    Core "resume" "a new session resumes from a saved state" state::resume;
    Core "sample" "a sample of the base model has tokens and log-probabilities" sampling::base;
    Core "sample_saved" "weights saved for sampling can be sampled" sampling::saved;
    Core "sample_seed" "the same seed gives the same tokens" sampling::seed;
    Core "logprobs_agree" "sampling, compute_logprobs and forward agree on log-probabilities" sampling::agree;
    Core "large_batch" "a batch of 256 data and 64 concurrent samples return complete results in order" load::large_batch;
    Core "cancel" "cancelled calls do not affect other calls" load::cancel;
    Core "errors" "invalid requests are refused with a reason" errors::errors;
    Full "unnamed_sampler" "weights saved without a name can be sampled" sampling::unnamed;
    Full "greedy" "temperature 0 selects the most likely token" sampling::greedy;
    Full "stop_tokens" "a stop token ends a sequence" sampling::stop_tokens;
    Full "num_samples" "several sequences are sampled for one prompt" sampling::several;
    Full "topk_logprobs" "the most likely tokens are returned for each position of the prompt" sampling::topk;
    Full "policy_losses" "importance_sampling and ppo accept log-probabilities and advantages" training::policy_losses;
    Full "resume_optimizer" "a resumed model continues with the optimizer state" state::resume_optimizer;
    Full "list_checkpoints" "a saved state is listed among the checkpoints of its run" state::listed;
    Full "overwrite" "a second save with the same name is refused, unless it overwrites" state::overwrite;
    Full "unload" "a model can be unloaded" session::unload;
    Full "finish" "a session can be closed" session::finish;
    Rest "session_info" "a session is described with its runs and samplers" rest::sessions::info;
    Rest "list_sessions" "the list of sessions begins with the newest one and comes in pages" rest::sessions::list;
    Rest "search_sessions" "sessions are found by id and status, and the results come in pages" rest::sessions::search;
    Rest "session_project" "a session and its runs move to a project" rest::sessions::project;
    Rest "sampler_info" "a sampler is described with its base model and its weights" rest::sessions::sampler;
    Rest "run_info" "a run is described with its base model and its last checkpoints" rest::runs::info;
    Rest "list_runs" "the list of runs comes in pages and contains each run once" rest::runs::list;
    Rest "run_checkpoints" "the checkpoints of a run are listed with their kinds and times" rest::checkpoints::of_run;
    Rest "user_checkpoints" "the list of all checkpoints comes in pages and contains each checkpoint once" rest::checkpoints::of_user;
    Rest "weights_info" "a checkpoint is described with its base model" rest::checkpoints::weights_info;
    Rest "search_checkpoints" "checkpoints are found by metadata, kind and base model, and the results come in pages" rest::checkpoints::search;
    Rest "publish" "a checkpoint is published and unpublished once; a repetition is a conflict" rest::changes::publish;
    Rest "ttl" "the time of expiry is set, moved and removed, and a time below one hour is refused" rest::changes::ttl;
    Rest "delete" "a deleted checkpoint is neither listed nor loaded, and others remain" rest::changes::delete;
    Rest "delete_missing" "the deletion of a checkpoint that does not exist is refused with 404" rest::changes::delete_missing;
    Rest "copy" "a copy of a checkpoint belongs to the project, expires, and outlives its source" rest::changes::copy;
    Rest "whoami" "the token for which the server exchanges the API key names the user" rest::account::whoami;
    Rest "usage" "the usage per hour contains the tokens of training and sampling" rest::account::usage;
    Rest "storage" "the storage grows with a saved checkpoint and shrinks with its deletion" rest::account::storage;
    Rest "audit" "the audit log of the day contains the changes of a checkpoint" rest::account::audit;
    Rest "trace" "the trace of a session is exported to an address that needs no credential" rest::account::trace;
}

/// Returns all conformance checks in the order in which they run.
pub fn checks() -> &'static [Check] {
    CHECKS
}
