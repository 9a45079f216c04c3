//! The last answer of the supervisor about each machine, for as long as it must still hold.
//!
//! Asking costs a process. Ten thousand settled machines, each looked at every five minutes, would be 33 processes a second that
//! all say what they said before. So an answer is kept with the identity and the time of the machine's directory, taken *before*
//! the supervisor was asked, and a later look takes it again while both of these are so:
//!
//! - The directory is the same, with the same time. Supervisors change a machine's record by a rename in it, which moves the time.
//! - The machine has ended or never was, or its owner lives: the one process that ends with it, known by id and start time.
//!
//! This is still level-triggered. What decides is the state of the host at this look (the directory's time, the owner in the
//! process table), never a notification that was received or missed, nor what was last done; the protocol promises that a machine
//! that differs shows in one of the two. What the promise leaves out is not taken from here: an answer about a directory that
//! changed a moment ago (file times have coarse ticks), one about a live machine that names no owner, and
//! [`Machine::active_at`], for which the supervisor must be asked. An answer is asked anew after an hour in any case, after every
//! action on the machine, and by every controller that starts. And nothing is done on the strength of one: actions go to the
//! supervisor, which looks for itself and refuses or repeats nothing.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{Machine, MachineState};

/// How long an answer holds at most. It bounds the harm of a supervisor that breaks the protocol's promise; at ten thousand
/// machines it is three calls a second.
const GOOD_FOR: Duration = Duration::from_secs(3600);
/// Two changes so close to each other may leave the same time: the kernel's clock for files ticks every 1 to 10 ms.
const COARSE: Duration = Duration::from_millis(50);

/// A machine's directory as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    /// It changed so shortly before that its time may not tell a change after.
    young: bool,
}

/// The answers, by UID.
#[derive(Default)]
pub(super) struct Sights {
    known: Mutex<HashMap<Box<str>, Sight>>,
    /// The boots that a supervisor said it started, until the first look at each.
    started: Mutex<HashMap<Box<str>, Box<str>>>,
}

struct Sight {
    place: Place,
    asked: Instant,
    backend: Box<str>,
    /// The process that must live for it; `None` when the machine has ended or never was.
    owner: Option<ProcessId>,
    /// As JSON, which is a third of what the decoded machine takes.
    machine: Box<[u8]>,
}

impl Place {
    /// The directory as it is; `None` when there is none.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn of(dir: &Path) -> io::Result<Option<Self>> {
        let meta = match fs::metadata(dir) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            young: is_young(meta.modified()?),
        }))
    }

    fn is_still(&self, now: &Self) -> bool {
        (self.device, self.inode, self.modified) == (now.device, now.inode, now.modified)
    }
}

/// Whether a file that changed at this time may change again and keep it. A time to come is none that can be trusted.
pub(super) fn is_young(changed: SystemTime) -> bool {
    SystemTime::now().duration_since(changed).is_ok_and(|age| age < COARSE) || changed > SystemTime::now()
}

impl Sights {
    /// The note of the backend and the answer that were kept for this machine, when they still hold.
    pub(super) fn recall(&self, uid: &str, place: &Place, now: Instant) -> Option<(String, Machine)> {
        let mut known = self.lock();
        let sight = known.get(uid)?;
        let holds = sight.place.is_still(place)
            && now.duration_since(sight.asked) < GOOD_FOR
            && sight.owner.is_none_or(|owner| owner.is_alive());
        if !holds {
            known.remove(uid);
            return None;
        }
        Some((sight.backend.to_string(), serde_json::from_slice(&sight.machine).ok()?))
    }

