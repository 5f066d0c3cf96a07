//! What a failure means once the session is over.

use tinkers_core::{Error, ErrorKind, SessionContext};

/// A session that was closed or has ended takes its work along, and servers say so in many ways: the caller is told in one,
/// with the server's as the source.
pub fn after_close(session: &dyn SessionContext, error: Error) -> Error {
    let by_its_end = matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ResultLost | ErrorKind::OperationFailed
    );
    match session.check_open() {
        Err(closed) if by_its_end => {
            let message = format!("{closed}; what became of it: {error}");
            Error::new(ErrorKind::Closed, error.sent(), message).with_source(error)
        }
        _ => error,
    }
}
