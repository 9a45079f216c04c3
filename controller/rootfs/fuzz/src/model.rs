//! What layers mean, as plainly as it can be said: all files in one map by their whole paths, no thought for cost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    CREATED,
    readback::{Kind, Paths, Seen},
};

/// A file, directory or link, shared by all its names.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) mtime: i64,
}

/// What an entry asks for.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Node),
    Link(String),
    Whiteout,
    Opaque,
}

/// The builder must refuse this.
#[derive(Debug)]
pub(crate) struct Refused;

/// The tree so far.
#[derive(Clone)]
pub(crate) struct Model {
    nodes: Vec<Node>,
    /// Names by whole path; the root is the empty one.
    names: BTreeMap<String, usize>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![implied()], names: BTreeMap::from([(String::new(), 0)]) }
    }

    pub(crate) fn apply(&mut self, layer: &[(String, Op)]) -> Result<(), Refused> {
        self.hide(layer)?;
        for (path, op) in layer {
            match op {
                Op::Whiteout | Op::Opaque => {}
                Op::Put(node) => self.put(path, node)?,
                Op::Link(target) => self.link(path, target)?,
            }
        }
        Ok(())
    }

    /// Whiteouts and opaque markers are about the tree below the layer.
    fn hide(&mut self, layer: &[(String, Op)]) -> Result<(), Refused> {
        let hides = |op: &Op| matches!(op, Op::Whiteout | Op::Opaque);
        if !layer.iter().any(|(_, op)| hides(op)) {
            return Ok(());
        }
        // Links that the layer replaces by directories are not followed.
        let mut replaced = BTreeSet::new();
        for (path, op) in layer {
            let Op::Put(Node { kind: Kind::Directory, .. }) = op else { continue };
            let (parent, name) = split(path);
            if let Some(parent) = self.find(parent, &replaced)? {
                let place = join(&parent, name);
                if matches!(self.kind(&place), Some(Kind::Symlink(_))) {
                    replaced.insert(place);
                }
            }
        }
        let mut gone = Vec::new();
        for (path, op) in layer {
            match op {
                Op::Whiteout => {
                    let (parent, name) = split(path);
                    if let Some(parent) = self.find(parent, &replaced)? {
                        gone.push((join(&parent, name), true));
                    }
                }
                Op::Opaque => {
                    if let Some(directory) = self.find(path, &replaced)? {
                        gone.push((directory, false));
                    }
                }
                _ => {}
            }
        }
        for (path, itself) in gone {
            self.names.retain(|name, _| !(is_below(name, &path) || itself && *name == path));
        }
        Ok(())
    }

    fn put(&mut self, path: &str, node: &Node) -> Result<(), Refused> {
        if path.is_empty() {
            self.nodes[0] = node.clone();
            return Ok(());
        }
        let (parent, name) = split(path);
        let place = join(&self.make(parent)?, name);
        let both = (self.kind(&place), &node.kind);
        if let (Some(Kind::Directory), Kind::Directory) = both {
            let old = self.names[&place];
            self.nodes[old] = node.clone();
            return Ok(());
        }
        self.remove(&place);
        if node.kind == Kind::Directory {
            self.add_directory(&place, node.clone())
        } else {
            self.add(&place, node.clone());
            Ok(())
        }
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), Refused> {
        let (parent, name) = split(target);
        let source = join(&self.find(parent, &BTreeSet::new())?.ok_or(Refused)?, name);
        let id = *self.names.get(&source).ok_or(Refused)?;
        if self.nodes[id].kind == Kind::Directory {
            return Err(Refused);
        }
        let (parent, name) = split(path);
        let place = join(&self.make(parent)?, name);
        if place == source {
            return Err(Refused);
        }
        if self.names.get(&place) == Some(&id) {
            return Ok(());
        }
        self.remove(&place);
        if !self.names.values().any(|&other| other == id) {
            return Err(Refused);
        }
        self.names.insert(place, id);
        Ok(())
    }

    fn kind(&self, path: &str) -> Option<&Kind> {
        self.names.get(path).map(|&id| &self.nodes[id].kind)
    }

    fn remove(&mut self, path: &str) {
        self.names.retain(|name, _| name != path && !is_below(name, path));
    }

    fn add(&mut self, path: &str, node: Node) {
        self.names.insert(path.to_owned(), self.nodes.len());
        self.nodes.push(node);
    }

    fn add_directory(&mut self, path: &str, node: Node) -> Result<(), Refused> {
        if path.split('/').count() > 256 {
            return Err(Refused);
        }
        self.add(path, node);
        Ok(())
    }

    /// Where a directory really is; links lead there, but never out of the root.
    fn find(&self, path: &str, without: &BTreeSet<String>) -> Result<Option<String>, Refused> {
        let mut walk = Walk::new(path);
        while let Some(place) = walk.next() {
            if without.contains(&place) {
                return Ok(None);
            }
            match self.kind(&place) {
                Some(Kind::Directory) => walk.at = place,
                Some(Kind::Symlink(target)) => walk.follow(target)?,
                _ => return Ok(None),
            }
        }
        Ok(Some(walk.at))
    }

    /// The same, with directories made where nothing is.
    fn make(&mut self, path: &str) -> Result<String, Refused> {
        let mut walk = Walk::new(path);
        while let Some(place) = walk.next() {
            match self.kind(&place) {
                Some(Kind::Directory) => walk.at = place,
                Some(Kind::Symlink(target)) => walk.follow(target)?,
                Some(_) => return Err(Refused),
                None => {
                    self.add_directory(&place, implied())?;
                    walk.at = place;
                }
            }
        }
        Ok(walk.at)
    }

    /// What a reader of the disk should see.
    pub(crate) fn paths(&self) -> Paths {
        let mut first: BTreeMap<usize, &String> = BTreeMap::new();
        for (path, &id) in &self.names {
            first.entry(id).or_insert(path);
        }
        let of = |(path, id): (&String, &usize)| {
            let node = &self.nodes[*id];
            let links = match node.kind {
                Kind::Directory => {
                    let inside = |name: &str| !name.is_empty() && split(name).0 == path;
                    2 + self
                        .names
                        .keys()
                        .filter(|name| inside(name) && self.kind(name) == Some(&Kind::Directory))
                        .count()
                }
                _ => self.names.values().filter(|&other| other == id).count(),
            };
            let seen = Seen {
                kind: node.kind.clone(),
                mode: node.mode,
                uid: 0,
                gid: 0,
                mtime: (node.mtime, 0),
                xattrs: BTreeMap::new(),
                links: links as u32,
                first: first[id].clone().into_bytes(),
            };
            (path.clone().into_bytes(), seen)
        };
        self.names.iter().map(of).collect()
    }
}

/// What exists for the sake of what is in it.
fn implied() -> Node {
    Node { kind: Kind::Directory, mode: 0o755, mtime: CREATED }
}

struct Walk {
    at: String,
    todo: VecDeque<String>,
    followed: u32,
}

impl Walk {
    fn new(path: &str) -> Self {
        Self { at: String::new(), todo: components(path).collect(), followed: 0 }
    }

    /// The path of the next component.
    fn next(&mut self) -> Option<String> {
        loop {
            let name = self.todo.pop_front()?;
            if name != ".." {
                return Some(join(&self.at, &name));
            }
            self.at = split(&self.at).0.to_owned();
        }
    }

    fn follow(&mut self, target: &[u8]) -> Result<(), Refused> {
        self.followed += 1;
        if self.followed > 40 {
            return Err(Refused);
        }
        let target = std::str::from_utf8(target).unwrap();
        if target.starts_with('/') {
            self.at.clear();
        }
        for name in components(target).collect::<Vec<_>>().into_iter().rev() {
            self.todo.push_front(name);
        }
        Ok(())
    }
}

fn components(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn is_below(name: &str, directory: &str) -> bool {
    match directory {
        "" => !name.is_empty(),
        _ => name.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')),
    }
}
