//! `microagent image list` and `df`: what is there, and what it takes.

use jiff::Timestamp;
use microagent_images::{Share, Store, StoredImage, Uses};
use serde_json::{Value, json};

use super::uses;
use crate::{
    context::Context,
    failure::Result,
    output::{self, Format, human, table::Table},
};

/// An image, and who uses it.
struct Row {
    image: StoredImage,
    used_by: Vec<String>,
}

pub(super) fn list(context: &Context, store: &Store, format: Format) -> Result<u8> {
    let uses = uses(context);
    let rows: Vec<Row> = store.list()?.into_iter().map(|image| row(image, &uses)).collect();
    let values: Vec<_> = rows.iter().map(brief).collect();
    let text = match output::structured(format, &values)? {
        Some(text) => text,
        None if format == Format::Name => rows.iter().map(|row| format!("{}\n", name(&row.image))).collect(),
        None => table(&rows, format == Format::Wide, Timestamp::now()),
    };
    output::print(&text)?;
    Ok(0)
}

pub(super) fn df(context: &Context, store: &Store, format: Format) -> Result<u8> {
    let usage = store.disk_usage(&uses(context))?;
    let text = match output::structured(format, &usage)? {
        Some(text) => text,
        None => {
            let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
            for (kind, share) in
                [("Images", usage.images), ("Root disks", usage.root_disks), ("Transfers", usage.transfers)]
            {
                table.row(cells(kind, &share));
            }
            table.render("")
        }
    };
    output::print(&text)?;
    Ok(0)
}

fn cells(kind: &str, share: &Share) -> [String; 5] {
    let percent = (u128::from(share.reclaimable) * 100).checked_div(u128::from(share.bytes)).unwrap_or(0);
    [
        kind.to_owned(),
        share.total.to_string(),
        share.active.to_string(),
        human::bytes(share.bytes),
        format!("{} ({percent}%)", human::bytes(share.reclaimable)),
    ]
}

fn row(image: StoredImage, uses: &Uses) -> Row {
    let used_by = uses.of(&image.digest, image.reference.as_deref());
    Row { image, used_by }
}

/// An image of the list, for programs.
fn brief(Row { image, used_by }: &Row) -> Value {
    json!({
        "reference": image.reference,
        "digest": image.digest,
        "platform": image.platform.to_string(),
        "size": image.size,
        "rootDisk": image.root_disk,
        "usedBy": used_by,
        "pulled": image.pulled,
        "complete": image.complete,
    })
}

fn name(image: &StoredImage) -> String {
    image.reference.clone().unwrap_or_else(|| image.digest.to_string())
}

fn table(rows: &[Row], wide: bool, now: Timestamp) -> String {
    let mut header = vec!["IMAGE", "DIGEST", "PLATFORM", "SIZE", "ROOT DISK", "USED", "PULLED", "STATE"];
    if wide {
        header.push("USED BY");
    }
    let mut table = Table::new(&header);
    for Row { image, used_by } in rows {
        let mut cells = vec![
            image.reference.clone().unwrap_or_default(),
            image.digest.short(),
            image.platform.to_string(),
            human::bytes(image.size),
            image.root_disk.map(human::bytes).unwrap_or_default(),
            used_by.len().to_string(),
            image.pulled.map(|t| human::age(t, now)).unwrap_or_default(),
            if image.complete { "complete" } else { "incomplete" }.to_owned(),
        ];
        if wide {
            cells.push(used_by.join(", "));
        }
        table.row(cells);
    }
    table.render("")
}

#[cfg(test)]
mod tests {
    use microagent_base::Digest;
    use microagent_images::{Held, host_platform};

    use super::*;

    #[test]
    fn the_wide_table_names_who_uses_an_image() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let image = |reference: Option<&str>, content: &[u8]| StoredImage {
            reference: reference.map(str::to_owned),
            digest: Digest::of(content),
            platform: "linux/amd64".parse().unwrap_or_else(|_| host_platform()),
            size: 2 << 20,
            root_disk: reference.map(|_| 5 << 20),
            pulled: "2026-11-24T11:00:00Z".parse().ok(),
            complete: reference.is_some(),
        };
        let mut uses = Uses::default();
        uses.add("workspace default/web", Held::Name("r.example/web:1".to_owned()));
        uses.add("retained disks of default/db", Held::Digest(Digest::of(b"web")));
        let rows = [row(image(Some("r.example/web:1"), b"web"), &uses), row(image(None, b"old"), &uses)];
        insta::assert_snapshot!(table(&rows, true, now), @r"
        IMAGE             DIGEST         PLATFORM      SIZE      ROOT DISK   USED   PULLED   STATE        USED BY
        r.example/web:1   4b5e57f6eb2f   linux/amd64   2.0 MiB   5.0 MiB     2      60m      complete     retained disks of default/db, workspace default/web
        <none>            cba06b5736fa   linux/amd64   2.0 MiB   <none>      0      60m      incomplete   <none>
        ");
    }

    #[test]
    fn what_takes_nothing_has_nothing_to_reclaim() {
        assert_eq!(cells("Images", &Share::default())[4], "0 B (0%)");
        let full = Share { total: 1, active: 1, bytes: u64::MAX, reclaimable: u64::MAX };
        assert!(cells("Images", &full)[4].ends_with(" (100%)"));
    }
}
