//! Plays scripts on real folders, with the controller's own source and store beside them.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use microagent_controller::{
    Key, Paths,
    desired::{Applied, Desired},
    source::{FolderSource, Hint, MAX_FILE},
};

use crate::{
    files::{View, fingerprint},
    model::Model,
    script::{Action, At, FILES, NAMES, Step, Text, Unreadable},
};

/// Why a script shows a fault.
pub(crate) type Verdict = Result<(), String>;

/// A controller's folders and store.
pub(crate) struct Player {
    root: tempfile::TempDir,
    pub(crate) paths: Paths,
    pub(crate) dirs: Vec<PathBuf>,
    sources: Vec<FolderSource>,
    pub(crate) desired: Desired,
    pub(crate) now: Instant,
    pub(crate) model: Model,
    /// What the watcher saw since the last look.
    hint: Hint,
    tells: bool,
    midst: std::vec::IntoIter<Option<Duration>>,
    last_change: SystemTime,
    made: u32,
}

impl Player {
    pub(crate) fn new() -> Self {
        // Memory where there is some: what the disk does with flushes is not the question here.
        let shared = Path::new("/dev/shm");
        let root = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap();
        let paths = Paths { state: root.path().join("state"), cache: root.path().join("cache") };
        let dirs: Vec<_> = ["one", "two"].map(|name| root.path().join("user").join(name)).into();
        for dir in &dirs {
            fs::create_dir_all(dir).unwrap();
        }
        Self {
            desired: Desired::load(&paths, dirs.clone()).unwrap(),
            sources: dirs.iter().map(FolderSource::new).collect(),
            model: Model::new(),
            root,
            paths,
            dirs,
            now: Instant::now(),
            hint: Hint::default(),
            tells: false,
            midst: Vec::new().into_iter(),
            last_change: SystemTime::UNIX_EPOCH,
            made: 0,
        }
    }

    pub(crate) fn step(&mut self, step: &Step) -> Verdict {
        self.tells = step.hints;
        self.midst = step.midst.clone().into_iter();
        self.play(&step.action)?;
        match step.after {
            Some(after) => self.after(after).map(drop),
            None => Ok(()),
        }
    }

    /// A look after this time.
    pub(crate) fn after(&mut self, time: Duration) -> Result<Looked, String> {
        self.now += time;
        let hint = std::mem::take(&mut self.hint);
        let views = self.dirs.iter().map(|dir| (dir.clone(), View::of(dir))).collect();
        self.model.seen(self.now, views, &hint);
        let users = self.root.path().join("user");
        let before = (fingerprint(&users), fingerprint(&self.paths.workspaces()));
        let snapshots: Vec<_> = self
            .sources
            .iter_mut()
            .map(|source| {
                source.hint(&hint);
                source.scan(self.now)
            })
            .collect();
        let retry = snapshots.iter().filter_map(|snapshot| snapshot.retry_in).min();
        let Applied { changed, recheck_in, failures } = self.desired.apply_all(snapshots, Timestamp::UNIX_EPOCH);
        if !failures.is_empty() {
            return Err(format!("not written: {failures:?}"));
        }
        let looked = Looked { changed, again: [retry, recheck_in].into_iter().flatten().min() };
        if fingerprint(&users) != before.0 {
            return Err("the user's files were touched".to_owned());
        }
        let written = fingerprint(&self.paths.workspaces()) != before.1;
        if written == looked.changed.is_empty() {
            return Err(format!("changed: {:?}, but written: {written}", looked.changed));
        }
        self.model.judge(self.now, &self.desired, &looked.changed)?;
        self.compare_disk()?;
        Ok(looked)
    }

    /// What is on the disk is what is in memory.
    fn compare_disk(&self) -> Verdict {
        let again = Desired::load(&self.paths, self.dirs.clone()).map_err(|e| e.to_string())?;
        if !again.records().iter().eq(self.desired.records().iter()) || !again.records().unreadable().is_empty() {
            let disk: Vec<_> = again.records().iter().collect();
            return Err(format!(
                "on the disk: {disk:#?}\nin memory: {:#?}",
                self.desired.records().iter().collect::<Vec<_>>()
            ));
        }
        Ok(())
    }

