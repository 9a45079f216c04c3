//! Users and groups of the image, read from its own `/etc/passwd` and `/etc/group` as passwd(5) and group(5) say.

use std::{fs::File, io::Read};

use crate::error::Error;

/// Longest `/etc/passwd` or `/etc/group` that is read, in bytes: 50 000 users.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Whom a process runs as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The two files' texts. A missing file is an empty one.
#[derive(Default)]
pub(crate) struct Database {
    passwd: String,
    group: String,
}

impl Database {
    /// The image's. Read anew for each process: setup may add users.
    pub(crate) fn load() -> Self {
        let read = |path| {
            let mut text = Vec::new();
            let _ = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        };
        Self { passwd: read("/etc/passwd"), group: read("/etc/group") }
    }

    /// Who `user[:group]` is, by the rules of container engines: a number need not be in the files; without a group it is
    /// the user's own and the supplementary ones, with a group it is that one alone; root when `spec` is empty.
    pub(crate) fn identity(&self, spec: Option<&str>) -> Result<Identity, Error> {
        let (user, group) = split(spec.unwrap_or_default());
        let user = user.unwrap_or("0");
        let entry = self.passwd.lines().find_map(|line| Passwd::parse(line).filter(|p| p.is(user)));
        let (uid, gid, name, home) = match entry {
            Some(p) => (p.uid, p.gid, p.name, p.home),
            None => (id(user).ok_or_else(|| Error::UserNotFound { user: user.to_owned() })?, 0, user, "/"),
        };
        let home = if home.is_empty() { "/" } else { home }.to_owned();
        Ok(match group {
            Some(group) => Identity { uid, gid: self.gid(group)?, groups: Vec::new(), home },
            None => Identity { uid, gid, groups: self.groups_of(name), home },
        })
    }

    /// The ids of an owner as chown(1) takes it: `user`, `user:group`, `:group`; `None` leaves an id as it is.
    pub(crate) fn owner(&self, spec: &str) -> Result<(Option<u32>, Option<u32>), Error> {
        let (user, group) = split(spec);
        let uid = user.map(|user| self.identity(Some(user)).map(|i| i.uid)).transpose()?;
        let gid = group.map(|group| self.gid(group)).transpose()?;
        Ok((uid, gid))
    }

    fn gid(&self, group: &str) -> Result<u32, Error> {
        let by_name = self.groups().find(|g| g.name == group).map(|g| g.gid);
        by_name.or_else(|| id(group)).ok_or_else(|| Error::GroupNotFound { group: group.to_owned() })
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        let mut gids: Vec<_> =
            self.groups().filter(|g| g.members.split(',').any(|m| m.trim() == user)).map(|g| g.gid).collect();
        // NGROUPS_MAX of Linux; the kernel refuses a longer list.
        gids.truncate(65536);
        gids
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(Group::parse)
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    }

    fn is(&self, user: &str) -> bool {
        self.name == user || id(user) == Some(self.uid)
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }
}

/// A user or group id; the largest number means "no id" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn split(spec: &str) -> (Option<&str>, Option<&str>) {
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    (Some(user).filter(|u| !u.is_empty()), Some(group).filter(|g| !g.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        Database {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken line\nagent:x:1000:1001:A,,,:/home/agent:/bin/sh\n".into(),
            group: "root:x:0:\naudio:x:29:agent, other\nvideo:x:44:other,agent\nagent:x:1001:\n:x:5:agent\n".into(),
        }
    }

    #[test]
    fn a_user_by_name_gets_its_group_home_and_supplementary_groups() {
        let expected = Identity { uid: 1000, gid: 1001, groups: vec![29, 44], home: "/home/agent".into() };
        assert_eq!(database().identity(Some("agent")).unwrap(), expected);
        assert_eq!(database().identity(Some("1000")).unwrap(), expected);
    }

    #[test]
    fn a_group_that_is_named_is_the_only_one() {
        let identity = database().identity(Some("agent:video")).unwrap();
        assert_eq!((identity.gid, identity.groups), (44, vec![]));
        assert_eq!(database().identity(Some("agent:77")).unwrap().gid, 77);
    }

    #[test]
    fn a_number_that_the_image_does_not_know_is_taken_with_the_root_group() {
        let expected = Identity { uid: 4242, gid: 0, groups: vec![], home: "/".into() };
        assert_eq!(database().identity(Some("4242")).unwrap(), expected);
    }

    #[test]
    fn no_user_is_root_even_without_a_passwd_file() {
        assert_eq!(database().identity(None).unwrap().home, "/root");
        assert_eq!(database().identity(Some("")).unwrap().uid, 0);
        let bare = Database::default().identity(None).unwrap();
        assert_eq!((bare.uid, bare.gid, bare.home.as_str()), (0, 0, "/"));
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        assert_eq!(database().identity(Some("nobody")).unwrap_err().category(), "UserNotFound");
        assert_eq!(database().identity(Some("agent:nogroup")).unwrap_err().category(), "GroupNotFound");
        assert_eq!(database().identity(Some("4294967295")).unwrap_err().category(), "UserNotFound");
    }

    #[test]
    fn an_owner_may_name_either_half() {
        assert_eq!(database().owner("agent").unwrap(), (Some(1000), None));
        assert_eq!(database().owner(":video").unwrap(), (None, Some(44)));
        assert_eq!(database().owner("7:8").unwrap(), (Some(7), Some(8)));
    }
}
