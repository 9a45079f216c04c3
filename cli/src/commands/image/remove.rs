//! `microagent image remove` and `prune`: what is to go.

use std::time::Duration;

use microagent_controller::image_uses;
use microagent_images::{Error, Prune, Remove, Removed, RemovedImage, Store};
use serde_json::json;

use super::failure;
use crate::{
    context::Context,
    failure::{FAILED, Result},
    output::{self, Format, human},
};

/// Each image by itself: one that cannot be removed keeps no other.
pub(super) fn remove(context: &Context, store: &Store, images: &[String], force: bool) -> Result<u8> {
    let (mut freed, mut codes) = (0, Vec::new());
    for image in images {
        let how = Remove { force, ..Remove::default() };
        match store.remove(image, &how, || image_uses(&context.paths)) {
            Ok(removed) => {
                for image in &removed.images {
                    output::line(&format!("removed {}", name(image)))?;
                }
                freed += removed.bytes();
            }
            Err(error) => {
                let unknown = matches!(error, Error::ImageNotFound { .. });
                let failure = failure(error);
                codes.push(
                    if unknown { failure.help("list them with `microagent image list`") } else { failure }.report(),
                );
            }
        }
    }
    if codes.len() < images.len() {
        output::note(&format!("freed {}", human::bytes(freed)));
    }
    codes.sort_unstable();
    codes.dedup();
    Ok(match codes.as_slice() {
        [] => 0,
        [code] => *code,
        _ => FAILED,
    })
}

pub(super) fn prune(
    context: &Context,
    store: &Store,
    all: bool,
    older_than: Option<Duration>,
    dry_run: bool,
    format: Format,
) -> Result<u8> {
    let what = Prune { all, older_than, dry_run, ..Prune::default() };
    let removed = store.prune(&what, || image_uses(&context.paths)).map_err(failure)?;
    let mut value = serde_json::to_value(&removed)?;
    value["bytes"] = json!(removed.bytes());
    value["dryRun"] = json!(dry_run);
    match output::structured(format, &value)? {
        Some(text) => output::print(&text)?,
        None if format == Format::Name => {
            let names: String = removed.images.iter().map(|image| format!("{}\n", name(image))).collect();
            output::print(&names)?;
        }
        None => output::print(&told(&removed, dry_run))?,
    }
    Ok(0)
}

fn name(image: &RemovedImage) -> String {
    image.reference.clone().unwrap_or_else(|| image.digest.to_string())
}

/// What went, and what it came to.
fn told(removed: &Removed, dry_run: bool) -> String {
    let (remove, free) = if dry_run { ("would remove", "would free") } else { ("removed", "freed") };
    let mut text = String::new();
    for image in &removed.images {
        text.push_str(&format!("{remove} {}\n", human::one_line(&name(image))));
    }
    for disk in &removed.root_disks {
        let of = disk.image.map_or("an interrupted build".to_owned(), |image| image.short());
        text.push_str(&format!("{remove} root disk of {of} ({})\n", human::bytes(disk.bytes)));
    }
    for (tally, what) in
        [(removed.transfers, "interrupted transfers"), (removed.blobs, "blobs that no image has any longer")]
    {
        if tally.count > 0 {
            text.push_str(&format!("{remove} {} {what} ({})\n", tally.count, human::bytes(tally.bytes)));
        }
    }
    text.push_str(&format!("{free} {}\n", human::bytes(removed.bytes())));
    text
}

#[cfg(test)]
mod tests {
    use microagent_base::Digest;
    use microagent_images::{RemovedDisk, Tally};

    use super::*;

    #[test]
    fn what_was_pruned_is_told_line_by_line() {
        let digest = Digest::of(b"x");
        let removed = Removed {
            images: vec![
                RemovedImage { reference: Some("r.example/x:1".to_owned()), digest },
                RemovedImage { reference: None, digest },
            ],
            root_disks: vec![
                RemovedDisk { image: Some(digest), bytes: 1 << 20 },
                RemovedDisk { image: None, bytes: 4096 },
            ],
            transfers: Tally { count: 2, bytes: 1024 },
            blobs: Tally { count: 3, bytes: 2048 },
        };
        insta::assert_snapshot!(told(&removed, false), @r"
        removed r.example/x:1
        removed sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
        removed root disk of 2d711642b726 (1.0 MiB)
        removed root disk of an interrupted build (4.0 KiB)
        removed 2 interrupted transfers (1.0 KiB)
        removed 3 blobs that no image has any longer (2.0 KiB)
        freed 1.0 MiB
        ");
        assert_eq!(told(&Removed::default(), true), "would free 0 B\n");
    }
}
