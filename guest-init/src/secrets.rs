//! Secrets: values that are in memory only. Those that are files lie in a file system of their own, which is in memory, and are laid
//! over the paths where they are wanted, so that nothing but an empty file to lie over is ever on a disk.

use std::{
    borrow::Cow,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    str,
};

use microagent_guest_protocol::{Config, EnvVar, MAX_SECRET_BYTES, Secret, SecretPlace};
use rustix::mount::{MountFlags, mount_bind, mount_remount};

use crate::{error::Error, files, mounts, process, root::Disks, user::Database};

/// Where the files are, below [`mounts::OWN`]. Only root can look into it.
const DIRECTORY: &str = "secrets";

/// Twice what all may have together: each file takes whole pages.
const OPTIONS: &str = "mode=0700,size=2m";

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The configuration with those secrets in the environment of the workload that are variables. Setup, probes and execs take
/// theirs from it.
pub(crate) fn in_environment(config: &Config) -> Cow<'_, Config> {
    let variables: Vec<EnvVar> = config.secrets.iter().filter_map(variable).collect();
    if variables.is_empty() {
        return Cow::Borrowed(config);
    }
    let mut config = config.clone();
    config.workload.env = process::merge(&variables, &config.workload.env);
    Cow::Owned(config)
}

fn variable(secret: &Secret) -> Option<EnvVar> {
    let SecretPlace::Env(name) = &secret.place else { return None };
    let value = str::from_utf8(secret.value.expose()).ok()?;
    Some(EnvVar { name: name.clone(), value: value.to_owned() })
}

