//! What happened, in the journal of the host and, as far as it is news, as Events of the API server.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType as Type, Recorder, Reporter},
};
use microagent_base::{causes, durable::DurableError};
use microagent_crds::{Reason, kubernetes::AGENT_REPORTER};
use tokio::sync::mpsc;

use crate::journal::{self, EventType, Journal, Tell};

/// How many events wait for the API server at most; more are in the journal alone.
const WAITING: usize = 1024;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest note that the API server takes, in bytes.
const MAX_NOTE: usize = 1024;

/// See the module.
pub(super) struct NodeJournal {
    journal: Mutex<Journal>,
    outbox: mpsc::Sender<journal::Event>,
    dropped: AtomicU64,
}

impl NodeJournal {
    /// Writes to this journal, and gives what the API server is to be told.
    pub(super) fn new(journal: Journal) -> (Self, mpsc::Receiver<journal::Event>) {
        let (outbox, waiting) = mpsc::channel(WAITING);
        (Self { journal: Mutex::new(journal), outbox, dropped: AtomicU64::new(0) }, waiting)
    }
}

impl Tell for NodeJournal {
    fn tell(&self, event: &journal::Event) -> Result<(), DurableError> {
        if is_news(event) && self.outbox.try_send(event.clone()).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(
                    "{dropped} events so far are in the journal alone: the API server does not take them in time"
                );
            }
        }
        self.journal.tell(event)
    }
}

/// Whether the API server is told. The stages of a start that ends well are in the status, with their times: an Event of each
/// would be most of what a start writes.
fn is_news(event: &journal::Event) -> bool {
    let stage = matches!(
        Reason::from_code(&event.reason),
        Reason::ImageResolved
            | Reason::RootfsBuilt
            | Reason::KernelInstalled
            | Reason::MachineStarted
            | Reason::GuestReady
            | Reason::SetupComplete
    );
    event.type_ == EventType::Warning || !stage
}

/// Tells the API server, one after another. One that it does not take is in the journal.
pub(super) async fn tell(client: Client, node: String, mut waiting: mpsc::Receiver<journal::Event>) {
    let reporter = Reporter { controller: AGENT_REPORTER.to_owned(), instance: Some(node) };
    let recorder = Recorder::new(client, reporter);
    while let Some(event) = waiting.recv().await {
        let about = ObjectReference {
            api_version: Some("microagent.dev/v1alpha1".to_owned()),
            kind: Some("Workspace".to_owned()),
            namespace: Some(event.key.namespace.clone()),
            name: Some(event.key.name.clone()),
            uid: Some(event.uid.clone()),
            ..ObjectReference::default()
        };
        let news = Event {
            type_: match event.type_ {
                EventType::Normal => Type::Normal,
                EventType::Warning => Type::Warning,
            },
            reason: event.reason.clone(),
            note: Some(journal::cut(&event.message, MAX_NOTE)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        match tokio::time::timeout(PATIENCE, recorder.publish(&news, &about)).await {
            Ok(Ok(())) => {}
            // A namespace that is being removed takes none any more, for one.
            Ok(Err(error)) => {
                tracing::debug!(workspace = %event.key, "the API server does not take an event: {}", causes(&error));
            }
            Err(_) => tracing::debug!(workspace = %event.key, "the API server does not take an event in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::Key;

    fn event(type_: EventType, reason: &str) -> journal::Event {
        journal::Event {
            time: Timestamp::UNIX_EPOCH,
            key: Key::new("team", "a"),
            uid: "u-1".to_owned(),
            type_,
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn what_goes_wrong_and_what_comes_of_it_is_news_and_a_stage_that_ends_well_is_not() {
        for (type_, reason, expected) in [
            (EventType::Normal, "ImageResolved", false),
            (EventType::Normal, "GuestReady", false),
            (EventType::Normal, "Running", true),
            (EventType::Normal, "Deleted", true),
            (EventType::Warning, "ImageNotFound", true),
            (EventType::Warning, "SomethingNew", true),
        ] {
            assert_eq!(is_news(&event(type_, reason)), expected, "{reason}");
        }
    }

    #[test]
    fn an_outbox_that_is_full_costs_the_journal_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let (journal, mut waiting) = NodeJournal::new(Journal::open(&path).unwrap());
        for _ in 0..WAITING + 3 {
            journal.tell(&event(EventType::Normal, "Running")).unwrap();
        }
        let mut sent = 0;
        while waiting.try_recv().is_ok() {
            sent += 1;
        }
        assert_eq!(sent, WAITING);
        assert_eq!(journal::read(&path, |_| true).unwrap().len(), WAITING + 3);
    }
}
