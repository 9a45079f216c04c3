//! Lays one layer over the tree of those below it: OCI image specification, `layer.md`.

use std::collections::HashSet;

use crate::{
    error::{LayerError, Problem},
    layer::{Index, Item, What},
    path::split,
    tree::{Id, Node, NodeKind, Place, ROOT, Tree},
};

/// Applies a layer.
///
/// Whiteouts go first, wherever they stand in the archive: they hide what lower layers have, never what the same
/// layer brings. All are looked up before any is carried out, so that one cannot change what another means.
pub(crate) fn apply(tree: &mut Tree, layer: Index) -> Result<(), LayerError> {
    let mut removals = Vec::new();
    let replaced = replaced_links(tree, &layer)?;
    for item in &layer.items {
        let find = |path| {
            tree.find_directory_without(path, &replaced).map_err(|problem| LayerError::entry(&item.path, problem))
        };
        match item.what {
            What::Whiteout => {
                let (directory, name) = split(&item.path);
                // Nothing below: nothing to hide.
                if let Some(parent) = find(directory)? {
                    removals.push((parent, Some(name)));
                }
            }
            What::Opaque => {
                if let Some(directory) = find(&item.path)? {
                    removals.push((directory, None));
                }
            }
            _ => {}
        }
    }
    for (directory, name) in removals {
        match name {
            Some(name) => tree.remove(directory, name),
            None => tree.clear(directory),
        }
    }
    for Item { path, what } in layer.items {
        add(tree, &path, what).map_err(|problem| LayerError::entry(&path, problem))?;
    }
    Ok(())
}

/// The lower layers' symbolic links in whose places the layer puts directories. A whiteout in such a directory, or the
/// opaque marker that overlayfs's differs write into it, is about the directory, not about what the link leads to.
fn replaced_links(tree: &Tree, layer: &Index) -> Result<HashSet<Place>, LayerError> {
    let mut replaced = HashSet::new();
    if !layer.items.iter().any(|item| matches!(item.what, What::Whiteout | What::Opaque)) {
        return Ok(replaced);
    }
    for item in layer.items.iter().filter(|item| matches!(item.what, What::Directory(_))) {
        let (directory, name) = split(&item.path);
        let parent = tree
            .find_directory_without(directory, &replaced)
            .map_err(|problem| LayerError::entry(&item.path, problem))?;
        if let Some(parent) = parent
            && tree.child(parent, name).is_some_and(|child| matches!(tree.node(child).kind, NodeKind::Symlink(_)))
        {
            replaced.insert((parent, name.into()));
        }
    }
    Ok(replaced)
}

fn add(tree: &mut Tree, path: &[u8], what: What) -> Result<(), Problem> {
    if path.is_empty() {
        if let What::Directory(meta) = what {
            tree.node_mut(ROOT).meta = meta;
        }
        return Ok(());
    }
    let (directory, name) = split(path);
    let (meta, kind) = match what {
        What::Whiteout | What::Opaque => return Ok(()),
        What::Directory(meta) => {
            let parent = tree.make_directory(directory)?;
            match tree.child(parent, name) {
                // A directory over a directory: the upper attributes, the children of both.
                Some(old) if tree.directory(old).is_some() => tree.node_mut(old).meta = meta,
                _ => {
                    tree.remove(parent, name);
                    tree.add_directory(parent, name, meta)?;
                }
            }
            return Ok(());
        }
        What::HardLink(target) => {
            // Looked up first: making parents must not bring the target about.
            let id = link_target(tree, &target)?;
            let parent = tree.make_directory(directory)?;
            if tree.child(parent, name) == Some(id) {
                // Either the same name, or one that is a link to it already.
                return if same_place(tree, &target, parent, name)? { Err(Problem::LinkToItself) } else { Ok(()) };
            }
            tree.remove(parent, name);
            // Removing a directory may have taken the target with it.
            if tree.node(id).links == 0 {
                return Err(missing(&target));
            }
            return tree.link(parent, name, id);
        }
        What::File(meta, content) => (meta, NodeKind::File(content)),
        What::Symlink(meta, target) => (meta, NodeKind::Symlink(target)),
        What::Device(meta, device) => (meta, NodeKind::Device(device)),
    };
    let parent = tree.make_directory(directory)?;
    tree.remove(parent, name);
    tree.add(parent, name, Node { meta, kind, links: 0 })?;
    Ok(())
}

/// The node of a hard link's target. Its parents may be symbolic links; it may be one itself and is not followed.
fn link_target(tree: &Tree, target: &[u8]) -> Result<Id, Problem> {
    let (directory, name) = split(target);
    let parent = tree.find_directory(directory)?.ok_or_else(|| missing(target))?;
    if name.is_empty() {
        return Err(Problem::LinkToDirectory("/".to_owned()));
    }
    let id = tree.child(parent, name).ok_or_else(|| missing(target))?;
    match tree.directory(id) {
        Some(_) => Err(Problem::LinkToDirectory(String::from_utf8_lossy(target).into_owned())),
        None => Ok(id),
    }
}

