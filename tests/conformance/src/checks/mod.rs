//! The checks, in the order of execution.

mod errors;
mod load;
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
    /// The checks of all features of the API, including those of [`Profile::Core`].
    Full,
}

impl Profile {
    /// Returns whether a run of this profile includes the checks of the profile `other`.
    pub fn includes(self, other: Self) -> bool {
        self == Self::Full || other == Self::Core
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
    ($($profile:ident $name:literal $about:literal $module:ident::$function:ident;)*) => {
        const CHECKS: &[Check] = &[$(Check {
            name: $name,
            about: $about,
            profile: Profile::$profile,
            run: |context| Box::pin($module::$function(context)),
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
}

/// Returns all conformance checks in the order in which they run.
pub fn checks() -> &'static [Check] {
    CHECKS
}
