//! Layers over layers: few names, so that all that can happen to one does.

use arbitrary::{Result, Unstructured};

use super::{
    archive::{Spec, dir, entry, file, hard, symlink},
    disk, layer,
    model::{Model, Node, Op},
    readback::{self, Kind},
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Layers of whiteouts, opaque markers, links and all kinds of files; the disk must be what the model says, or both
/// must refuse.
pub fn stack(data: &[u8]) -> bool {
    let mut u = Unstructured::new(data);
    let mut layers = Vec::new();
    let mut model = Model::new();
    let mut expected = Ok(());
    while !u.is_empty() && layers.len() < 6 {
        let ops = ops(&mut u, &model);
        let entries: Vec<Spec> = ops.iter().map(|(path, op)| spec(path, op)).collect();
        layers.push(layer(&mut u, &entries));
        if expected.is_ok() {
            expected = model.apply(&ops);
        }
    }
    match (disk(layers), expected) {
        (Ok(disk), Ok(())) => {
            readback::compare(&model.paths(), &readback::read(&disk));
            true
        }
        (Err(error), Err(_)) => {
            assert_eq!(error.category(), "LayerEntryRefused", "{error}");
            false
        }
        (Ok(_), Err(refused)) => panic!("built, though {refused:?}"),
        (Err(error), Ok(())) => panic!("refused: {error}"),
    }
}

/// Most of what would be refused is left out, or few stacks would be built.
fn ops(u: &mut Unstructured<'_>, below: &Model) -> Vec<(String, Op)> {
    let mut ops = Vec::new();
    for _ in 0..u.int_in_range(0..=10).unwrap_or(0) {
        let Ok(op) = op(u) else { break };
        ops.push(op);
        if below.clone().apply(&ops).is_err() && !u.ratio(1, 16).unwrap_or(false) {
            ops.pop();
        }
    }
    ops
}

fn op(u: &mut Unstructured<'_>) -> Result<(String, Op)> {
    let path = path(u)?;
    let put = |u: &mut Unstructured<'_>, kind| {
        Ok(Op::Put(Node { kind, mode: u.int_in_range(0..=0o7777)?, mtime: u.int_in_range(0..=2_000_000_000)? }))
    };
    let op = match u.int_in_range(0..=15)? {
        0..=3 => {
            let size = *u.choose(&[0, 1, 4096, 5000, 70_000, 140_000])?;
            let byte: u8 = u.arbitrary()?;
            put(u, Kind::File(vec![byte; size]))?
        }
        4..=6 => put(u, Kind::Directory)?,
        7 | 8 => {
            let target = target(u)?.into_bytes();
            put(u, Kind::Symlink(target))?
        }
        9 => put(u, Kind::Fifo)?,
        10 | 11 => Op::Link(self::path(u)?),
        12..=14 => Op::Whiteout,
        _ if u.ratio(1, 8)? => return Ok((String::new(), Op::Opaque)),
        _ => Op::Opaque,
    };
    Ok((path, op))
}

fn path(u: &mut Unstructured<'_>) -> Result<String> {
    let depth = u.int_in_range(1..=3)?;
    let names = (0..depth).map(|_| Ok(*u.choose(&NAMES)?)).collect::<Result<Vec<_>>>()?;
    Ok(names.join("/"))
}

fn target(u: &mut Unstructured<'_>) -> Result<String> {
    let depth = u.int_in_range(1..=3)?;
    let parts = ["a", "b", "c", "d", "..", "."];
    let names = (0..depth).map(|_| Ok(*u.choose(&parts)?)).collect::<Result<Vec<_>>>()?;
    let root = if u.ratio(1, 3)? { "/" } else { "" };
    Ok(format!("{root}{}", names.join("/")))
}

fn spec(path: &str, op: &Op) -> Spec {
    let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
    let separator = if parent.is_empty() { "" } else { "/" };
    match op {
        Op::Whiteout => file(format!("{parent}{separator}.wh.{name}"), ""),
        Op::Opaque if path.is_empty() => file(".wh..wh..opq", ""),
        Op::Opaque => file(format!("{path}/.wh..wh..opq"), ""),
        Op::Link(target) => hard(path, target),
        Op::Put(node) => {
            let spec = match &node.kind {
                Kind::Directory => dir(format!("./{path}/")),
                Kind::File(content) => file(path, content),
                Kind::Symlink(target) => symlink(path, target),
                _ => entry(b'6', path),
            };
            Spec { mtime: node.mtime.cast_unsigned(), ..spec.mode(node.mode.into()) }
        }
    }
}
