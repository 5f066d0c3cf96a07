//! The parameters of requests for the audit log and the usage, as sent.

/// The parameters of a request for the audit log, as sent.
#[derive(Debug, Clone)]
pub(crate) struct AuditQuery {
    pub(crate) event_type: Option<String>,
    pub(crate) day: Option<String>,
}

/// The period of a request for the usage, as sent.
#[derive(Debug, Clone)]
pub(crate) struct UsagePeriod {
    pub(crate) starting_on: Option<String>,
    pub(crate) ending_before: Option<String>,
}
