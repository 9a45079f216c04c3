//! The merged tree. Nothing here recurses: how deep a tree is is for the image to say.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::{BTreeMap, HashSet},
};

use crate::{
    error::Problem,
    layer::{Content, Device, Meta},
    limits::{MAX_DEPTH, MAX_LINKS, MAX_NAME},
};

/// A node's place in [`Tree::nodes`].
pub(crate) type Id = u32;

/// A directory, and a name in it.
pub(crate) type Place = (Id, Box<[u8]>);

/// The root directory.
pub(crate) const ROOT: Id = 0;

/// Most symbolic links on the way to a file, as in Linux.
const MAX_HOPS: u32 = 40;

/// Bytes of link targets that all paths of an image together may lead through. Every file of a Debian image behind
/// `/lib -> usr/lib` comes to a few MiB; forty long links before each of two million entries would take hours.
const MAX_FOLLOWED: u64 = 4 << 30;

/// A file of any kind.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) kind: NodeKind,
    /// How many names there are for it; 0 when it is gone.
    pub(crate) links: u32,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum NodeKind {
    Directory(Directory),
    File(Content),
    Symlink(Box<[u8]>),
    Device(Device),
}

/// A directory: its names, in the order of their bytes.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) parent: Id,
    pub(crate) depth: u32,
    pub(crate) children: BTreeMap<Box<[u8]>, Id>,
}

/// All nodes that ever were, the root first.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    /// What directories get that no layer names: they are made for what is in them.
    implied: Meta,
    /// Bytes of link targets followed so far.
    followed: Cell<u64>,
}

