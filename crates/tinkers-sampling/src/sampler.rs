//! The state of a sampling client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tinkers_core::{ClientId, SessionContext};
use tinkers_futures::{QueueLog, SessionPoller};
use tinkers_wire::PollTarget;

/// The state that all samples of a sampling client share.
pub(crate) struct Sampler {
    pub(crate) session: Arc<dyn SessionContext>,
    pub(crate) id: String,
    pub(crate) client: ClientId,
    pub(crate) queue_log: Arc<QueueLog>,
    /// The shared poll: one request that reports all ended samples of the client. `None` if the server does not offer a shared poll. The
    /// poll ends when the client and its last sample are dropped.
    pub(crate) poller: Option<SessionPoller>,
    next_seq: AtomicU64,
}

/// The sequence number (`seq_id`) of the first sample of a sampling client.
const FIRST_SEQ: u64 = 0;

impl Sampler {
    pub(crate) fn new(session: Arc<dyn SessionContext>, id: String) -> Self {
        let client = session.next_client();
        let poller = session.config().sample_use_retrieve_futures.then(|| {
            let target = PollTarget::samples(&id, PollTarget::client_of(FIRST_SEQ));
            SessionPoller::new(Arc::clone(&session), client, target)
        });
        Self {
            session,
            queue_log: Arc::new(QueueLog::sampling(format!("sampler {id}"))),
            id,
            client,
            poller,
            next_seq: AtomicU64::new(FIRST_SEQ),
        }
    }

    /// Returns the sequence number (`seq_id`) of the next sample. All attempts of a submission use the same `seq_id`.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq.fetch_add(1, Ordering::Relaxed)
    }
}
