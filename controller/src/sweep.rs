//! Machines that belong to no workspace: what is left when a record is lost, or when a start outlived the one who asked for it. They are
//! ended after a grace; what they wrote is kept.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::{records::Roster, world::World};

/// How long a machine must have belonged to nobody, at every look. Long enough for a person to put a record back that was moved away
/// by mistake.
pub const GRACE: Duration = Duration::from_secs(600);

/// How often it is looked.
pub(crate) const INTERVAL: Duration = Duration::from_secs(60);

/// Since when each machine has belonged to nobody.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    since: HashMap<String, Instant>,
}

impl Sweep {
    /// Takes a look; gives the machines that have belonged to nobody for the grace. `found` was listed before `known`: a machine is made
    /// after its record.
    fn due(&mut self, found: Vec<String>, known: &BTreeSet<String>, now: Instant) -> Vec<String> {
        let orphans: BTreeSet<String> = found.into_iter().filter(|uid| !known.contains(uid)).collect();
        self.since.retain(|uid, _| orphans.contains(uid));
        let is_due = |uid: &String| now.duration_since(*self.since.entry(uid.clone()).or_insert(now)) >= GRACE;
        orphans.into_iter().filter(is_due).collect()
    }

    /// One look, and the end of what is due.
    pub(crate) async fn look(&mut self, world: &impl World, roster: &dyn Roster) {
        let found = world.machines().await;
        let mut known = None;
        roster.show(&mut |records, _| {
            // Whose machines these are is not known while a record cannot be read.
            known = records.unreadable().is_empty().then(|| records.iter().map(|record| record.uid.clone()).collect());
        });
        let Some(known) = known else {
            self.since.clear();
            return;
        };
        for uid in self.due(found, &known, Instant::now()) {
            match world.sweep(&uid).await {
                Ok(()) => tracing::warn!(machine = uid, "a machine that belonged to no workspace is ended and removed"),
                Err(fault) => tracing::warn!(machine = uid, code = fault.code, "{}; it is tried again", fault.message),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_machine_is_an_orphan_when_nobody_knew_it_at_every_look_of_the_grace() {
        let mut sweep = Sweep::default();
        let start = Instant::now();
        let known: BTreeSet<String> = names(&["a"]).into_iter().collect();
        assert!(sweep.due(names(&["a", "b", "c"]), &known, start).is_empty());
        // The record of `b` is put back, and goes again.
        let both: BTreeSet<String> = names(&["a", "b"]).into_iter().collect();
        assert!(sweep.due(names(&["a", "b", "c"]), &both, start + GRACE / 2).is_empty());
        assert!(sweep.due(names(&["a", "b", "c"]), &known, start + GRACE - Duration::from_secs(1)).is_empty());
        assert_eq!(sweep.due(names(&["a", "b", "c"]), &known, start + GRACE), names(&["c"]));
        assert!(sweep.due(names(&["a"]), &known, start + GRACE * 3).is_empty());
        assert!(sweep.since.is_empty(), "what is gone is forgotten");
    }
}
