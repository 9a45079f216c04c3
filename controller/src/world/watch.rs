//! Change hints from the machines: a supervisor's shim replaces its record by a rename, and only renames are listened to,
//! for the logs beside the record change all the time.

use std::{collections::HashMap, path::Path, sync::Mutex};

use tokio::sync::mpsc;

use crate::Key;

/// Tells which workspace's machine has news.
pub(super) struct Watch {
    #[cfg(target_os = "linux")]
    linux: Option<linux::Watch>,
}

impl Watch {
    /// Nothing watched yet. Without inotify nothing ever is, and the machines are looked at by the clock alone.
    pub(super) fn new(wake: mpsc::UnboundedSender<Key>) -> Self {
        #[cfg(target_os = "linux")]
        return Self {
            linux: linux::Watch::new(wake)
                .inspect_err(|e| {
                    tracing::warn!("machines are looked at by the clock alone: inotify cannot be used: {e}")
                })
                .ok(),
        };
        #[cfg(not(target_os = "linux"))]
        {
            let _ = wake;
            Self {}
        }
    }

    /// Watches the directory of a machine from now on, when it is there. Calling it again changes nothing.
    pub(super) fn add(&self, dir: &Path, key: &Key) {
        #[cfg(target_os = "linux")]
        if let Some(watch) = &self.linux {
            watch.add(dir, key);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (dir, key);
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, mem::MaybeUninit, os::fd::OwnedFd, sync::Arc, sync::PoisonError};

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
    use tokio::io::unix::AsyncFd;

    use super::{HashMap, Key, Mutex, Path, mpsc};

    pub(super) struct Watch {
        fd: Arc<AsyncFd<OwnedFd>>,
        keys: Arc<Mutex<HashMap<i32, Key>>>,
    }

    impl Watch {
        pub(super) fn new(wake: mpsc::UnboundedSender<Key>) -> io::Result<Self> {
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe for types that may close early; an OwnedFd does not"
            )]
            let fd = Arc::new(AsyncFd::new(fd)?);
            let keys = Arc::new(Mutex::new(HashMap::new()));
            tokio::spawn(forward(fd.clone(), keys.clone(), wake));
            Ok(Self { fd, keys })
        }

        pub(super) fn add(&self, dir: &Path, key: &Key) {
            // The kernel gives the same number for the same directory.
            if let Ok(number) = inotify::add_watch(self.fd.get_ref(), dir, WatchFlags::MOVED_TO | WatchFlags::ONLYDIR) {
                self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(number, key.clone());
            }
        }
    }

    async fn forward(fd: Arc<AsyncFd<OwnedFd>>, keys: Arc<Mutex<HashMap<i32, Key>>>, wake: mpsc::UnboundedSender<Key>) {
        while let Ok(mut ready) = fd.readable().await {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(fd.get_ref(), &mut buffer);
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(_) => return,
                };
                let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
                if event.events().contains(ReadFlags::IGNORED) {
                    keys.remove(&event.wd());
                } else if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                    keys.values().for_each(|key| drop(wake.send(key.clone())));
                } else if let Some(key) = keys.get(&event.wd())
                    && wake.send(key.clone()).is_err()
                {
                    return;
                }
            }
            ready.clear_ready();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn a_replaced_record_wakes_its_workspace_and_a_growing_log_does_not() {
            let dir = tempfile::tempdir().unwrap();
            let (wake, mut woken) = mpsc::unbounded_channel();
            let watch = Watch::new(wake).unwrap();
            let key = Key::new("default", "a");
            watch.add(dir.path(), &key);
            std::fs::write(dir.path().join("console.log"), "x").unwrap();
            microagent_base::durable::write(&dir.path().join("machine.json"), b"{}").unwrap();
            assert_eq!(woken.recv().await, Some(key));
            assert!(woken.try_recv().is_err(), "the log must not wake anybody");
        }
    }
}
