//! The routes of the API, in one table: what is served, and what the OpenAPI document tells of it, are both made from it.

use tinkers_wire::CheckpointKind;

/// Makes the table. Every path has one method.
macro_rules! table {
    ($($(#[doc = $doc:literal])+ $route:ident $method:ident $path:literal,)*) => {
        /// A route of the API: a path and the one method that it takes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Route {
            $($(#[doc = $doc])+ $route,)*
        }

        impl Route {
            /// Every route, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$route,)*];

            /// The method.
            pub const fn method(self) -> &'static str {
                match self {
                    $(Self::$route => stringify!($method),)*
                }
            }

            /// What it is for, in a sentence.
            pub(crate) fn summary(self) -> &'static str {
                match self {
                    $(Self::$route => concat!($($doc),+).trim_start(),)*
                }
            }

            /// The path, with names in braces where ids go.
            pub const fn path(self) -> &'static str {
                match self {
                    $(Self::$route => concat!("/api/v1/", $path),)*
                }
            }
        }
    };
}

table! {
    /// Whether the server is up.
    Health GET "healthz",
    /// The models that it offers.
    Capabilities GET "get_server_capabilities",
    /// Flags.
    ClientConfig POST "client/config",
    /// Flags that are refreshed.
    DynamicConfig POST "client/dynamic_config",
    /// Events, which are dropped.
    Telemetry POST "telemetry",
    /// A new session.
    CreateSession POST "create_session",
    /// Keeps a session alive.
    Heartbeat POST "session_heartbeat",
    /// Ends a session.
    FinishSession POST "sessions/{session_id}/finish",
    /// Sessions, the newest first.
    Sessions GET "sessions",
    /// One session.
    Session GET "sessions/{session_id}",
    /// A new model.
    CreateModel POST "create_model",
    /// What is known of a model.
    ModelInfo POST "get_info",
    /// Frees a model.
    UnloadModel POST "unload_model",
    /// A forward pass.
    Forward POST "forward",
    /// A pass that adds gradients, or says that it does not.
    ForwardBackward POST "forward_backward",
    /// An optimizer step.
    OptimStep POST "optim_step",
    /// A training checkpoint.
    SaveWeights POST "save_weights",
    /// Weights to sample from.
    SaveWeightsForSampler POST "save_weights_for_sampler",
    /// A checkpoint into a model.
    LoadWeights POST "load_weights",
    /// What a checkpoint was made of.
    WeightsInfo POST "weights_info",
    /// A new sampler.
    CreateSamplingSession POST "create_sampling_session",
    /// One sampler.
    Sampler GET "samplers/{sampler_id}",
    /// Samples.
    Sample POST "asample",
    /// The result of one operation.
    RetrieveFuture POST "retrieve_future",
    /// What of a sampling session has ended.
    RetrieveFutures POST "retrieve_futures",
    /// Stops a sample that is not wanted any more.
    CancelFuture POST "cancel_future",
    /// Training runs, the last used first.
    TrainingRuns GET "training_runs",
    /// One training run.
    TrainingRun GET "training_runs/{run_id}",
    /// The checkpoints of a run, the newest first.
    RunCheckpoints GET "training_runs/{run_id}/checkpoints",
    /// Deletes a checkpoint, whose id has its slash escaped.
    DeleteEscapedCheckpoint DELETE "training_runs/{run_id}/checkpoints/{checkpoint_id}",
    /// Deletes a checkpoint.
    DeleteCheckpoint DELETE "training_runs/{run_id}/checkpoints/{kind}/{name}",
    /// All checkpoints, the newest first.
    Checkpoints GET "checkpoints",
}

impl Route {
    /// The route of a path below `/api/v1/`, taken apart.
    pub(crate) fn of(segments: &[&str]) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|route| route.fits(segments))
    }

    fn fits(self, segments: &[&str]) -> bool {
        let mut given = segments.iter();
        let mut named = self.segments();
        loop {
            match (named.next(), given.next()) {
                (None, None) => return true,
                (Some(name), Some(segment)) if stands_for(name, segment) => {}
                _ => return false,
            }
        }
    }

    /// The path's parts below `/api/v1/`.
    pub(crate) fn segments(self) -> impl Iterator<Item = &'static str> {
        self.path().split('/').skip(3)
    }
}

/// Whether a part of a route's path can be this one.
fn stands_for(name: &str, segment: &str) -> bool {
    match name {
        "{kind}" => CheckpointKind::from_segment(segment).is_some(),
        // Such ids are not given out, and the service has a route of this name.
        "{session_id}" => segment != "search",
        _ => is_id(name) || name == segment,
    }
}

/// Whether an id stands for this part of a path.
pub(crate) fn is_id(segment: &str) -> bool {
    segment.starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_is_found_by_its_own_path_and_by_no_other() {
        for route in Route::ALL {
            let segments: Vec<&str> = route.segments().collect();
            let segments: Vec<&str> = segments
                .into_iter()
                .map(|segment| match segment {
                    "{kind}" => "weights",
                    other => other,
                })
                .collect();
            assert_eq!(Route::of(&segments), Some(*route));
            let longer: Vec<&str> = segments.iter().copied().chain(["x", "y", "z"]).collect();
            assert_eq!(Route::of(&longer), None, "{route:?}");
        }
        assert_eq!(Route::of(&[]), None);
        assert_eq!(Route::of(&["sessions", "s:1"]), Some(Route::Session));
        assert_eq!(Route::of(&["asample", "x"]), None);
        // Routes of the service that are not served, and that ids must not stand for.
        let checkpoint =
            |last: [&'static str; 2]| [&["training_runs", "a", "checkpoints"][..], &last].concat();
        assert_eq!(Route::of(&["sessions", "search"]), None);
        assert_eq!(Route::of(&checkpoint(["w1", "archive"])), None);
        assert_eq!(Route::of(&checkpoint(["weights/w1", "ttl"])), None);
        let delete = Some(Route::DeleteCheckpoint);
        assert_eq!(Route::of(&checkpoint(["weights", "archive"])), delete);
    }

    #[test]
    fn the_paths_are_those_that_clients_use() {
        let known = tinkers_wire::routes::ALL;
        let served = |path: &str| Route::ALL.iter().any(|route| route.path() == path);
        // Samplers are asked for one at a time.
        let missing: Vec<&str> = known.into_iter().filter(|path| !served(path)).collect();
        assert_eq!(missing, [tinkers_wire::routes::SAMPLERS]);
    }
}
