//! Whether a machine could be started. Supervisors answer in their own time, so one question at a time is under way, and whoever
//! asks meanwhile waits for the same answer, but not for long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use crate::world::HostView;

/// How long an answer is waited for. Shorter than a prober's patience.
const PATIENCE: Duration = Duration::from_secs(2);

type Answer = Result<&'static str, String>;

pub(super) struct BackendProbe {
    host: Arc<dyn HostView>,
    asking: Arc<AtomicBool>,
    answer: watch::Sender<Option<Answer>>,
}

impl BackendProbe {
    pub(super) fn new(host: Arc<dyn HostView>) -> Self {
        Self { host, asking: Arc::default(), answer: watch::Sender::new(None) }
    }

    /// The backend that a new machine would get, or why there is none.
    pub(super) async fn ask(&self) -> Answer {
        let mut answered = self.answer.subscribe();
        if !self.asking.swap(true, Ordering::AcqRel) {
            let (host, asking, answer) = (self.host.clone(), self.asking.clone(), self.answer.clone());
            tokio::task::spawn_blocking(move || {
                let said = host.backend().map_err(|fault| fault.message);
                // In this order: who asks in between begins anew, and does not wait for an answer that was given already.
                asking.store(false, Ordering::Release);
                answer.send_replace(Some(said));
            });
        }
        // Where it takes longer, the last answer holds.
        let _ = timeout(PATIENCE, answered.changed()).await;
        let last = self.answer.borrow().clone();
        last.unwrap_or_else(|| Err("not known yet: the supervisors were asked and have not answered".to_owned()))
    }
}
