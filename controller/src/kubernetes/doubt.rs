//! Workspaces of this host that the API server no longer shows, though nobody told the agent to let them go.
//!
//! A listing can be older than what was seen before it, and whatever stands between can cut it or repeat it. What runs is not ended on
//! such a word: the API server is asked for that very object first. While it cannot be asked the workspace is kept.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::{cluster::Cluster, object::Object, publisher::wait_after};
use crate::Key;

/// How many are asked for at once.
const ASKING: usize = 8;

/// One that is not seen any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) key: Key,
    pub(super) uid: String,
}

/// What the API server says of one.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is there, and this node's.
    There(Box<Object>),
    /// It is gone, or another node's.
    Gone(Doubt),
}

/// Those that are being asked about: each once.
#[derive(Debug)]
pub(super) struct Doubts {
    open: BTreeMap<Key, String>,
    ask: mpsc::UnboundedSender<Doubt>,
}

impl Doubts {
    /// None; those that come are to be asked about by [`ask`].
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Doubt>) {
        let (ask, asked) = mpsc::unbounded_channel();
        (Self { open: BTreeMap::new(), ask }, asked)
    }

    /// This one is to be asked about.
    pub(super) fn raise(&mut self, key: &Key, uid: &str) {
        if self.open.get(key).is_none_or(|known| known != uid) {
            self.open.insert(key.clone(), uid.to_owned());
            // An agent that ends asks nothing more; the next one sees the same.
            let _ = self.ask.send(Doubt { key: key.clone(), uid: uid.to_owned() });
        }
    }

    /// It was seen after all.
    pub(super) fn lay(&mut self, key: &Key) {
        self.open.remove(key);
    }

    /// Takes an answer; whether it was still waited for.
    pub(super) fn take(&mut self, doubt: &Doubt) -> bool {
        let is_open = self.open.get(&doubt.key) == Some(&doubt.uid);
        if is_open {
            self.open.remove(&doubt.key);
        }
        is_open
    }
}

/// Asks about each, until it is dropped.
pub(super) async fn ask(
    cluster: Cluster,
    doubts: mpsc::UnboundedReceiver<Doubt>,
    verdicts: mpsc::UnboundedSender<Verdict>,
) {
    let each = stream::unfold(doubts, |mut doubts| async move { Some((doubts.recv().await?, doubts)) });
    each.for_each_concurrent(ASKING, |doubt| {
        let (cluster, verdicts) = (&cluster, &verdicts);
        async move {
            let _ = verdicts.send(verdict(cluster, doubt).await);
        }
    })
    .await;
}

async fn verdict(cluster: &Cluster, doubt: Doubt) -> Verdict {
    let Doubt { key, uid } = &doubt;
    for failures in 1.. {
        match cluster.find(key, uid).await {
            Ok(Some(object)) => {
                tracing::info!(workspace = %key, "it was missing in what the API server showed, and is there");
                return Verdict::There(Box::new(object));
            }
            Ok(None) => {
                tracing::info!(workspace = %key, "the API server has it no more for this node");
                break;
            }
            Err(error) => {
                if failures == 1 {
                    tracing::warn!(workspace = %key, "it is not shown any more, and is kept until the API server says so itself: {error}");
                }
                let wait: Duration = wait_after(uid, failures, error.is_retryable());
                tokio::time::sleep(wait).await;
            }
        }
    }
    Verdict::Gone(doubt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_asked_about_once_and_an_answer_that_came_too_late_is_none() {
        let (mut doubts, mut asked) = Doubts::new();
        let (key, first) = (Key::new("team", "a"), Doubt { key: Key::new("team", "a"), uid: "u-1".to_owned() });
        doubts.raise(&key, "u-1");
        doubts.raise(&key, "u-1");
        assert_eq!((asked.try_recv().ok(), asked.try_recv().ok()), (Some(first.clone()), None));
        assert!(doubts.take(&first) && !doubts.take(&first));
        doubts.raise(&key, "u-1");
        assert_eq!(asked.try_recv().ok(), Some(first.clone()));
        doubts.lay(&key);
        assert!(!doubts.take(&first), "it was seen again");
        doubts.raise(&key, "u-1");
        doubts.raise(&key, "u-2");
        assert!(!doubts.take(&first), "another has its name");
    }
}
