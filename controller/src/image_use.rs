//! Which images the workspaces of this host need: what no removal from the image store may take away.
//!
//! Told from what is on the disk, so that it holds whichever program asks, and whether a controller is up or not: the
//! records of workspaces, which are written before anything is done for them, and the disks of machines, of workspaces
//! that are gone and of nobody, whose names say what they lie over. One store may serve several state directories: each
//! is written down beside it before its controller looks for the first image.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use microagent_base::{
    Digest,
    durable::{self, DurableError, TEMPORARY_PREFIX},
};
use microagent_images::{Held, ImageReference, Uses};
use serde::{Deserialize, Serialize};

use crate::{Paths, records::list};

/// A state directory whose workspaces use the store.
#[derive(Serialize, Deserialize)]
struct User {
    state: PathBuf,
}

/// As much of a record as tells of its image, also when another version wrote it.
#[derive(Deserialize)]
struct Sketch {
    uid: String,
    workspace: SketchWorkspace,
    #[serde(default)]
    memory: SketchMemory,
}

#[derive(Deserialize)]
struct SketchWorkspace {
    spec: SketchSpec,
}

#[derive(Deserialize)]
struct SketchSpec {
    image: String,
}

#[derive(Default, Deserialize)]
struct SketchMemory {
    image: Option<SketchImage>,
}

#[derive(Deserialize)]
struct SketchImage {
    reference: String,
    digest: Digest,
}

/// Notes that the workspaces of this state directory use the images of this cache.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn register(paths: &Paths) -> Result<(), DurableError> {
    let dir = paths.image_users();
    durable::private_dir(&dir)?;
    let name = Digest::of(paths.state.as_os_str().as_encoded_bytes()).short();
    let path = dir.join(format!("{name}.json"));
    if path.exists() {
        return Ok(());
    }
    durable::write_json(&path, &User { state: paths.state.clone() })
}

/// All uses of the images in the cache of `paths`.
///
/// # Errors
/// Something that may tell of a use cannot be read: which, why, and what to do. Nothing may be removed then.
pub fn image_uses(paths: &Paths) -> Result<Uses, String> {
    let mut uses = Uses::default();
    let mut states = vec![paths.state.clone()];
    let dir = paths.image_users();
    for name in names(&dir)? {
        let path = dir.join(&name);
        let user: Option<User> = durable::read_json(&path).map_err(|e| e.to_string())?;
        states.extend(user.map(|user| user.state).filter(|state| *state != paths.state));
    }
    for state in states {
        of_state(&Paths { state, cache: paths.cache.clone() }, &mut uses)?;
    }
    Ok(uses)
}

fn of_state(paths: &Paths, uses: &mut Uses) -> Result<(), String> {
    let mut owners = HashMap::new();
    let dir = paths.workspaces();
    for namespace in names(&dir)? {
        for name in names(&dir.join(&namespace))? {
            let Some(stem) = name.strip_suffix(".json") else { continue };
            let by = format!("workspace {namespace}/{stem}");
            let path = dir.join(&namespace).join(&name);
            let sketch: Option<Sketch> = durable::read_json(&path).map_err(|e| format!("{by}: {e}"))?;
            // It went meanwhile.
            let Some(sketch) = sketch else { continue };
            let image = sketch.workspace.spec.image;
            match sketch.memory.image {
                Some(pinned) if pinned.reference == image => uses.add(&by, Held::Digest(pinned.digest)),
                pinned => {
                    // Its machine may still run from the image before.
                    pinned.into_iter().for_each(|pinned| uses.add(&by, Held::Digest(pinned.digest)));
                    // What is no reference names no image.
                    if let Ok(reference) = image.parse::<ImageReference>() {
                        uses.add(&by, Held::Name(reference.name()));
                    }
                }
            }
            owners.insert(sketch.uid, by);
        }
    }
    for uid in names(&paths.machines())? {
        let by = owners.get(&uid).cloned().unwrap_or_else(|| format!("machine {uid}"));
        of_disks(&paths.machine(&uid).disks(), &by, uses)?;
    }
    for uid in names(&paths.orphans())? {
        of_disks(&paths.orphan(&uid), &format!("disks of nobody in {}", paths.orphan(&uid).display()), uses)?;
    }
    let retained = paths.all_retained();
    for namespace in names(&retained)? {
        for name in names(&retained.join(&namespace))? {
            let home = retained.join(&namespace).join(&name);
            for uid in names(&home)? {
                of_disks(&home.join(uid), &format!("retained disks of {namespace}/{name}"), uses)?;
            }
        }
    }
    Ok(())
}

