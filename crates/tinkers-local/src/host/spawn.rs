//! Background tasks on a tokio runtime.

use tinkers_core::{BoxFuture, Spawn, Task};
use tokio::runtime::Handle;

/// A spawner (a [`Spawn`]) that runs tasks on a tokio runtime.
#[derive(Debug, Clone)]
pub struct TokioSpawn(Handle);

impl TokioSpawn {
    /// Creates a spawner on the runtime of `handle`.
    pub const fn new(handle: Handle) -> Self {
        Self(handle)
    }
}

impl Spawn for TokioSpawn {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let abort = self.0.spawn(work).abort_handle();
        Task::new(move || abort.abort())
    }
}
