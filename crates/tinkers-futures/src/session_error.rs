//! Errors of operations whose session was closed or has ended.

use tinkers_core::{Error, ErrorKind, RouteClass, SessionContext};

use crate::Operation;

/// Replaces an error that the end of the session may have caused by the reason of that end, with the original as its source.
///
/// Servers report the loss of a session's models and results in different ways; the caller gets one kind of error for all.
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

/// Does the same for the error of `operation`, after asking the server about the session when the result is lost.
///
/// A restarted server knows neither the results nor the sessions. A sample does not ask: it is submitted again, which shows it.
pub(crate) async fn confirmed_session_error(operation: &Operation, error: Error) -> Error {
    let session = &*operation.session;
    let is_lost = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResultLost);
    if is_lost && operation.class == RouteClass::Train {
        // The session remembers the outcome.
        let _confirmed = session.confirm().await;
    }
    session_error(session, error)
}