/// The images that the overlays in a directory lie over.
fn of_disks(dir: &Path, by: &str, uses: &mut Uses) -> Result<(), String> {
    for name in names(dir)? {
        if let Some(beginning) = Paths::image_of_overlay(&name) {
            uses.add(by, Held::Beginning(beginning.to_owned()));
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>, String> {
    let mut names = list(dir).map_err(|e| e.to_string())?;
    names.retain(|name| !name.starts_with(TEMPORARY_PREFIX));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn host() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
        paths.create().unwrap();
        (dir, paths)
    }

    fn record(paths: &Paths, name: &str, image: &str, pinned: Option<(&str, Digest)>) {
        let path = paths.workspaces().join("default").join(format!("{name}.json"));
        durable::private_dir(path.parent().unwrap()).unwrap();
        let image_memory = pinned.map(|(reference, digest)| json!({"reference": reference, "digest": digest}));
        let record = json!({
            "uid": format!("uid-{name}"), "ofAnotherVersion": 1,
            "workspace": {"spec": {"image": image}}, "memory": {"image": image_memory},
        });
        durable::write_json(&path, &record).unwrap();
    }

    fn overlay(dir: &Path, image: &Digest) {
        durable::private_dir(dir).unwrap();
        fs::write(dir.join(format!("overlay-{}.ext4", image.short())), "").unwrap();
        fs::write(dir.join("disk-data.ext4"), "").unwrap();
    }

    #[test]
    fn records_machines_and_disks_that_were_kept_hold_their_images() {
        let (_dir, paths) = host();
        let image = |n: u8| Digest::of(&[n]);
        record(&paths, "new", "alpine", None);
        record(&paths, "pinned", "alpine", Some(("alpine", image(1))));
        record(&paths, "changed", "busybox:1", Some(("alpine", image(2))));
        overlay(&paths.machine("uid-pinned").disks(), &image(3));
        overlay(&paths.machine("other").disks(), &image(4));
        overlay(&paths.orphan("gone"), &image(5));
        overlay(&paths.all_retained().join("team/db/uid"), &image(6));
        let uses = image_uses(&paths).unwrap();
        let by = |n: u8, name: &str| uses.of(&image(n), [name]).join(", ");
        assert_eq!(by(0, "docker.io/library/alpine:latest"), "workspace default/new");
        assert_eq!(by(0, "docker.io/library/busybox:1"), "workspace default/changed");
        assert_eq!((by(1, ""), by(2, "")), ("workspace default/pinned".into(), "workspace default/changed".into()));
        assert_eq!((by(3, ""), by(4, "")), ("workspace default/pinned".into(), "machine other".into()));
        assert!(by(5, "").starts_with("disks of nobody in "));
        assert_eq!((by(6, ""), by(7, "")), ("retained disks of team/db".into(), String::new()));
    }

    #[test]
    fn a_record_that_cannot_be_read_may_be_of_anything() {
        let (_dir, paths) = host();
        durable::private_dir(&paths.workspaces().join("default")).unwrap();
        fs::write(paths.workspaces().join("default/web.json"), "{").unwrap();
        let why = image_uses(&paths).unwrap_err();
        assert!(why.contains("workspace default/web") && why.contains("move the file away"), "{why}");
    }

    #[test]
    fn the_state_directories_that_share_a_cache_know_of_each_other() {
        let (dir, one) = host();
        let two = Paths { state: dir.path().join("other"), ..one.clone() };
        two.create().unwrap();
        record(&two, "web", "alpine", None);
        let name = ["docker.io/library/alpine:latest"];
        assert!(image_uses(&one).unwrap().of(&Digest::of(b""), name).is_empty(), "it was never used");
        for _ in 0..2 {
            register(&two).unwrap();
        }
        assert_eq!(image_uses(&one).unwrap().of(&Digest::of(b""), name), ["workspace default/web"]);
        // One that is gone for good uses nothing.
        fs::remove_dir_all(&two.state).unwrap();
        assert!(image_uses(&one).unwrap().of(&Digest::of(b""), name).is_empty());
    }
}