    /// Keeps an answer that may hold for a while. `place` is the directory as it was before the supervisor was asked, at `asked`.
    pub(super) fn keep(&self, uid: &str, place: Place, asked: Instant, backend: &str, machine: &Machine) {
        let over = matches!(machine.state, MachineState::Exited | MachineState::Absent);
        let owner =
            machine.owner.filter(|_| !over).map(|o| ProcessId { pid: o.pid, start_time: o.start_time, boot: None });
        let encoded = serde_json::to_vec(machine);
        let mut known = self.lock();
        match encoded {
            Ok(text) if !place.young && machine.uid == uid && (over || owner.is_some()) => {
                let (backend, machine) = (backend.into(), text.into_boxed_slice());
                known.insert(uid.into(), Sight { place, asked, backend, owner, machine });
            }
            _ => {
                known.remove(uid);
            }
        }
    }

    /// The machine is acted on, or gone.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// The supervisor said that it started this boot.
    pub(super) fn started(&self, uid: &str, boot_id: &str) {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.into(), boot_id.into());
    }

    /// How the first answer after a start contradicts what was said then. Asked once a start: should the supervisor stay with it,
    /// it is believed, and the machine started anew, but not without a pause.
    pub(super) fn contradiction(&self, uid: &str, machine: &Machine) -> Option<String> {
        let boot_id = self.started.lock().unwrap_or_else(PoisonError::into_inner).remove(uid)?;
        let seen = match &machine.identity {
            Some(identity) if *identity.boot_id == *boot_id => return None,
            Some(identity) => format!("that it is boot {}", identity.boot_id),
            None => "that there is no machine".to_owned(),
        };
        Some(format!("the supervisor said that it started boot {boot_id}, and now says {seen}; replace the supervisor"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Sight>> {
        // No code that can panic changes the map, so a poisoned one is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        process::{Child, Command, Stdio},
    };

    use microagent_supervisor_protocol::Owner;
    use tempfile::TempDir;

    use super::*;

    /// A directory that has been as it is for long.
    fn old_dir() -> (TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        age(dir.path());
        let place = Place::of(dir.path()).unwrap().unwrap();
        (dir, place)
    }

    fn age(dir: &Path) {
        File::open(dir).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    }

    /// A process that ends with its pipe.
    fn process() -> (Child, Owner) {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        (child, Owner { pid: id.pid, start_time: id.start_time })
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    fn running(owner: Option<Owner>) -> Machine {
        Machine { owner, ..Machine::bare("u-1", MachineState::Running) }
    }

    fn own() -> Option<Owner> {
        let own = ProcessId::own().unwrap();
        Some(Owner { pid: own.pid, start_time: own.start_time })
    }

    fn knows(sights: &Sights, place: &Place) -> bool {
        sights.recall("u-1", place, Instant::now()).is_some()
    }

    #[test]
    fn an_answer_holds_while_the_directory_is_untouched_and_the_owner_lives() {
        let (dir, place) = old_dir();
        let sights = Sights::default();
        sights.keep("u-1", place, Instant::now(), "Qemu", &running(own()));
        let later = Place::of(dir.path()).unwrap().unwrap();
        let (backend, machine) = sights.recall("u-1", &later, Instant::now()).unwrap();
        assert_eq!((backend.as_str(), machine), ("Qemu", running(own())));
    }

    #[test]
    fn a_rename_in_the_directory_ends_an_answer() {
        let (dir, place) = old_dir();
        let sights = Sights::default();
        sights.keep("u-1", place, Instant::now(), "Qemu", &running(own()));
        microagent_base::durable::replace(&dir.path().join("machine.json"), b"1").unwrap();
        assert!(!knows(&sights, &Place::of(dir.path()).unwrap().unwrap()));
        assert!(!knows(&sights, &place), "what was found wrong once is not taken again");
    }

    #[test]
    fn another_directory_of_the_same_name_ends_an_answer() {
        let (dir, place) = old_dir();
        let sights = Sights::default();
        sights.keep("u-1", place, Instant::now(), "Qemu", &running(own()));
        let name = dir.path().join("vm");
        fs::create_dir(&name).unwrap();
        age(&name);
        let other = Place { modified: place.modified, ..Place::of(&name).unwrap().unwrap() };
        assert!(!knows(&sights, &other));
    }

    #[test]
    fn an_answer_about_a_directory_that_changed_a_moment_ago_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::open(dir.path()).unwrap();
        let sights = Sights::default();
        // A time to come, as after a clock was set back, can come again.
        for moved in [Duration::ZERO, Duration::from_secs(3600)] {
            file.set_modified(SystemTime::now() + moved).unwrap();
            let place = Place::of(dir.path()).unwrap().unwrap();
            sights.keep("u-1", place, Instant::now(), "Qemu", &running(own()));
            assert!(!knows(&sights, &place), "{moved:?}");
        }
    }

    #[test]
    fn an_answer_ends_with_the_machines_owner() {
        let (_dir, place) = old_dir();
        let sights = Sights::default();
        let (child, owner) = process();
        sights.keep("u-1", place, Instant::now(), "Qemu", &running(Some(owner)));
        assert!(knows(&sights, &place));
        end(child);
        assert!(!knows(&sights, &place));
    }

    #[test]
    fn another_process_with_the_owners_id_is_not_the_owner() {
        let (_dir, place) = old_dir();
        let sights = Sights::default();
        let owner = own().map(|owner| Owner { start_time: owner.start_time + 1, ..owner });
        sights.keep("u-1", place, Instant::now(), "Qemu", &running(owner));
        assert!(!knows(&sights, &place));
    }

    #[test]
    fn a_live_machine_that_names_no_owner_is_asked_about_every_time_and_an_ended_one_is_not() {
        let (_dir, place) = old_dir();
        let sights = Sights::default();
        sights.keep("u-1", place, Instant::now(), "Qemu", &running(None));
        assert!(!knows(&sights, &place));
        for state in [MachineState::Exited, MachineState::Absent] {
            sights.keep("u-1", place, Instant::now(), "Qemu", &Machine::bare("u-1", state));
            assert!(knows(&sights, &place), "{state:?}");
        }
    }

    #[test]
    fn an_answer_about_another_uid_is_not_kept_and_is_nobody_elses() {
        let (_dir, place) = old_dir();
        let sights = Sights::default();
        sights.keep("u-2", place, Instant::now(), "Qemu", &running(own()));
        assert!(sights.recall("u-2", &place, Instant::now()).is_none());
        sights.keep("u-1", place, Instant::now(), "Qemu", &running(own()));
        assert!(sights.recall("u-2", &place, Instant::now()).is_none());
    }

    #[test]
    fn an_answer_is_asked_anew_after_an_hour_an_action_and_a_restart() {
        let (_dir, place) = old_dir();
        let sights = Sights::default();
        let asked = Instant::now();
        let keep = || sights.keep("u-1", place, asked, "Qemu", &running(own()));
        keep();
        assert!(sights.recall("u-1", &place, asked + GOOD_FOR - Duration::from_secs(1)).is_some());
        assert!(sights.recall("u-1", &place, asked + GOOD_FOR).is_none());
        keep();
        sights.forget("u-1");
        assert!(!knows(&sights, &place));
        keep();
        assert!(!knows(&Sights::default(), &place), "a controller that starts knows nothing");
    }

    #[test]
    fn a_start_that_the_next_look_knows_nothing_of_is_told_once() {
        let sights = Sights::default();
        let boot = |id: &str| microagent_supervisor_protocol::Identity {
            uid: "u-1".to_owned(),
            name: "default/w".to_owned(),
            generation: 1,
            boot_id: id.to_owned(),
        };
        let seen = |id: Option<&str>| Machine { identity: id.map(boot), ..running(None) };
        assert_eq!(sights.contradiction("u-1", &seen(None)), None, "nothing was started");
        for (id, says) in [(None, "no machine"), (Some("b-2"), "b-2")] {
            sights.started("u-1", "b-1");
            let told = sights.contradiction("u-1", &seen(id)).unwrap();
            assert!(told.contains("b-1") && told.contains(says), "{told}");
            assert_eq!(sights.contradiction("u-1", &seen(id)), None, "it is told once");
        }
        sights.started("u-1", "b-1");
        assert_eq!(sights.contradiction("u-1", &seen(Some("b-1"))), None);
    }
}
