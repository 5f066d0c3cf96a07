//! The classification of routes, the same as that of clients.

use tinkers_core::RouteClass;

/// Returns the route class, such as `sample` or `poll`, of a request path (without the query). Unknown paths belong to the class
/// `rest`.
pub(crate) fn class_of(route: &str) -> RouteClass {
    let Some(rest) = route.strip_prefix("/api/v1/") else {
        return RouteClass::Rest;
    };
    match rest {
        "asample" => RouteClass::Sample,
        "retrieve_future" | "retrieve_futures" => RouteClass::Poll,
        "create_model"
        | "get_info"
        | "unload_model"
        | "forward"
        | "forward_backward"
        | "optim_step"
        | "save_weights"
        | "save_weights_for_sampler"
        | "load_weights"
        | "weights_info"
        | "create_sampling_session" => RouteClass::Train,
        "healthz" | "session_heartbeat" | "telemetry" | "cancel_future" => RouteClass::Control,
        _ if rest.starts_with("client/") || rest.starts_with("auth/") => RouteClass::Control,
        _ if rest.starts_with("sessions/") && rest.ends_with("/finish") => RouteClass::Control,
        _ => RouteClass::Rest,
    }
}

#[cfg(test)]
mod tests {
    use tinkers_wire::routes;

    use super::*;

    #[test]
    fn server_and_client_assign_the_same_class_to_each_route() {
        for (route, class) in [
            (routes::ASAMPLE, RouteClass::Sample),
            (routes::FORWARD_BACKWARD, RouteClass::Train),
            (routes::CREATE_SAMPLING_SESSION, RouteClass::Train),
            (routes::RETRIEVE_FUTURE, RouteClass::Poll),
            (routes::RETRIEVE_FUTURES, RouteClass::Poll),
            (routes::CLIENT_CONFIG, RouteClass::Control),
            (routes::DYNAMIC_CONFIG, RouteClass::Control),
            (routes::SESSION_HEARTBEAT, RouteClass::Control),
            (routes::CANCEL_FUTURE, RouteClass::Control),
            (&routes::finish_session("s"), RouteClass::Control),
            (routes::AUTH_TOKEN, RouteClass::Control),
            (routes::API_KEY, RouteClass::Control),
            (routes::CREATE_SESSION, RouteClass::Rest),
            (routes::SESSIONS, RouteClass::Rest),
            ("/scripted/counts", RouteClass::Rest),
        ] {
            assert_eq!(class_of(route), class, "{route}");
        }
    }
}
