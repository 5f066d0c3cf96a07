//! The table of routes of the API, from which requests are routed and the OpenAPI document is generated.

use tinkers_wire::CheckpointKind;

/// Defines the enum [`Route`] and its methods from a table with one line per route: its name, its method and its path.
macro_rules! table {
    ($($(#[doc = $doc:literal])+ $route:ident $method:ident $path:literal,)*) => {
        /// A route of the API: a path and its method.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Route {
            $($(#[doc = $doc])+ $route,)*
        }

        impl Route {
            /// All routes of the API.
            pub const ALL: &'static [Self] = &[$(Self::$route,)*];

            /// Returns the HTTP method of the route.
            pub const fn method(self) -> &'static str {
                match self {
                    $(Self::$route => stringify!($method),)*
                }
            }

            /// Returns a description of the route in one sentence, for the OpenAPI document.
            pub(crate) fn summary(self) -> &'static str {
                match self {
                    $(Self::$route => concat!($($doc),+).trim_start(),)*
                }
            }

            /// Returns the path of the route. It contains placeholders in braces for ids, such as `{run_id}`.
            pub const fn path(self) -> &'static str {
                match self {
                    $(Self::$route => concat!("/api/v1/", $path),)*
                }
            }
        }
    };
}

table! {
    /// Returns whether the server is ready.
    Health GET "healthz",
    /// Lists the base models of the server.
    Capabilities GET "get_server_capabilities",
    /// Returns feature flags for the client.
    ClientConfig POST "client/config",
    /// Returns the feature flags that the client refreshes at runtime.
    DynamicConfig POST "client/dynamic_config",
    /// Accepts telemetry events and drops them.
    Telemetry POST "telemetry",
    /// Exchanges the API key of the request for a short-lived token.
    AuthToken POST "auth/token",
    /// Describes the API key of the request. The method DELETE revokes it.
    ApiKey GET "auth/apikey/me",
    /// Creates a session.
    CreateSession POST "create_session",
    /// Keeps a session alive.
    Heartbeat POST "session_heartbeat",
    /// Ends a session.
    FinishSession POST "sessions/{session_id}/finish",
    /// Lists the sessions, the newest session first.
    Sessions GET "sessions",
    /// Describes a session.
    Session GET "sessions/{session_id}",
    /// Returns the address of the trace of a session.
    TraceExport GET "sessions/{session_id}/trace_export",
    /// Searches sessions, the newest session first.
    SearchSessions POST "sessions/search",
    /// Moves a session to a project.
    SessionProject PUT "sessions/{session_id}/project",
    /// Creates a model.
    CreateModel POST "create_model",
    /// Describes a model.
    ModelInfo POST "get_info",
    /// Unloads a model.
    UnloadModel POST "unload_model",
    /// Runs a forward pass.
    Forward POST "forward",
    /// Runs a forward-backward pass, or a forward pass if the body asks for it.
    ForwardBackward POST "forward_backward",
    /// Runs an optimizer step.
    OptimStep POST "optim_step",
    /// Saves a training checkpoint.
    SaveWeights POST "save_weights",
    /// Saves weights for sampling.
    SaveWeightsForSampler POST "save_weights_for_sampler",
    /// Loads a checkpoint into a model.
    LoadWeights POST "load_weights",
    /// Describes a checkpoint.
    WeightsInfo POST "weights_info",
    /// Creates a sampler (a sampling session).
    CreateSamplingSession POST "create_sampling_session",
    /// Describes a sampler.
    Sampler GET "samplers/{sampler_id}",
    /// Samples from a model.
    Sample POST "asample",
    /// Polls for the result of an operation.
    RetrieveFuture POST "retrieve_future",
    /// Polls for the completed samples of a client of a sampling session.
    RetrieveFutures POST "retrieve_futures",
    /// Cancels a sample.
    CancelFuture POST "cancel_future",
    /// Lists the training runs, the most recently used run first.
    TrainingRuns GET "training_runs",
    /// Describes a training run.
    TrainingRun GET "training_runs/{run_id}",
    /// Lists the checkpoints of a training run, the newest checkpoint first.
    RunCheckpoints GET "training_runs/{run_id}/checkpoints",
    /// Publishes a checkpoint. The method DELETE unpublishes it.
    PublishCheckpoint POST "training_runs/{run_id}/checkpoints/{kind}/{name}/publish",
    /// Sets the time after which a checkpoint is deleted.
    CheckpointTtl PUT "training_runs/{run_id}/checkpoints/{kind}/{name}/ttl",
    /// Deletes a checkpoint whose kind and name are one path segment with an escaped slash.
    DeleteEscapedCheckpoint DELETE "training_runs/{run_id}/checkpoints/{checkpoint_id}",
    /// Deletes a checkpoint.
    DeleteCheckpoint DELETE "training_runs/{run_id}/checkpoints/{kind}/{name}",
    /// Lists all checkpoints, the newest checkpoint first.
    Checkpoints GET "checkpoints",
    /// Searches checkpoints, the newest checkpoint first.
    SearchCheckpoints POST "checkpoints/search",
    /// Copies a checkpoint to a project.
    CopyWeights POST "copy_weights",
    /// Returns the changes of a day.
    Audit GET "audit",
    /// Returns the usage of a period of at most 14 days, by hour.
    BillingUsage GET "billing/usage/events",
    /// Returns the current storage of checkpoints.
    CheckpointStorage GET "billing/usage/checkpoints/current",
}

