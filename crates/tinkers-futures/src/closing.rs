//! What a failure means once the session is over.

use tinkers_core::{Error, ErrorKind, RouteClass, SessionContext};

use crate::Operation;

/// A session that was closed or has ended takes its work along, and servers say so in many ways: the caller is told in one,
/// with the server's as the source.
pub fn after_close(session: &dyn SessionContext, error: Error) -> Error {
    let by_its_end = matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::ResultLost
            | ErrorKind::OperationFailed
            | ErrorKind::SessionLost
    );
    match session.check_open() {
        Err(closed) if by_its_end => {
            let message = format!("{closed}; what became of it: {error}");
            Error::new(closed.kind(), error.sent(), message).with_source(error)
        }
        _ => error,
    }
}

/// The same for an operation whose result is lost: a server that was started again knows neither its results nor its sessions, so
/// it is asked. A sample is taken anew and finds out by that.
pub(crate) async fn after_loss(operation: &Operation, error: Error) -> Error {
    let session = &*operation.session;
    let is_lost = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResultLost);
    if is_lost && operation.class == RouteClass::Train {
        // What it says is in force from now on.
        let _confirmed = session.confirm().await;
    }
    after_close(session, error)
}
