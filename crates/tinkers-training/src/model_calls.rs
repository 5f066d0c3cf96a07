//! The calls of one model: they are queued at once, and their results are awaited.

use std::sync::Arc;

use tinkers_core::{BoxFuture, Error, Result, RouteClass, SessionContext};
use tinkers_futures::{ApiFuture, Operation, QueueLog, start};
use tinkers_wire::{
    Datum, ForwardBackwardOutput, InvalidInput, Loss, OperationResult, PassMode, RequestKind,
};

use crate::requests::{Pass, Request};
use crate::results::{FoundSave, ResultWaiter};
use crate::sender::submit;
use crate::submission_queue::SubmissionQueue;
use crate::{ChunkLimits, plan_chunks};

/// A handle that starts the training calls of one model, such as forward passes and saves. Clones share the submission queue of the model.
#[derive(Debug, Clone)]
pub(crate) struct ModelCalls {
    queue: Arc<SubmissionQueue>,
    queue_log: Arc<QueueLog>,
}

impl ModelCalls {
    pub(crate) fn new(session: Arc<dyn SessionContext>, model_id: &str) -> Self {
        let queue_log = QueueLog::training(format!("training of {model_id}"));
        Self {
            queue: SubmissionQueue::new(session, Arc::from(model_id)),
            queue_log: Arc::new(queue_log),
        }
    }

    pub(crate) fn model_id(&self) -> &Arc<str> {
        self.queue.model_id()
    }

    pub(crate) fn session(&self) -> &Arc<dyn SessionContext> {
        self.queue.session()
    }

    pub(crate) fn recover(&self) -> Result<()> {
        self.queue.recover()
    }

    /// Queues a forward or forward-backward pass before this method returns, in as many requests as the server's limits require. The returned
    /// future waits for the results of these requests and merges them.
    pub(crate) fn pass(
        &self,
        name: &'static str,
        mode: PassMode,
        data: Vec<Datum>,
        loss: Loss,
    ) -> ApiFuture<ForwardBackwardOutput> {
        let operation = self.operation(name);
        let queued = validate(&data, &loss).map_err(Error::from).and_then(|()| {
            let requests = self.split(mode, data, &loss);
            let progress = Arc::clone(&operation.progress);
            submit(&self.queue, name, requests, progress)
        });
        let kind = match mode {
            PassMode::Forward => RequestKind::Forward,
            PassMode::ForwardBackward => RequestKind::ForwardBackward,
        };
        let waiter = self.waiter(operation.clone(), kind);
        start(operation, waiter.merged(queued))
    }

    fn split(&self, mode: PassMode, mut data: Vec<Datum>, loss: &Loss) -> Vec<Arc<dyn Request>> {
        let chunks = plan_chunks(&data, ChunkLimits::from(self.queue.session().config()));
        let pass = |data| Pass {
            model_id: Arc::clone(self.queue.model_id()),
            mode,
            data,
            loss: loss.clone(),
        };
        chunks
            .into_iter()
            .map(|chunk| Arc::new(pass(data.drain(..chunk.len()).collect())) as Arc<dyn Request>)
            .collect()
    }

    /// Queues a training call that consists of one request, and returns a future that waits for its result. `found` makes the result of a save
    /// from the path of its checkpoint. It is used if the response to the save was lost and the checkpoint was found by its name.
    pub(crate) fn single<T: OperationResult>(
        &self,
        operation: Operation,
        kind: RequestKind,
        request: Result<impl Request + 'static>,
        found: FoundSave<T>,
    ) -> ApiFuture<T> {
        let result = self.queue_one(&operation, kind, request, found);
        start(operation, result)
    }

    /// Queues a training call that consists of one request, before this method returns. The returned future waits for the result. `found` is
    /// used as in [`ModelCalls::single`].
    pub(crate) fn queue_one<T: OperationResult>(
        &self,
        operation: &Operation,
        kind: RequestKind,
        request: Result<impl Request + 'static>,
        found: FoundSave<T>,
    ) -> BoxFuture<'static, Result<T>> {
        let name = request.as_ref().ok().and_then(Request::saved_name);
        let queued = request.and_then(|request| {
            let progress = Arc::clone(&operation.progress);
            submit(
                &self.queue,
                operation.name,
                vec![Arc::new(request)],
                progress,
            )
        });
        let waiter = ResultWaiter {
            name,
            ..self.waiter(operation.clone(), kind)
        };
        Box::pin(waiter.single(queued, found))
    }

    /// Creates the context of a training call of this model: its name, deadline and progress. While the submission queue makes progress, the
    /// call does not count as stalled.
    pub(crate) fn operation(&self, name: &'static str) -> Operation {
        let session = Arc::clone(self.queue.session());
        let queue = Arc::<SubmissionQueue>::clone(&self.queue);
        Operation::new(session, name, RouteClass::Train).in_queue(queue)
    }

    fn waiter(&self, operation: Operation, kind: RequestKind) -> ResultWaiter {
        ResultWaiter {
            operation,
            kind,
            queue: Arc::clone(&self.queue),
            queue_log: Arc::clone(&self.queue_log),
            name: None,
        }
    }
}

/// Validates a forward or forward-backward pass before a sequence number is reserved.
fn validate(data: &[Datum], loss: &Loss) -> Result<(), InvalidInput> {
    if data.is_empty() {
        return Err(InvalidInput::new("data", "at least one datum, got none"));
    }
    loss.validate()?;
    for (i, datum) in data.iter().enumerate() {
        let place = |error: InvalidInput| error.within(format_args!("data[{i}]."));
        datum.validate().map_err(place)?;
        datum
            .model_input
            .validate_trainable()
            .map_err(|error| place(error.within("model_input.")))?;
        let missing = loss
            .name
            .required_inputs()
            .iter()
            .find(|name| !datum.loss_fn_inputs.contains_key(**name));
        if let Some(name) = missing {
            let given: Vec<&str> = datum.loss_fn_inputs.keys().map(String::as_str).collect();
            let expected = format!("to be there for {}, got [{}]", loss.name, given.join(", "));
            return Err(place(InvalidInput::new(
                format!("loss_fn_inputs.{name}"),
                expected,
            )));
        }
    }
    Ok(())
}