impl Tree {
    /// A root directory with nothing in it.
    pub(crate) fn new(implied: Meta) -> Self {
        let root = Directory { parent: ROOT, depth: 0, children: BTreeMap::new() };
        let root = Node { meta: implied.clone(), kind: NodeKind::Directory(root), links: 1 };
        Self { nodes: vec![root], implied, followed: Cell::new(0) }
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    pub(crate) fn child(&self, directory: Id, name: &[u8]) -> Option<Id> {
        self.directory(directory)?.children.get(name).copied()
    }

    pub(crate) fn directory(&self, id: Id) -> Option<&Directory> {
        match &self.node(id).kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: Id) -> Option<&mut Directory> {
        match &mut self.node_mut(id).kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// The directory at a normalised path, through symbolic links, which never lead out of the root. `None` when
    /// there is no such directory.
    pub(crate) fn find_directory(&self, path: &[u8]) -> Result<Option<Id>, Problem> {
        self.find_directory_without(path, &HashSet::new())
    }

    /// Like [`find_directory`](Self::find_directory), as if these symbolic links were not there.
    pub(crate) fn find_directory_without(&self, path: &[u8], without: &HashSet<Place>) -> Result<Option<Id>, Problem> {
        let mut walk = Walk::new(path);
        while let Some(name) = walk.next() {
            if !without.is_empty() && without.contains(&(walk.at, name.as_ref().into())) {
                return Ok(None);
            }
            match self.step(&mut walk, &name)? {
                Step::Entered => {}
                Step::Missing | Step::NotDirectory => return Ok(None),
            }
        }
        Ok(Some(walk.at))
    }

    /// Like [`find_directory`](Self::find_directory), but makes directories that are missing.
    pub(crate) fn make_directory(&mut self, path: &[u8]) -> Result<Id, Problem> {
        let mut walk = Walk::new(path);
        while let Some(name) = walk.next() {
            match self.step(&mut walk, &name)? {
                Step::Entered => {}
                Step::NotDirectory => return Err(Problem::ParentNotDirectory),
                Step::Missing => walk.at = self.add_directory(walk.at, &name, self.implied.clone())?,
            }
        }
        Ok(walk.at)
    }

    fn step(&self, walk: &mut Walk<'_>, name: &[u8]) -> Result<Step, Problem> {
        let here = match self.directory(walk.at) {
            Some(directory) => directory,
            None => return Ok(Step::NotDirectory),
        };
        if name == b".." {
            walk.at = here.parent;
            return Ok(Step::Entered);
        }
        let Some(&child) = here.children.get(name) else { return Ok(Step::Missing) };
        match &self.node(child).kind {
            NodeKind::Directory(_) => {
                walk.at = child;
                Ok(Step::Entered)
            }
            NodeKind::Symlink(target) => {
                self.followed.set(self.followed.get() + target.len() as u64);
                if self.followed.get() > MAX_FOLLOWED {
                    return Err(Problem::SymlinkWork);
                }
                walk.follow(target)?;
                Ok(Step::Entered)
            }
            _ => Ok(Step::NotDirectory),
        }
    }

    /// Adds an empty directory where nothing is.
    pub(crate) fn add_directory(&mut self, parent: Id, name: &[u8], meta: Meta) -> Result<Id, Problem> {
        let depth = self.directory(parent).map_or(0, |d| d.depth) + 1;
        if depth > MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        let directory = Directory { parent, depth, children: BTreeMap::new() };
        self.add(parent, name, Node { meta, kind: NodeKind::Directory(directory), links: 0 })
    }

    /// Adds a node where nothing is.
    pub(crate) fn add(&mut self, parent: Id, name: &[u8], node: Node) -> Result<Id, Problem> {
        if name.len() > MAX_NAME {
            return Err(Problem::NameTooLong);
        }
        // The entry limit keeps this far from its end.
        let id = Id::try_from(self.nodes.len()).map_err(|_| Problem::TooDeep)?;
        self.nodes.push(node);
        self.link(parent, name, id)?;
        Ok(id)
    }

    /// Gives a node one more name, where nothing is.
    pub(crate) fn link(&mut self, parent: Id, name: &[u8], id: Id) -> Result<(), Problem> {
        if self.node(id).links >= MAX_LINKS {
            return Err(Problem::TooManyLinks);
        }
        self.node_mut(id).links += 1;
        let directory = self.directory_mut(parent).ok_or(Problem::ParentNotDirectory)?;
        directory.children.insert(name.into(), id);
        Ok(())
    }

    /// Removes a name, and what is below it.
    pub(crate) fn remove(&mut self, parent: Id, name: &[u8]) {
        if let Some(id) = self.directory_mut(parent).and_then(|d| d.children.remove(name)) {
            self.drop_links(vec![id]);
        }
    }

    /// Removes all names in a directory.
    pub(crate) fn clear(&mut self, directory: Id) {
        if let Some(directory) = self.directory_mut(directory) {
            let children = std::mem::take(&mut directory.children);
            self.drop_links(children.into_values().collect());
        }
    }

    fn drop_links(&mut self, mut ids: Vec<Id>) {
        while let Some(id) = ids.pop() {
            let node = self.node_mut(id);
            node.links -= 1;
            if let NodeKind::Directory(directory) = &mut node.kind {
                ids.extend(std::mem::take(&mut directory.children).into_values());
            }
        }
    }
}

enum Step {
    Entered,
    Missing,
    NotDirectory,
}

/// A path being followed.
struct Walk<'a> {
    at: Id,
    /// Components still to go, the last first.
    pending: Vec<Cow<'a, [u8]>>,
    hops: u32,
}

impl<'a> Walk<'a> {
    fn new(path: &'a [u8]) -> Self {
        let pending = path.split(|&b| b == b'/').rev().map(Cow::Borrowed).collect();
        Self { at: ROOT, pending, hops: 0 }
    }

    fn next(&mut self) -> Option<Cow<'a, [u8]>> {
        loop {
            let name = self.pending.pop()?;
            if !name.is_empty() && &*name != b"." {
                return Some(name);
            }
        }
    }

    fn follow(&mut self, target: &[u8]) -> Result<(), Problem> {
        self.hops += 1;
        if self.hops > MAX_HOPS {
            return Err(Problem::SymlinkLoop);
        }
        if target.starts_with(b"/") {
            self.at = ROOT;
        }
        self.pending.extend(target.split(|&b| b == b'/').rev().map(|name| Cow::Owned(name.to_vec())));
        Ok(())
    }
}
