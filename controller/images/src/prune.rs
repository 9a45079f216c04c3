//! Taking away what nobody uses.
//!
//! Who begins to use an image writes down first that it will (the record of a workspace), and then looks for the image
//! under the shared lock that pulls and builds hold. A removal asks for the uses under the exclusive one: either it is
//! told of the use, or whoever begins finds the image gone and pulls it. A removal that is killed has taken names away
//! before disks, and disks before blobs: nothing that is left refers to what is gone, and the next one goes on.

use std::time::Duration;

use jiff::Timestamp;
use microagent_base::{Digest, Silent};
use serde::Serialize;

use crate::{
    Error, Result, Store, Uses,
    index::{self, Index},
    lock::Sweep,
    names::Meant,
    trash::{DiskLitter, Litter, Removed, RemovedDisk, RemovedImage, Tally, tally},
    wire::Descriptor,
};

/// How long a removal waits for pulls and builds to end: long enough for a short one, short enough for a person.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// What to prune.
#[derive(Clone, Debug)]
pub struct Prune {
    /// Named images too.
    pub all: bool,
    /// Only what has been on this host for so long: images since they got their names, root disks since they were
    /// built, transfers since their last byte. Blobs that nobody has go always.
    pub older_than: Option<Duration>,
    /// Only says what would go.
    pub dry_run: bool,
    /// How long to wait for the pulls and builds under way.
    pub wait: Duration,
}

impl Default for Prune {
    fn default() -> Self {
        Self { all: false, older_than: None, dry_run: false, wait: WAIT }
    }
}

/// How to remove an image.
#[derive(Clone, Debug)]
pub struct Remove {
    /// Takes the name away also when the image is in use; the image itself then stays without a name.
    pub force: bool,
    /// How long to wait for the pulls and builds under way.
    pub wait: Duration,
}

impl Default for Remove {
    fn default() -> Self {
        Self { force: false, wait: WAIT }
    }
}

/// What takes how much of the host's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// How many there are.
    pub total: usize,
    /// How many of them are in use.
    pub active: usize,
    /// The bytes that they take on the host's disk, each counted once however many share it.
    pub bytes: u64,
    /// The bytes that pruning all would free.
    pub reclaimable: u64,
}

/// How much of the host's disk the store takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskUsage {
    /// The images, by manifest, with their blobs.
    pub images: Share,
    /// The root disks made from them.
    pub root_disks: Share,
    /// What is on its way, or was left by interrupted pulls.
    pub transfers: Share,
}

/// What is to go.
struct Plan {
    /// The index as it is to be.
    index: Index,
    images: Vec<RemovedImage>,
    disks: Vec<DiskLitter>,
    transfers: Vec<Litter>,
    blobs: Vec<Litter>,
}

impl Plan {
    fn removed(&self) -> Removed {
        let disk =
            |d: &DiskLitter| RemovedDisk { image: d.disk.as_ref().map(|disk| disk.manifest), bytes: d.litter.bytes };
        Removed {
            images: self.images.clone(),
            root_disks: self.disks.iter().map(disk).collect(),
            transfers: tally(&self.transfers),
            blobs: tally(&self.blobs),
        }
    }

    fn carry_out(self, store: &Store, sweep: &Sweep) -> Result<Removed> {
        let removed = self.removed();
        // Nobody else changes the index: whoever does holds the lock of those who use blobs.
        Index::update(&store.root, |index| {
            let changed = index.manifests.len() != self.index.manifests.len() || !removed.images.is_empty();
            *index = self.index;
            Ok(((), changed))
        })?;
        let disks = self.disks.iter().map(|d| &d.litter);
        for litter in disks.chain(&self.transfers).chain(&self.blobs) {
            litter.remove(sweep)?;
        }
        Ok(removed)
    }
}

impl Store {
    /// Removes what nobody uses: images without a name, root disks, interrupted transfers, blobs of no image; with
    /// [`Prune::all`] also named images. What `uses` tells stays, and what is being pulled, built or pushed now.
    ///
    /// # Errors
    /// [`Error::Busy`] when pulls or builds do not end in time, [`Error::UsesUnknown`] when `uses` fails; nothing was
    /// removed then. Those of the operating system.
    pub fn prune(&self, what: &Prune, uses: impl FnOnce() -> Result<Uses, String>) -> Result<Removed> {
        let unknown = |why| Error::UsesUnknown { why };
        if what.dry_run {
            return Ok(self.unused(what, &uses().map_err(unknown)?)?.removed());
        }
        let sweep = self.at_rest(what.wait, &Silent)?;
        let plan = self.unused(what, &uses().map_err(unknown)?)?;
        plan.carry_out(self, &sweep)
    }

