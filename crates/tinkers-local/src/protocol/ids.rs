//! The numbers of exchanges and operations, and the request ids that name operations.

use std::sync::Arc;

use tinkers_core::Jitter;

/// The number of an exchange (one request and its response). Exchange numbers are unique during the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// The number of an operation (the work of one accepted request). Operation numbers are unique during the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OperationId(pub(crate) u64);

/// A generator and parser of request ids, with which clients poll for results. Request ids of another server process, or from
/// before a simulated restart, are unknown.
#[derive(Debug)]
pub(crate) struct RequestIds {
    random: Arc<dyn Jitter>,
    /// A part of every request id. It differs between server processes and changes with each simulated restart.
    epoch: String,
    last: u64,
}

impl RequestIds {
    pub(crate) fn new(random: Arc<dyn Jitter>) -> Self {
        Self {
            epoch: epoch(&*random),
            random,
            last: 0,
        }
    }

    /// Makes all request ids that were issued so far unknown, as if the server had been restarted.
    pub(crate) fn restart(&mut self) {
        self.epoch = epoch(&*self.random);
    }

    pub(crate) fn next(&mut self) -> OperationId {
        self.last += 1;
        OperationId(self.last)
    }

    /// Returns the request id of an operation, with which clients poll for its result.
    pub(crate) fn name(&self, id: OperationId) -> String {
        format!("req-{}-{}", self.epoch, id.0)
    }

    /// Returns the operation with this request id, or `None` if this process did not issue the request id.
    pub(crate) fn parse(&self, name: &str) -> Option<OperationId> {
        let number = name
            .strip_prefix("req-")?
            .strip_prefix(self.epoch.as_str())?
            .strip_prefix('-')?;
        let id = number.parse().ok();
        let id = id.filter(|id| (1..=self.last).contains(id))?;
        (id.to_string() == number).then_some(OperationId(id))
    }
}

fn epoch(random: &dyn Jitter) -> String {
    format!("{:08x}", random.bits() >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::SplitMix;

    #[test]
    fn request_ids_of_another_process_or_format_are_unknown() {
        let mut ids = RequestIds::new(Arc::new(SplitMix::new(1)));
        let id = ids.next();
        let name = ids.name(id);
        assert_eq!(ids.parse(&name), Some(id));
        for wrong in [
            name.replace("-1", "-2"),
            name.replace("-1", "-01"),
            name.replace("-1", "-0"),
            "req-1".to_owned(),
            String::new(),
        ] {
            assert_eq!(ids.parse(&wrong), None, "{wrong}");
        }
        ids.restart();
        assert_eq!(ids.parse(&name), None);
        assert_eq!(ids.next(), OperationId(2));
    }
}