fn same_place(tree: &Tree, target: &[u8], parent: Id, name: &[u8]) -> Result<bool, Problem> {
    let (directory, target_name) = split(target);
    Ok(name == target_name && tree.find_directory(directory)? == Some(parent))
}

fn missing(target: &[u8]) -> Problem {
    Problem::LinkMissing(String::from_utf8_lossy(target).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Content, Meta};

    fn meta(mode: u16) -> Meta {
        Meta { mode, ..Meta::default() }
    }

    fn file(path: &str) -> Item {
        item(path, What::File(meta(0o644), Content { size: 0, runs: Vec::new() }))
    }

    fn dir(path: &str, mode: u16) -> Item {
        item(path, What::Directory(meta(mode)))
    }

    fn symlink(path: &str, target: &str) -> Item {
        item(path, What::Symlink(meta(0o777), target.as_bytes().into()))
    }

    fn hard(path: &str, target: &str) -> Item {
        item(path, What::HardLink(target.as_bytes().into()))
    }

    fn gone(path: &str) -> Item {
        item(path, What::Whiteout)
    }

    fn opaque(path: &str) -> Item {
        item(path, What::Opaque)
    }

    fn item(path: &str, what: What) -> Item {
        Item { path: path.as_bytes().into(), what }
    }

    fn merge(layers: Vec<Vec<Item>>) -> Result<Tree, LayerError> {
        let mut tree = Tree::new(meta(0o755));
        for items in layers {
            apply(&mut tree, Index { items, content_bytes: 0 })?;
        }
        Ok(tree)
    }

    /// All paths, in order: directories with a slash and their mode, links with their count.
    fn list(tree: &Tree) -> Vec<String> {
        let mut out = Vec::new();
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, id)) = todo.pop() {
            let node = tree.node(id);
            match &node.kind {
                NodeKind::Directory(d) => {
                    if id != ROOT {
                        out.push(format!("{path}/ {:o}", node.meta.mode));
                    }
                    for (name, &child) in &d.children {
                        todo.push((format!("{path}/{}", String::from_utf8_lossy(name)), child));
                    }
                }
                _ if node.links > 1 => out.push(format!("{path} x{}", node.links)),
                _ => out.push(path),
            }
        }
        out.sort();
        out
    }

    #[track_caller]
    fn check(layers: Vec<Vec<Item>>, expected: &[&str]) {
        assert_eq!(list(&merge(layers).unwrap()), expected);
    }

    #[track_caller]
    fn refused(layers: Vec<Vec<Item>>, expected: &Problem) {
        match merge(layers) {
            Err(LayerError::Entry { problem, .. }) => assert_eq!(&problem, expected),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_whiteout_hides_files_and_trees_of_lower_layers_only() {
        check(vec![vec![file("a"), file("d/x/y")], vec![gone("a"), gone("d"), gone("absent/z")]], &[]);
        check(vec![vec![file("a")], vec![file("a"), gone("a")]], &["/a"]);
        check(vec![vec![file("a")], vec![gone("a"), file("a")]], &["/a"]);
        check(vec![vec![gone("a"), file("a")]], &["/a"]);
    }

    #[test]
    fn a_whiteout_of_a_directory_keeps_what_the_same_layer_puts_there() {
        let expected = ["/d/ 755", "/d/new"];
        check(vec![vec![dir("d", 0o700), file("d/old")], vec![file("d/new"), gone("d")]], &expected);
        check(vec![vec![dir("d", 0o700), file("d/old")], vec![gone("d"), file("d/new")]], &expected);
    }

    #[test]
    fn an_opaque_directory_loses_the_lower_children_wherever_the_marker_stands() {
        let lower = || vec![dir("d", 0o700), file("d/old"), file("d/sub/deep")];
        let expected = ["/d/ 711", "/d/new"];
        check(vec![lower(), vec![opaque("d"), dir("d", 0o711), file("d/new")]], &expected);
        check(vec![lower(), vec![dir("d", 0o711), file("d/new"), opaque("d")]], &expected);
        check(vec![lower(), vec![opaque("d")]], &["/d/ 700"]);
        check(vec![lower(), vec![opaque("")]], &[]);
    }

    #[test]
    fn whiteouts_mean_the_same_in_any_order() {
        let lower = || vec![file("usr/lib/x"), symlink("lib", "usr/lib")];
        check(vec![lower(), vec![gone("lib"), gone("lib/x")]], &["/usr/ 755", "/usr/lib/ 755"]);
        check(vec![lower(), vec![gone("lib/x"), gone("lib")]], &["/usr/ 755", "/usr/lib/ 755"]);
    }

    #[test]
    fn whiteouts_in_a_directory_that_replaces_a_link_spare_what_the_link_leads_to() {
        let lower = || vec![file("run/x"), dir("var", 0o755), symlink("var/run", "/run"), file("run/d/y")];
        let expected = ["/run/ 755", "/run/d/ 755", "/run/d/y", "/run/x", "/var/ 755", "/var/run/ 700"];
        check(vec![lower(), vec![dir("var/run", 0o700), opaque("var/run")]], &expected);
        check(vec![lower(), vec![opaque("var/run"), dir("var/run", 0o700)]], &expected);
        check(vec![lower(), vec![dir("var/run", 0o700), gone("var/run/x"), gone("var/run/d/y")]], &expected);
        // Another name of the same link is none of that.
        let linked = [lower(), vec![hard("l", "var/run")], vec![dir("var/run", 0o700), gone("l/x")]];
        check(linked.into(), &["/l", "/run/ 755", "/run/d/ 755", "/run/d/y", "/var/ 755", "/var/run/ 700"]);
        // Without an entry of its own the link stays, and is followed as by files.
        check(vec![lower(), vec![opaque("var/run")]], &["/run/ 755", "/var/ 755", "/var/run"]);
    }

    #[test]
    fn kinds_replace_each_other_and_directories_merge() {
        check(vec![vec![file("d/x")], vec![file("d")]], &["/d"]);
        check(vec![vec![file("d")], vec![dir("d", 0o700), file("d/x")]], &["/d/ 700", "/d/x"]);
        check(vec![vec![symlink("d", "e")], vec![dir("d", 0o700)]], &["/d/ 700"]);
        check(vec![vec![file("d/x")], vec![symlink("d", "e")]], &["/d"]);
        check(vec![vec![dir("d", 0o700), file("d/x")], vec![dir("d", 0o711)]], &["/d/ 711", "/d/x"]);
    }

    #[test]
    fn gone_and_back_over_three_layers() {
        check(vec![vec![file("a")], vec![gone("a")], vec![file("a")]], &["/a"]);
    }

    #[test]
    fn parents_that_are_symbolic_links_are_followed_inside_the_root() {
        check(
            vec![vec![dir("usr/lib", 0o755), symlink("lib", "/usr/lib")], vec![file("lib/x")]],
            &["/lib", "/usr/ 755", "/usr/lib/ 755", "/usr/lib/x"],
        );
        check(vec![vec![symlink("e", "/../../out")], vec![file("e/x")]], &["/e", "/out/ 755", "/out/x"]);
        refused(vec![vec![symlink("a", "b"), symlink("b", "a"), file("a/x")]], &Problem::SymlinkLoop);
        refused(vec![vec![file("a"), file("a/x")]], &Problem::ParentNotDirectory);
    }

    #[test]
    fn hard_links_reach_into_lower_layers_and_outlive_their_target() {
        check(vec![vec![file("a")], vec![hard("b", "a")]], &["/a x2", "/b x2"]);
        check(
            vec![vec![file("a")], vec![hard("n/b", "a"), hard("c", "n/b")]],
            &["/a x3", "/c x3", "/n/ 755", "/n/b x3"],
        );
        check(vec![vec![file("a"), hard("b", "a")], vec![gone("a")]], &["/b"]);
        check(vec![vec![file("a"), hard("b", "a")], vec![file("a")]], &["/a", "/b"]);
        check(vec![vec![symlink("s", "nowhere"), hard("b", "s")]], &["/b x2", "/s x2"]);
        check(vec![vec![file("a"), hard("b", "a"), hard("b", "a")]], &["/a x2", "/b x2"]);
    }

    #[test]
    fn hard_links_that_make_no_sense_are_refused() {
        refused(vec![vec![dir("d", 0o755), hard("b", "d")]], &Problem::LinkToDirectory("d".into()));
        refused(vec![vec![file("a"), hard("a", "a")]], &Problem::LinkToItself);
        refused(vec![vec![hard("b", "a"), file("a")]], &Problem::LinkMissing("a".into()));
        refused(vec![vec![hard("x/b", "x/b")]], &Problem::LinkMissing("x/b".into()));
        refused(vec![vec![file("d/a"), hard("d", "d/a")]], &Problem::LinkMissing("d/a".into()));
    }

    #[test]
    fn more_names_than_ext4_can_count_are_refused() {
        let mut items = vec![file("f")];
        items.extend((1..MAX).map(|i| hard(&format!("l{i}"), "f")));
        assert!(merge(vec![items]).is_ok());
        let mut items = vec![file("f")];
        items.extend((1..=MAX).map(|i| hard(&format!("l{i}"), "f")));
        refused(vec![items], &Problem::TooManyLinks);
    }

    const MAX: u32 = crate::limits::MAX_LINKS;

    #[test]
    fn symbolic_links_cannot_nest_directories_without_end() {
        let deep = "a/".repeat(200);
        refused(vec![vec![symlink("s", &deep), file(&format!("s/{}x", "b/".repeat(100)))]], &Problem::TooDeep);
    }
}