    fn play(&mut self, action: &Action) -> Verdict {
        match action {
            Action::Look => Ok(()),
            Action::Write(at, text, pieces) => self.write(&self.path(*at), &text.bytes(), *pieces),
            Action::Rename(at, text) => {
                let (path, new) = (self.path(*at), self.in_dir(at.dir, "sedKx3f"));
                self.put(&new, &text.bytes());
                self.midst()?;
                self.rename(&new, &path);
                Ok(())
            }
            Action::Vim(at, text) => {
                let (path, probe) = (self.path(*at), self.in_dir(at.dir, "4913"));
                self.put(&probe, b"");
                self.remove(&probe);
                let backup = self.beside(*at, "", "~");
                self.rename(&path, &backup);
                self.midst()?;
                self.write(&path, &text.bytes(), 1)?;
                self.remove(&backup);
                Ok(())
            }
            Action::Emacs(at, text) => {
                let path = self.path(*at);
                let (lock, auto) = (self.beside(*at, ".#", ""), self.beside(*at, "#", "#"));
                let _ = symlink("user@host.1", &lock);
                self.put(&auto, &text.bytes());
                self.midst()?;
                if let Some(old) = read(&path) {
                    self.put(&self.beside(*at, "", "~"), &old);
                }
                self.write(&path, &text.bytes(), 1)?;
                self.remove(&auto);
                self.remove(&lock);
                Ok(())
            }
            Action::Nano(at, text) => {
                let swap = self.beside(*at, ".", ".swp");
                self.put(&swap, b"b0nano");
                self.write(&self.path(*at), &text.bytes(), 2)?;
                self.remove(&swap);
                Ok(())
            }
            Action::Unreadable(at, how) => {
                self.unreadable(&self.path(*at), *how);
                Ok(())
            }
            Action::Remove(at) => {
                self.remove(&self.path(*at));
                Ok(())
            }
            Action::Move(from, to) => {
                self.rename(&self.path(*from), &self.path(*to));
                Ok(())
            }
            Action::Copy(from, to) => match read(&self.path(*from)) {
                Some(bytes) => self.write(&self.path(*to), &bytes, 1),
                None => Ok(()),
            },
            Action::MoveDoc { name, to, removed_first } => self.move_doc(*name, *to, *removed_first),
            Action::Touch(at) => {
                self.set_modified(&self.path(*at), SystemTime::now());
                Ok(())
            }
            Action::SetBack(at) => {
                self.set_modified(&self.path(*at), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
                Ok(())
            }
            Action::Restyle(at, comment) => self.restyle(&self.path(*at), *comment),
            Action::FolderAway(dir) => {
                let away = self.away(*dir);
                if !away.exists() {
                    let _ = fs::rename(&self.dirs[*dir], away);
                }
                Ok(())
            }
            Action::FolderBack(dir) => {
                let away = self.away(*dir);
                if away.exists() {
                    self.clear(*dir);
                    fs::rename(away, &self.dirs[*dir]).unwrap();
                }
                Ok(())
            }
            Action::FolderRemoved(dir) => {
                let _ = fs::remove_dir_all(&self.dirs[*dir]);
                Ok(())
            }
            Action::FolderMade(dir) => {
                let _ = fs::create_dir(&self.dirs[*dir]);
                Ok(())
            }
            Action::FolderCopied(dir) => self.copy_folder(*dir),
            Action::FolderIsFile(dir) => {
                self.clear(*dir);
                fs::write(&self.dirs[*dir], "").unwrap();
                Ok(())
            }
            Action::ConfigMap(dir, texts) => self.config_map(*dir, texts),
            Action::Restart => self.restart(),
            Action::Delete(name) => {
                self.desired.delete(&key(*name), Timestamp::UNIX_EPOCH).map_err(|e| e.to_string())?;
                self.model.deleted(&key(*name));
                Ok(())
            }
            Action::Forget(name) => self.forget(&key(*name)),
        }
    }

    /// A place where the action can be interrupted by a look.
    fn midst(&mut self) -> Verdict {
        match self.midst.next().flatten() {
            Some(after) => self.after(after).map(drop),
            None => Ok(()),
        }
    }

    pub(crate) fn path(&self, at: At) -> PathBuf {
        self.dirs[at.dir].join(FILES[at.file])
    }

    fn in_dir(&self, dir: usize, name: &str) -> PathBuf {
        self.dirs[dir].join(name)
    }

    fn beside(&self, at: At, before: &str, after: &str) -> PathBuf {
        self.in_dir(at.dir, &format!("{before}{}{after}", FILES[at.file]))
    }

    fn away(&self, dir: usize) -> PathBuf {
        self.root.path().join(format!("away-{dir}"))
    }

    /// Waits until a change of a file has another time than the one before: on some systems the clock of files stands
    /// still for 10 ms, and the pauses of a script are not real.
    fn tick(&mut self) {
        let clock = self.root.path().join("clock");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            fs::write(&clock, "").unwrap();
            let time = fs::metadata(&clock).unwrap().modified().unwrap();
            if time > self.last_change {
                self.last_change = time;
                return;
            }
            assert!(Instant::now() < deadline, "the clock of files stands still");
        }
    }

