//! A connection, or a stream's worth of one, in the hands of one request.

use std::sync::Arc;

use super::Lane;
use super::table::{Slot, Taken};
use crate::link::Link;

/// Gives its connection back, or closes it when its request was cut short, exactly once.
pub(crate) struct Lease {
    lane: Arc<Lane>,
    id: u64,
    link: Option<Link>,
    reused: bool,
    touched: bool,
}

impl Lease {
    pub(super) fn new(lane: Arc<Lane>, taken: Taken<Link>) -> Self {
        Self {
            lane,
            id: taken.id,
            link: Some(taken.slot),
            reused: taken.reused,
            touched: false,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether the connection carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// The connection, to be used now.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        self.touched = true;
        self.link.as_mut()
    }

    /// Gives the connection back unused: the request did not leave.
    pub(crate) fn put_back(mut self) {
        self.touched = false;
    }

    /// The request is over, its answer read to the end.
    pub(crate) fn finish(mut self) {
        if let Some(link) = self.link.take() {
            self.lane.recycle(self.id, link);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        // A stream is reset by itself and the connection lives; an HTTP/1.1 connection cut short is of no more use.
        if !self.touched || link.share().is_some() {
            self.lane.give_back(self.id, link);
        } else {
            self.lane.forget(self.id);
        }
    }
}
