//! Errors of operations whose session was closed or has ended.

use tinkers_core::{Error, ErrorKind, RouteClass, SessionContext};

use crate::Operation;

/// Returns the error that the session has ended, with `error` as its source, if the session has ended and this may be the cause of `error`.
/// Otherwise returns `error` unchanged.
///
/// Servers report the loss of a session's models and results in different ways; with this function the user gets one kind of error for all.
pub fn session_error(session: &dyn SessionContext, error: Error) -> Error {
    let may_be_caused = matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::ResultLost
            | ErrorKind::OperationFailed
            | ErrorKind::SessionLost
    );
    match session.check_open() {
        Err(ended) if may_be_caused => {
            Error::new(ended.kind(), error.sent(), ended.to_string()).with_source(error)
        }
        _ => error,
    }
}

/// Replaces an error of `operation` by the error that the session has ended, if that may be the cause. If the server has lost the result of
/// a training call, first asks the server whether it still knows the session.
///
/// A restarted server knows neither the results nor the sessions. For a sample the server is not asked: the sample is submitted again, and
/// the response to that submission shows whether the session is lost.
pub(crate) async fn confirmed_session_error(operation: &Operation, error: Error) -> Error {
    let session = &*operation.session;
    let is_lost = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResultLost);
    if is_lost && operation.class == RouteClass::Train {
        // The session remembers the outcome.
        let _confirmed = session.confirm().await;
    }
    session_error(session, error)
}