    /// Writes a file in place: truncated, and then piece by piece.
    pub(crate) fn write(&mut self, path: &Path, bytes: &[u8], pieces: u8) -> Verdict {
        self.tick();
        let Ok(mut file) = create(path) else { return Ok(()) };
        self.tell(path, false);
        let size = bytes.len().div_ceil(usize::from(pieces)).max(1);
        for piece in bytes.chunks(size) {
            self.midst()?;
            self.tick();
            file.write_all(piece).unwrap();
            self.tell(path, false);
        }
        drop(file);
        self.tell(path, true);
        Ok(())
    }

    /// As `write`, with no look in its midst.
    fn put(&mut self, path: &Path, bytes: &[u8]) {
        self.tick();
        // There may be no folder, or something that is no file.
        let _ = create(path).and_then(|mut file| file.write_all(bytes));
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) {
        self.tick();
        if fs::rename(from, to).is_ok() {
            self.tell(to, true);
        }
    }

    pub(crate) fn remove(&mut self, path: &Path) {
        self.tick();
        if fs::remove_file(path).is_err() {
            let _ = fs::remove_dir_all(path);
        }
    }

    fn clear(&mut self, dir: usize) {
        let dir = self.dirs[dir].clone();
        if fs::remove_dir_all(&dir).is_err() {
            let _ = fs::remove_file(&dir);
        }
    }

    fn tell(&mut self, path: &Path, finished: bool) {
        if !self.tells {
            return;
        }
        let Hint { finished: done, writing, .. } = &mut self.hint;
        let (into, from) = if finished { (done, writing) } else { (writing, done) };
        from.remove(path);
        into.insert(path.to_owned());
    }

    fn set_modified(&mut self, path: &Path, time: SystemTime) {
        self.tick();
        if fs::metadata(path).is_ok_and(|m| m.is_file())
            && let Ok(file) = OpenOptions::new().write(true).open(path)
        {
            file.set_modified(time).unwrap();
        }
    }

