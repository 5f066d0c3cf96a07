//! The checks, in the order in which they run.

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
use crate::verdict::Findings;

/// Which checks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What every training loop needs.
    Core,
    /// The rest of the API too.
    Full,
}

impl Profile {
    /// Whether a check of `other` belongs to it.
    pub fn has(self, other: Self) -> bool {
        self == Self::Full || other == Self::Core
    }
}

/// One check.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its name, a word of the matrix.
    pub name: &'static str,
    /// What passes.
    pub about: &'static str,
    /// The smallest profile that has it.
    pub profile: Profile,
    /// The check itself.
    pub run: fn(&Context) -> BoxFuture<'_, Findings>,
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
    Core "session" "a session is opened, is kept alive, and a second one lives beside it" session::session;
    Core "capabilities" "the server lists the base model" session::capabilities;
    Core "create_model" "a LoRA model is made over the base model, and described" training::create_model;
    Core "train_loss_falls" "passes and steps on four short texts make their loss fall" training::loss_falls;
    Core "forward" "a forward pass gives log-probabilities and adds no gradient" training::forward;
    Core "order" "calls that are sent ahead give what they give one by one" training::order;
    Core "idempotent_retry" "a pass whose reply is lost adds its gradient once, or its outcome is said to be unknown" retry::idempotent;
    Core "save_load" "a saved state is what a model has after loading it" state::save_load;
    Core "resume" "a new session goes on from a saved state" state::resume;
    Core "sample" "a sample from the base model has tokens and their log-probabilities" sampling::base;
    Core "sample_saved" "weights saved for sampling are sampled from" sampling::saved;
    Core "sample_seed" "the same seed gives the same tokens" sampling::seed;
    Core "logprobs_agree" "sampling, compute_logprobs and forward agree on log-probabilities" sampling::agree;
    Core "large_batch" "a batch of 256 data, and 64 samples at once, come back whole and in order" load::large_batch;
    Core "cancel" "samples that are given up disturb nothing" load::cancel;
    Core "errors" "what cannot be done is an error that says why, and soon" errors::errors;
    Full "unnamed_sampler" "unnamed weights are sampled from" sampling::unnamed;
    Full "greedy" "temperature 0 takes the likeliest token" sampling::greedy;
    Full "stop_tokens" "a stop token ends a sequence" sampling::stop_tokens;
    Full "num_samples" "several sequences of one prompt" sampling::several;
    Full "topk_logprobs" "the likeliest tokens at each position of the prompt" sampling::topk;
    Full "policy_losses" "importance_sampling and ppo take what sampling gives" training::policy_losses;
    Full "resume_optimizer" "a resumed model goes on as if it had not been interrupted" state::resume_optimizer;
    Full "list_checkpoints" "a saved state is listed under its run" state::listed;
    Full "overwrite" "a name is taken once, and replaced on demand" state::overwrite;
    Full "unload" "a model is freed" session::unload;
    Full "finish" "a session is ended, and its end is told" session::finish;
}

/// All checks, in order.
pub fn checks() -> &'static [Check] {
    CHECKS
}