    /// Takes away a name, or an image by its digest with all its names. The image itself goes, with its root disks and
    /// the blobs that no other image has, when no name is left and nobody uses it.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`]; [`Error::ImageInUse`] unless it is forced, and even then when there is no name left to
    /// take; those of [`Store::prune`].
    pub fn remove(&self, wanted: &str, how: &Remove, uses: impl FnOnce() -> Result<Uses, String>) -> Result<Removed> {
        let sweep = self.at_rest(how.wait, &Silent)?;
        let uses = uses().map_err(|why| Error::UsesUnknown { why })?;
        let mut index = Index::read(&self.root)?;
        let meant = index.meant(wanted)?;
        let (mut images, mut gone) = (Vec::new(), Vec::new());
        for digest in manifests(&index, |e| meant.is(e)) {
            let hit = |e: &Descriptor| e.digest == digest && meant.is(e);
            let names: Vec<String> = index.names(&digest).map(str::to_owned).collect();
            let taken = |name: &String| matches!(&meant, Meant::Digest(_)) || meant == Meant::Name(name.clone());
            let (taken, kept): (Vec<_>, Vec<_>) = names.into_iter().partition(taken);
            // Another name keeps the image for those who hold it by its digest.
            let by = match kept.as_slice() {
                [] => uses.of(&digest, taken.iter().map(String::as_str)),
                _ => taken.iter().flat_map(|name| uses.of_name(name)).collect(),
            };
            if !by.is_empty() && (!how.force || taken.is_empty()) {
                return Err(Error::ImageInUse { reference: wanted.to_owned(), by: by.join(", ") });
            }
            let nameless = taken.is_empty().then_some(RemovedImage { reference: None, digest });
            images.extend(taken.into_iter().map(|name| RemovedImage { reference: Some(name), digest }).chain(nameless));
            if kept.is_empty() && !by.is_empty() {
                index.unname(hit);
            } else {
                index.manifests.retain(|e| !hit(e));
                if kept.is_empty() {
                    gone.push(digest);
                }
            }
        }
        let made_from = |d: &DiskLitter| d.disk.as_ref().is_some_and(|disk| gone.contains(&disk.manifest));
        let plan = Plan {
            images,
            disks: self.disks()?.into_iter().filter(made_from).collect(),
            transfers: Vec::new(),
            blobs: self.stray_blobs(&index)?,
            index,
        };
        plan.carry_out(self, &sweep)
    }

    /// How much of the host's disk the store takes.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn disk_usage(&self, uses: &Uses) -> Result<DiskUsage> {
        let unused = self.unused(&Prune { all: true, dry_run: true, ..Prune::default() }, uses)?.removed();
        let index = Index::read(&self.root)?;
        let manifests = manifests(&index, |_| true);
        let is_used = |digest: &Digest| !uses.of(digest, index.names(digest)).is_empty();
        let disks = self.disks()?;
        let share = |Tally { count, bytes }, active, reclaimable| Share { total: count, active, bytes, reclaimable };
        let blobs = tally(&self.all_blobs()?);
        let disk_active = |d: &&DiskLitter| d.disk.as_ref().is_some_and(|disk| is_used(&disk.manifest));
        let transfers = tally(&self.transfers()?);
        Ok(DiskUsage {
            images: Share {
                total: manifests.len(),
                ..share(blobs, manifests.iter().filter(|d| is_used(d)).count(), unused.blobs.bytes)
            },
            root_disks: share(
                tally(disks.iter().map(|d| &d.litter)),
                disks.iter().filter(disk_active).count(),
                unused.root_disks.iter().map(|d| d.bytes).sum(),
            ),
            transfers: share(transfers, 0, transfers.bytes),
        })
    }

    /// What may go, as the store is now.
    fn unused(&self, what: &Prune, uses: &Uses) -> Result<Plan> {
        let mut index = Index::read(&self.root)?;
        let is_used = |index: &Index, digest: &Digest| !uses.of(digest, index.names(digest)).is_empty();
        let disks = self.disks()?.into_iter().filter(|d| match &d.disk {
            Some(disk) => !is_used(&index, &disk.manifest) && d.litter.is_older(what.older_than),
            // Nobody builds while the store is at rest.
            None => true,
        });
        let disks = disks.collect();
        let now = Timestamp::now();
        let unused = |e: &Descriptor| {
            (what.all || index::name(e).is_none()) && !is_used(&index, &e.digest) && is_old(e, what.older_than, now)
        };
        let (gone, kept): (Vec<_>, Vec<_>) = index.manifests.iter().cloned().partition(unused);
        index.manifests = kept;
        let image = |e: &Descriptor| RemovedImage { reference: index::name(e).map(str::to_owned), digest: e.digest };
        Ok(Plan {
            images: gone.iter().map(image).collect(),
            disks,
            transfers: self.transfers()?.into_iter().filter(|t| t.is_older(what.older_than)).collect(),
            blobs: self.stray_blobs(&index)?,
            index,
        })
    }
}

/// The manifests of these entries, each once.
fn manifests(index: &Index, of: impl Fn(&Descriptor) -> bool) -> Vec<Digest> {
    let mut all: Vec<Digest> = index.manifests.iter().filter(|e| of(e)).map(|e| e.digest).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What does not say since when it is here is old, and what says a time to come too: the clock was set back.
fn is_old(entry: &Descriptor, than: Option<Duration>, now: Timestamp) -> bool {
    let age = index::pulled(entry).and_then(|pulled| Duration::try_from(now - pulled).ok());
    than.is_none_or(|than| age.is_none_or(|age| age >= than))
}