impl Route {
    /// Returns the route to which a request path belongs, given the segments of the path below `/api/v1/`. Returns `None` for an
    /// unknown path.
    pub(crate) fn of(segments: &[&str]) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|route| route.matches(segments))
    }

    fn matches(self, segments: &[&str]) -> bool {
        let mut given = segments.iter();
        let mut named = self.segments();
        loop {
            match (named.next(), given.next()) {
                (None, None) => return true,
                (Some(name), Some(segment)) if matches_segment(name, segment) => {}
                _ => return false,
            }
        }
    }

    /// Returns the segments of the path of the route below `/api/v1/`.
    pub(crate) fn segments(self) -> impl Iterator<Item = &'static str> {
        self.path().split('/').skip(3)
    }
}

/// Returns whether the segment `segment` of a request path matches the segment `name` of the path of a route, which may be a
/// placeholder.
fn matches_segment(name: &str, segment: &str) -> bool {
    match name {
        "{kind}" => CheckpointKind::from_segment(segment).is_some(),
        // The service has another route of this name, and no session has this id.
        "{session_id}" => segment != "search",
        _ => is_id(name) || name == segment,
    }
}

/// Returns whether a segment of the path of a route is a placeholder for an id, such as `{run_id}`.
pub(crate) fn is_id(segment: &str) -> bool {
    segment.starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_matches_only_its_own_route() {
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
        // Routes of the service that are not served here and must not match placeholders.
        let checkpoint =
            |last: [&'static str; 2]| [&["training_runs", "a", "checkpoints"][..], &last].concat();
        assert_eq!(
            Route::of(&["sessions", "search"]),
            Some(Route::SearchSessions)
        );
        assert_eq!(Route::of(&["sessions", "search", "project"]), None);
        assert_eq!(Route::of(&checkpoint(["w1", "archive"])), None);
        assert_eq!(Route::of(&checkpoint(["weights/w1", "ttl"])), None);
        let delete = Some(Route::DeleteCheckpoint);
        assert_eq!(Route::of(&checkpoint(["weights", "archive"])), delete);
    }

    #[test]
    fn server_has_a_route_for_every_path_that_clients_use() {
        let known = tinkers_wire::routes::ALL;
        let served = |path: &str| Route::ALL.iter().any(|route| route.path() == path);
        // There is no listing of samplers, and this server has no uploads.
        let missing: Vec<&str> = known.into_iter().filter(|path| !served(path)).collect();
        let expected = [
            tinkers_wire::routes::EXTERNAL_UPLOAD_START,
            tinkers_wire::routes::EXTERNAL_UPLOAD_FINISH,
            tinkers_wire::routes::SAMPLERS,
        ];
        assert_eq!(missing, expected);
    }
}
