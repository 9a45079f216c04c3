//! What the API server says of the workspaces of this node: a listing, and then each change, for as long as the agent runs.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, mpsc as threads},
    thread,
    time::Duration,
};

use futures::{
    StreamExt as _,
    stream::{BoxStream, ReadyChunks},
};
use jiff::Timestamp;
use kube::{
    Api,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use microagent_base::causes;
use microagent_crds::WorkspaceStatus;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    claims::{Claims, Settled, lock},
    cluster::Cluster,
    doubt::Verdict,
    object::{Object, Seen},
    publisher::Publisher,
};
use crate::{Key, admin::Health, metrics::Metrics, queue::Queue, sink::rejected_status};

/// How many changes are taken at once, at most: their records are flushed together.
const BATCH: usize = 256;
/// How soon what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How soon everything is listed after the server forgot what the watch was to go on from.
const ANEW: Duration = Duration::from_secs(1);

/// Everything that a change concerns.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) cluster: Cluster,
    pub(super) claims: Arc<Mutex<Claims>>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) queue: Queue,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
}

/// What is heard of objects.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the larger kind")]
enum Change {
    /// From the watch: a change, or a step of a listing.
    Told(Event<Object>),
    /// What was asked about one that is not seen any more.
    Answered(Verdict),
}

impl Follower {
    /// Listings and changes, for ever.
    fn watch(&self) -> ReadyChunks<BoxStream<'static, watcher::Result<Event<Object>>>> {
        let api: Api<Object> = Api::all(self.cluster.client().clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.cluster.node()));
        watcher::watcher(api, config).default_backoff().boxed().ready_chunks(BATCH)
    }

    /// Follows, until it is dropped. `verdicts` are the answers about what is not seen any more.
    pub(super) async fn run(self, mut verdicts: mpsc::UnboundedReceiver<Verdict>) {
        let mut changes = self.watch();
        let Ok(reader) = self.clone().reader() else {
            tracing::error!("no thread can be had to read objects: changes are not seen");
            self.health.source_ended();
            return;
        };
        let mut retry = None;
        loop {
            let mut batch = Vec::new();
            let mut expired = false;
            tokio::select! {
                chunk = changes.next() => {
                    let Some(chunk) = chunk else { break };
                    for change in chunk {
                        match change {
                            Ok(change) => batch.push(Change::Told(change)),
                            Err(error) => {
                                expired |= is_expired(&error);
                                self.tell(&error);
                            }
                        }
                    }
                }
                Some(verdict) = verdicts.recv() => batch.push(Change::Answered(verdict)),
                () = sleep(retry) => {}
            }
            if expired {
                // The library asks for the same again for ever where this is told by the code of the answer.
                tokio::time::sleep(ANEW).await;
                changes = self.watch();
            }
            let (answer, answered) = oneshot::channel();
            let sent = reader.send((batch, answer)).is_ok();
            let Some(failed) = (if sent { answered.await.ok() } else { None }) else { break };
            retry = failed.then_some(RETRY);
        }
        tracing::error!("reading the objects of the API server failed beyond repair; changes are no longer seen");
        self.health.source_ended();
    }

    /// The watch is tried again by itself, later each time.
    fn tell(&self, error: &watcher::Error) {
        let why = causes(error);
        // Ordinary: the server has forgotten what the watch began with. A listing follows.
        if is_expired(error) || matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            tracing::debug!("the watch begins anew: {why}");
            return;
        }
        let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
            self.cluster.trouble();
            return self.complain(&why);
        };
        if !matches!(cause, kube::Error::Api(status) if status.code < 500) {
            self.cluster.trouble();
        }
        self.complain(&why);
    }

    fn complain(&self, why: &str) {
        tracing::warn!("the workspaces of node {} cannot be watched: {why}; it is tried again", self.cluster.node());
        self.health.awaits(format!("the workspaces of node {} were not listed yet: {why}", self.cluster.node()));
    }

    /// The thread that reads objects. It is always the same: what they are checked by is compiled once for each thread.
    fn reader(self) -> io::Result<threads::Sender<(Vec<Change>, oneshot::Sender<bool>)>> {
        let (ask, asked) = threads::channel::<(Vec<Change>, oneshot::Sender<bool>)>();
        thread::Builder::new().name("objects".to_owned()).spawn(move || {
            let mut listing = None;
            while let Ok((changes, answer)) = asked.recv() {
                let _ = answer.send(self.take(changes, &mut listing));
            }
        })?;
        Ok(ask)
    }

    /// Takes changes; gives whether something could not be written.
    fn take(&self, changes: Vec<Change>, listing: &mut Option<BTreeMap<Key, Seen>>) -> bool {
        let mut single: Vec<(Key, Option<Seen>)> = Vec::new();
        let mut statuses = HashMap::new();
        let mut failed = false;
        for change in changes {
            let event = match change {
                Change::Told(event) => event,
                Change::Answered(Verdict::There(object)) => Event::Apply(*object),
                Change::Answered(Verdict::Gone(doubt)) => {
                    failed |= self.settle(|claims| claims.apply(std::mem::take(&mut single)), &statuses);
                    failed |= self.settle(|claims| claims.gone(&doubt, Timestamp::now()), &statuses);
                    continue;
                }
            };
            match event {
                Event::Init => {
                    failed |= self.settle(|claims| claims.apply(std::mem::take(&mut single)), &statuses);
                    *listing = Some(BTreeMap::new());
                }
                Event::InitApply(object) => {
                    let (key, seen) = self.see(object, None, &mut statuses);
                    listing.get_or_insert_default().insert(key, seen);
                }
                Event::InitDone => {
                    let objects = listing.take().unwrap_or_default();
                    let count = objects.len();
                    failed |= self.settle(|claims| claims.replace(objects), &statuses);
                    tracing::info!("{count} workspaces are of node {}", self.cluster.node());
                    self.health.listed();
                }
                Event::Apply(object) => {
                    let last = single.iter().rev().find(|(key, _)| *key == object.key());
                    let last = last.and_then(|(_, seen)| seen.clone());
                    let (key, seen) = self.see(object, last, &mut statuses);
                    single.push((key, Some(seen)));
                }
                Event::Delete(object) => single.push((object.key(), None)),
            }
        }
        // With nothing new too: what could not be written before is tried again.
        failed | self.settle(|claims| claims.apply(single), &statuses)
    }

    /// Reads one object.
    fn see(&self, object: Object, last: Option<Seen>, statuses: &mut HashMap<Key, Value>) -> (Key, Seen) {
        let key = object.key();
        if self.publisher.saw(&key, object.uid(), object.status(), object.version()) {
            // Somebody else wrote to it: the next pass puts it right.
            self.queue.add(key.clone());
        }
        let last = last.or_else(|| lock(&self.claims).seen(&key).cloned());
        let status = object.status().clone();
        let seen = object.see(last.as_ref());
        if seen.wanted.is_err() {
            statuses.insert(key.clone(), status);
        }
        (key, seen)
    }

    fn settle(&self, change: impl FnOnce(&mut Claims) -> Settled, statuses: &HashMap<Key, Value>) -> bool {
        let (settled, refused) = {
            let mut claims = lock(&self.claims);
            let settled = change(&mut claims);
            let refused = claims.records().iter().filter(|record| record.problem.is_some()).count();
            (settled, refused + claims.rejected().len())
        };
        let Settled { changed, rejected, failures } = settled;
        self.metrics.refused(refused);
        for failure in &failures {
            tracing::error!("{failure}; it is tried again in {} s", RETRY.as_secs());
        }
        for one in rejected {
            let previous: WorkspaceStatus = statuses
                .get(&one.key)
                .and_then(|status| serde_json::from_value(status.clone()).ok())
                .unwrap_or_default();
            let status = rejected_status(&one.problem, Some(one.generation), &previous);
            if status != previous {
                tracing::warn!(workspace = %one.key, code = one.problem.code, "{}", one.problem.message);
            }
            self.publisher.want(&one.key, &one.uid, &status);
        }
        changed.into_iter().for_each(|key| self.queue.add(key));
        !failures.is_empty()
    }
}

/// Whether the server said at once that it does not know any more what the watch was to go on from.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