/// What can be seen without doing anything. The values are not told.
pub(crate) fn check(secrets: &[Secret]) -> Result<(), Error> {
    let invalid = |problem: String| Err(Error::InvalidConfig { field: "secrets".to_owned(), problem });
    if secrets.iter().map(|secret| secret.value.expose().len()).sum::<usize>() > MAX_SECRET_BYTES {
        return invalid(format!("larger than {MAX_SECRET_BYTES} bytes together"));
    }
    for (n, secret) in secrets.iter().enumerate() {
        let name = &secret.name;
        // It becomes the name of a file.
        let is_label = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_label || !(1..=63).contains(&name.len()) || secrets[..n].iter().any(|other| other.name == *name) {
            return invalid(format!("{name:?}: each secret needs a label of its own as its name"));
        }
        match &secret.place {
            SecretPlace::Env(variable) if variable.is_empty() || variable.contains(['=', '\0']) => {
                return invalid(format!("{name}: {variable:?} is no name of a variable"));
            }
            SecretPlace::Env(_) if !str::from_utf8(secret.value.expose()).is_ok_and(|text| !text.contains('\0')) => {
                return invalid(format!("{name}: a variable holds UTF-8 without NUL; use a path"));
            }
            SecretPlace::Path(path) if !Path::new(path).is_absolute() || path.contains('\0') => {
                return invalid(format!("{name}: {path:?}: an absolute path is needed"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The secrets that are files, until they have their owner.
#[must_use = "the workload cannot read them before they are given to it"]
pub(crate) struct Placed(Vec<(String, PathBuf, File)>);

/// Lays the secrets that are files over their paths. They are root's as yet, as setup is.
pub(crate) fn place(secrets: &[Secret], disks: &mut Disks) -> Result<Placed, Error> {
    let mut placed = Vec::new();
    let files = secrets.iter().filter_map(|secret| match &secret.place {
        SecretPlace::Path(path) => Some((secret, PathBuf::from(path))),
        SecretPlace::Env(_) => None,
    });
    for (secret, path) in files {
        let failed =
            |(doing, source)| Error::SecretFailed { name: secret.name.clone(), path: path.clone(), doing, source };
        if placed.is_empty() {
            mount().map_err(|e| failed(("mount the memory for it", e)))?;
        }
        let (file, over) = lay(secret, &path).map_err(failed)?;
        disks.lies_over(over);
        placed.push((secret.name.clone(), path, file));
    }
    Ok(Placed(placed))
}

impl Placed {
    /// Gives them to the workload's user: to it and its group, and to it alone to read.
    pub(crate) fn give_to(self, user: Option<&str>) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let owner = Database::load().identity(user)?;
        for (name, path, file) in self.0 {
            fchown(&file, Some(owner.uid), Some(owner.gid)).map_err(|source| Error::SecretFailed {
                name,
                path,
                doing: "give it to the workload's user",
                source,
            })?;
        }
        Ok(())
    }
}

/// The device number of the file system with the secrets; `None` when there is none.
pub(crate) fn device() -> Option<u64> {
    let own = fs::metadata(mounts::OWN).ok()?.dev();
    fs::metadata(directory()).ok().map(|meta| meta.dev()).filter(|device| *device != own)
}

fn directory() -> PathBuf {
    Path::new(mounts::OWN).join(DIRECTORY)
}

fn mount() -> io::Result<()> {
    let directory = directory();
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let mount = |options: &str| mounts::mount_one("secrets", "tmpfs", &directory, SAFE, options);
    // Linux before 6.4 does not know how to keep it from a swap device, which only the workload could have made.
    mount(&format!("{OPTIONS},noswap")).or_else(|_| mount(OPTIONS))
}

fn lay(secret: &Secret, path: &Path) -> Result<(File, PathBuf), (&'static str, io::Error)> {
    let own = directory().join(&secret.name);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o400).open(&own).map_err(|e| ("create it", e))?;
    file.write_all(secret.value.expose()).map_err(|e| ("write it", e))?;
    let over = files::ensure(path).map_err(|e| ("make a file to lay it over", e))?;
    mount_bind(&own, &over).map_err(|e| ("lay it over the file there", e.into()))?;
    mount_remount(&over, MountFlags::BIND | MountFlags::RDONLY | SAFE, c"")
        .map_err(|e| ("make it read-only", e.into()))?;
    Ok((file, over))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, place: SecretPlace, value: &[u8]) -> Secret {
        Secret { name: name.to_owned(), place, value: value.to_vec().into() }
    }

    fn env(name: &str) -> SecretPlace {
        SecretPlace::Env(name.to_owned())
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_its_value_is_not_told() {
        let path = |path: &str| SecretPlace::Path(path.to_owned());
        let long = vec![b'q'; MAX_SECRET_BYTES / 2 + 1];
        for secrets in [
            vec![secret("a", env("A"), b"qqq\0")],
            vec![secret("a", env("A"), b"qqq\xff")],
            vec![secret("a", env(""), b"qqq")],
            vec![secret("a", env("A=B"), b"qqq")],
            vec![secret("a", path("etc/a"), b"qqq")],
            vec![secret("..", path("/a"), b"qqq")],
            vec![secret("a/b", path("/a"), b"qqq")],
            vec![secret("", path("/a"), b"qqq")],
            vec![secret("a", path("/a"), b"qqq"), secret("a", path("/b"), b"qqq")],
            vec![secret("a", path("/a"), &long), secret("b", path("/b"), &long)],
        ] {
            let error = check(&secrets).unwrap_err();
            assert_eq!(error.category(), "InvalidConfig");
            assert!(!error.to_string().contains("qqq"), "{error}");
        }
        check(&[secret("a", env("A"), "ü".as_bytes()), secret("b-2", path("/b"), b"\0\xff")]).unwrap();
    }

    #[test]
    fn a_secret_takes_the_place_of_a_variable_of_its_name() {
        let text = serde_json::json!({
            "version": 1, "bootId": "b", "hostname": "h", "realtimeNs": 0, "root": {"baseline": 0}, "graceSeconds": 1,
            "workload": {"argv": ["x"], "env": [{"name": "A", "value": "plain"}, {"name": "B", "value": "kept"}]},
            "secrets": [{"name": "s", "place": {"env": "A"}, "value": "aHVudGVyMg=="},
                {"name": "t", "place": {"path": "/t"}, "value": ""}],
        });
        let config: Config = serde_json::from_value(text).unwrap();
        let env: Vec<_> =
            in_environment(&config).workload.env.iter().map(|v| format!("{}={}", v.name, v.value)).collect();
        assert_eq!(env, ["B=kept", "A=hunter2"]);
    }
}
