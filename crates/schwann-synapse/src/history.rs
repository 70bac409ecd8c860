//! What a dendrite did last, if it was asked to remember.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::terminal::TerminalInfo;

/// One finished call, without the synapse's fields and without signatures.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The synapse's name.
    pub name: String,
    /// The axon's end.
    pub axon: TerminalInfo,
    /// The caller's end, with the status the call ended with.
    pub dendrite: TerminalInfo,
    /// From the call to its end.
    pub took: Duration,
}

/// The last calls; the oldest go first. The reference keeps all of them for ever (W15).
#[derive(Debug)]
pub(crate) struct History {
    capacity: usize,
    records: Mutex<VecDeque<Record>>,
}

impl History {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, records: Mutex::default() }
    }

    pub(crate) fn push(&self, mut record: Record) {
        record.axon.signature = None;
        record.dendrite.signature = None;
        // A record is pushed or not: there is nothing half done to find.
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        while records.len() >= self.capacity.max(1) {
            records.pop_front();
        }
        records.push_back(record);
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