    fn unreadable(&mut self, path: &Path, how: Unreadable) {
        self.remove(path);
        let made: io::Result<()> = match how {
            Unreadable::LeadsNowhere => symlink(self.root.path().join("nowhere/x"), path),
            Unreadable::Loop => symlink(path, path),
            Unreadable::Directory => fs::create_dir(path),
            Unreadable::Pipe => {
                let pipe = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, path, pipe, 0o600.into(), 0).map_err(io::Error::from)
            }
            Unreadable::TooLarge => fs::File::create(path).and_then(|file| file.set_len(MAX_FILE + 1)),
        };
        // There may be no folder.
        let _ = made;
    }

    fn move_doc(&mut self, name: usize, to: At, removed_first: bool) -> Verdict {
        let to = self.path(to);
        let start = format!("name: {}", NAMES[name]);
        let all = self.dirs.iter().flat_map(|dir| FILES.map(|file| dir.join(file)));
        let Some((from, text)) = all.filter(|path| *path != to).find_map(|path| {
            let text = String::from_utf8(read(&path)?).ok()?;
            text.contains(&start).then_some((path, text))
        }) else {
            return Ok(());
        };
        let (moved, rest): (Vec<&str>, Vec<&str>) = text.split("---\n").partition(|doc| doc.contains(&start));
        let mut target: Vec<String> = read(&to).and_then(|bytes| String::from_utf8(bytes).ok()).into_iter().collect();
        target.extend(moved.iter().map(|doc| (*doc).to_owned()));
        let (rest, target) = (rest.join("---\n"), target.join("---\n"));
        for removing in [removed_first, !removed_first] {
            match (removing, rest.is_empty()) {
                (true, true) => self.remove(&from),
                (true, false) => self.write(&from, rest.as_bytes(), 1)?,
                (false, _) => self.write(&to, target.as_bytes(), 1)?,
            }
            self.midst()?;
        }
        Ok(())
    }

    fn restyle(&mut self, path: &Path, comment: bool) -> Verdict {
        let Some(text) = read(path).and_then(|bytes| String::from_utf8(bytes).ok()) else { return Ok(()) };
        let (version, kind) = ("apiVersion: microagent.dev/v1alpha1\n", "kind: Workspace\n");
        let text = match comment {
            true => format!("# {}\n{text}", self.made),
            false => text.replace(&format!("{version}{kind}"), &format!("{kind}{version}")),
        };
        self.made += 1;
        self.write(path, text.as_bytes(), 1)
    }

    fn copy_folder(&mut self, dir: usize) -> Verdict {
        let path = self.dirs[dir].clone();
        let contents: Vec<_> =
            FILES.iter().filter_map(|file| Some((path.join(file), read(&path.join(file))?))).collect();
        // Kept until the end: its number must not be given to the next one at once.
        let old = self.root.path().join(format!("old-{}", self.made));
        self.made += 1;
        let _ = fs::rename(&path, old);
        self.midst()?;
        if fs::create_dir(&path).is_err() {
            return Ok(());
        }
        self.midst()?;
        for (path, bytes) in contents {
            self.write(&path, &bytes, 1)?;
            self.midst()?;
        }
        Ok(())
    }

    fn config_map(&mut self, dir: usize, texts: &[Option<Text>; 3]) -> Verdict {
        self.made += 1;
        let name = format!("..{}", self.made);
        let version = self.in_dir(dir, &name);
        if fs::create_dir(&version).is_err() {
            return Ok(());
        }
        self.tick();
        for (file, text) in FILES.iter().zip(texts) {
            if let Some(text) = text {
                fs::write(version.join(file), text.bytes()).unwrap();
            }
        }
        let data = self.in_dir(dir, "..data");
        let old = fs::read_link(&data).ok().map(|old| self.dirs[dir].join(old));
        self.midst()?;
        let (next, data) = (self.in_dir(dir, "..data_tmp"), self.in_dir(dir, "..data"));
        symlink(&name, &next).unwrap();
        self.rename(&next, &data);
        self.midst()?;
        for (file, text) in FILES.iter().zip(texts) {
            let path = self.in_dir(dir, file);
            let through = Path::new("..data").join(file);
            let linked = fs::read_link(&path).is_ok_and(|link| link == through);
            match (text, linked) {
                (Some(_), false) => {
                    self.remove(&path);
                    symlink(&through, &path).unwrap();
                }
                (None, true) => self.remove(&path),
                _ => {}
            }
        }
        self.midst()?;
        if let Some(old) = old {
            let _ = fs::remove_dir_all(old);
        }
        Ok(())
    }

    fn restart(&mut self) -> Verdict {
        for dir in [self.paths.workspaces(), self.paths.workspaces().join("default")] {
            if dir.is_dir() {
                fs::write(dir.join(".tmp-half"), "{\"key\":").unwrap();
            }
        }
        self.compare_disk()?;
        self.desired = Desired::load(&self.paths, self.dirs.clone()).map_err(|e| e.to_string())?;
        self.sources = self.dirs.iter().map(FolderSource::new).collect();
        self.hint = Hint::default();
        let left = self.paths.workspaces().join("default/.tmp-half");
        if left.exists() { Err("what was half written is still there".to_owned()) } else { Ok(()) }
    }

    pub(crate) fn forget(&mut self, key: &Key) -> Verdict {
        if self.desired.records().get(key).is_none_or(|record| record.deleted_at.is_none()) {
            return Ok(());
        }
        let reborn = self.desired.forget(key, Timestamp::UNIX_EPOCH).map_err(|e| e.to_string())?;
        if reborn != self.desired.records().get(key).is_some() {
            return Err(format!("{key} made anew: {reborn}, but it is not so"));
        }
        self.model.forgotten(key, self.desired.records().get(key))?;
        self.compare_disk()
    }

    /// Looks for as long as the source or the store ask for another look.
    pub(crate) fn settle(&mut self) -> Verdict {
        let mut wait = Some(Duration::ZERO);
        for _ in 0..50 {
            let Some(next) = wait else { return Ok(()) };
            wait = self.after(next)?.again;
        }
        Err("looks are asked for without end".to_owned())
    }

    /// Mends whatever is wrong: folders come back, bad files and conflicts go.
    pub(crate) fn mend(&mut self) {
        for dir in self.dirs.clone() {
            if !dir.is_dir() {
                let _ = fs::remove_file(&dir);
                fs::create_dir(&dir).unwrap();
            }
        }
        let mut names = BTreeSet::new();
        for dir in self.dirs.clone() {
            for (path, file) in View::of(&dir).files() {
                let good = file.content.as_ref().filter(|content| !content.nameless);
                let good =
                    good.filter(|c| c.declared.iter().all(|(key, valid)| valid.is_some() && names.insert(key.clone())));
                if good.is_none() {
                    self.remove(path);
                }
            }
        }
    }
}

/// What one look did.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) changed: Vec<Key>,
    /// When the next one is asked for.
    pub(crate) again: Option<Duration>,
}

pub(crate) fn key(name: usize) -> Key {
    Key::new("default", NAMES[name])
}

/// As `File::create`, without blocking: there may be a pipe.
fn create(path: &Path) -> io::Result<fs::File> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    OpenOptions::new().write(true).create(true).truncate(true).custom_flags(nonblock).open(path)
}

/// A regular file of ordinary size.
fn read(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.size() <= MAX_FILE).then(|| fs::read(path).ok()).flatten()
}
