//! The ends of machines, told as they come: the owner of each is waited for. Without this a machine whose owner was killed would be
//! seen at the next look by the clock. It is a hint and no more: what is true is looked at anew.

use microagent_base::process::ProcessId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;

use crate::Key;

/// Tells which workspace's machine has lost its owner.
pub(super) struct Owners {
    asked: mpsc::UnboundedSender<(ProcessId, Key)>,
}

impl Owners {
    /// Nobody waited for yet. Must be called in a runtime. Each owner costs an open file, so this process is let have as many as it may.
    pub(super) fn new(wake: mpsc::UnboundedSender<Key>) -> Self {
        let limit = getrlimit(Resource::Nofile);
        // Where it is refused, what does not fit is told when it comes.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        let (asked, questions) = mpsc::unbounded_channel();
        tokio::spawn(serve::serve(questions, wake));
        Self { asked }
    }

    /// Wakes the workspace once this process has ended, at once when it has. Asking again changes nothing.
    pub(super) fn add(&self, owner: ProcessId, key: &Key) {
        let _ = self.asked.send((owner, key.clone()));
    }
}

#[cfg(target_os = "linux")]
mod serve {
    use std::{
        collections::{HashMap, HashSet, hash_map::Entry},
        io,
    };

    use tokio::io::{Interest, unix::AsyncFd};

    use super::{Key, ProcessId, mpsc};

    /// A process, told apart from a later one with its id.
    type Id = (u32, u64);

    pub(super) async fn serve(mut asked: mpsc::UnboundedReceiver<(ProcessId, Key)>, wake: mpsc::UnboundedSender<Key>) {
        let mut keys: HashMap<Id, HashSet<Key>> = HashMap::new();
        let (told, mut ended) = mpsc::unbounded_channel();
        let mut is_warned = false;
        loop {
            tokio::select! {
                question = asked.recv() => {
                    let Some((owner, key)) = question else { return };
                    match keys.entry((owner.pid, owner.start_time)) {
                        Entry::Occupied(mut waiting) => drop(waiting.get_mut().insert(key)),
                        Entry::Vacant(vacant) => match follow(owner, told.clone()) {
                            Ok(()) => drop(vacant.insert(HashSet::from([key]))),
                            Err(e) if is_warned => tracing::debug!("process {} cannot be waited for: {e}", owner.pid),
                            Err(e) => {
                                is_warned = true;
                                tracing::warn!(
                                    "some ends of machines are seen by the clock alone: process {} cannot be waited for: {e}; \
                                     raise the limit of open files (LimitNOFILE, ulimit -n)",
                                    owner.pid
                                );
                            }
                        },
                    }
                }
                Some(id) = ended.recv() => {
                    keys.remove(&id).into_iter().flatten().for_each(|key| drop(wake.send(key)));
                }
            }
        }
    }

    /// Tells once when this process has ended.
    fn follow(owner: ProcessId, told: mpsc::UnboundedSender<Id>) -> io::Result<()> {
        let id = (owner.pid, owner.start_time);
        let Some(fd) = owner.pidfd()? else {
            let _ = told.send(id);
            return Ok(());
        };
        #[expect(deprecated, reason = "its successor is unsafe for types that may close early; an OwnedFd does not")]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        tokio::spawn(async move {
            let _ = fd.readable().await;
            let _ = told.send(id);
        });
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use std::process::Command;

        use super::super::*;

        #[tokio::test]
        async fn each_workspace_is_woken_once_when_its_owner_ends_and_at_once_when_it_has() {
            let (wake, mut woken) = mpsc::unbounded_channel();
            let owners = Owners::new(wake);
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            let owner = ProcessId::of(child.id()).unwrap();
            let (a, b) = (Key::new("default", "a"), Key::new("default", "b"));
            for key in [&a, &b, &a] {
                owners.add(owner, key);
            }
            let gone = ProcessId { start_time: owner.start_time + 1, ..owner };
            owners.add(gone, &Key::new("default", "c"));
            assert_eq!(woken.recv().await, Some(Key::new("default", "c")), "another process has its id");
            assert!(woken.try_recv().is_err(), "the owner lives");
            child.kill().unwrap();
            child.wait().unwrap();
            let mut both = [woken.recv().await.unwrap(), woken.recv().await.unwrap()];
            both.sort();
            assert_eq!(both, [a, b]);
            assert!(woken.try_recv().is_err());
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod serve {
    use super::{Key, ProcessId, mpsc};

    /// There is no such handle of a process here: machines are looked at by the clock.
    pub(super) async fn serve(mut asked: mpsc::UnboundedReceiver<(ProcessId, Key)>, _wake: mpsc::UnboundedSender<Key>) {
        while asked.recv().await.is_some() {}
    }
}
