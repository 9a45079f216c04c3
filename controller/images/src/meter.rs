//! The progress of one pull, whose layers come in parallel.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use microagent_base::{Progress, progress::Step};

use crate::{Error, Result};

/// Adds up what the layers have. Clones share the sum.
#[derive(Clone)]
pub(crate) struct Meter {
    progress: Arc<dyn Progress>,
    what: Arc<str>,
    done: Arc<AtomicU64>,
    total: Option<u64>,
}

impl Meter {
    pub(crate) fn new(progress: Arc<dyn Progress>, what: &str, total: Option<u64>) -> Self {
        let meter = Self { progress, what: what.into(), done: Arc::default(), total };
        meter.add(0);
        meter
    }

    /// So many more bytes are there.
    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.step(Step { what: self.what.to_string(), done, total: self.total });
    }

    /// So many bytes were there and had to be dropped.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self) -> &dyn Progress {
        self.progress.as_ref()
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// An error when nobody wants the pull any longer.
    pub(crate) fn check(&self) -> Result<()> {
        if self.progress.cancelled() { Err(Error::Cancelled { what: self.what.to_string() }) } else { Ok(()) }
    }
}
