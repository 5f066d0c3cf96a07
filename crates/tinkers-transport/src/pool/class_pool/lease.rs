//! A connection that is assigned to one request.

use std::sync::Arc;

use super::ClassPool;
use crate::connection::Connection;
use crate::pool::connection_table::{Checkout, PooledConnection as _};

/// A connection of the pool, or one stream of an HTTP/2 connection, that is assigned to one request.
///
/// Dropping the lease returns the connection to the pool if the connection is still usable, and closes it otherwise.
pub(crate) struct Lease {
    class_pool: Arc<ClassPool>,
    id: u64,
    connection: Option<Connection>,
    reused: bool,
    used: bool,
}

impl Lease {
    pub(super) fn new(class_pool: Arc<ClassPool>, checkout: Checkout<Connection>) -> Self {
        Self {
            class_pool,
            id: checkout.id,
            connection: Some(checkout.connection),
            reused: checkout.reused,
            used: false,
        }
    }

    /// Returns the id of the leased connection.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Returns whether the connection has carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Returns the connection and marks the lease as used: an HTTP/1.1 connection is then closed unless its response is read completely.
    pub(crate) fn connection(&mut self) -> Option<&mut Connection> {
        self.used = true;
        self.connection.as_mut()
    }

    /// Gives the connection back to the pool without having sent a request on it.
    pub(crate) fn return_unused(mut self) {
        self.used = false;
    }

    /// Gives the connection back to the pool after a response was read completely.
    pub(crate) fn finish(mut self) {
        if let Some(connection) = self.connection.take() {
            self.class_pool.recycle(self.id, connection);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        // An HTTP/2 stream is reset without harm to its connection. An HTTP/1.1 connection cannot be used after an incomplete exchange.
        if !self.used || connection.share().is_some() {
            self.class_pool.check_in(self.id, connection);
        } else {
            self.class_pool.remove(self.id);
        }
    }
}
