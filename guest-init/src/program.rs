//! Finding a program as execvp(3) does, but with an answer that says where it was looked for.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{error::Error, process::Role};

/// The search path when the environment has none: that of container engines.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where `program` may be: itself when it has a slash, otherwise in each directory of `path`; relative names are seen from
/// `directory`.
fn candidates(program: &str, path: &str, directory: &Path) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![directory.join(program)];
    }
    path.split(':').map(|part| directory.join(part).join(program)).collect()
}

/// The file to execute for `program`.
pub(crate) fn find(program: &str, path: &str, directory: &Path, role: Role) -> Result<PathBuf, Error> {
    if program.is_empty() {
        return Err(Error::ProgramNotFound {
            role,
            program: String::new(),
            looked: "nothing: its name is empty".into(),
        });
    }
    let candidates = candidates(program, path, directory);
    let mut refused = None;
    for candidate in &candidates {
        let problem = match fs::metadata(candidate) {
            Ok(meta) if meta.is_dir() => "it is a directory".to_owned(),
            Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
                format!("its mode {:04o} lacks the right to execute", meta.permissions().mode() & 0o7777)
            }
            Ok(_) => return Ok(candidate.clone()),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(e) => e.to_string(),
        };
        refused.get_or_insert(Error::ProgramNotExecutable { role, path: candidate.clone(), problem });
    }
    let looked = || candidates.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(refused.unwrap_or_else(|| Error::ProgramNotFound { role, program: program.to_owned(), looked: looked() }))
}

/// Why the kernel refused to execute `path`, in words that tell what to do.
pub(crate) fn refusal(path: PathBuf, role: Role, user: u32, source: io::Error) -> Error {
    let problem = match source.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("permission denied for user id {user}: see the modes of the file and of the directories above it")
        }
        io::ErrorKind::NotFound => match interpreter(&path) {
            Some(interpreter) => format!("its interpreter {interpreter:?} is not in the image"),
            None => "the loader that it was linked for is not in the image".to_owned(),
        },
        _ if source.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "it is neither a program for this machine's architecture nor a script with a #! line".to_owned()
        }
        _ => return Error::StartFailed { role, program: path.display().to_string(), source },
    };
    Error::ProgramNotExecutable { role, path, problem }
}

fn interpreter(path: &Path) -> Option<String> {
    let mut head = Vec::new();
    // As much as the kernel reads of a `#!` line.
    File::open(path).ok()?.take(256).read_to_end(&mut head).ok()?;
    let line = String::from_utf8_lossy(head.strip_prefix(b"#!")?).lines().next()?.trim().to_owned();
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_is_taken_from_the_working_directory_and_not_searched() {
        assert_eq!(candidates("./run", "/bin", Path::new("/work")), [PathBuf::from("/work/./run")]);
        assert_eq!(candidates("/bin/sh", "/usr", Path::new("/work")), [PathBuf::from("/bin/sh")]);
    }

    #[test]
    fn an_empty_part_of_the_path_is_the_working_directory() {
        assert_eq!(candidates("run", "/bin:", Path::new("/w")), [PathBuf::from("/bin/run"), PathBuf::from("/w/run")]);
    }

    #[test]
    fn what_is_missing_says_where_it_was_looked_for() {
        let e = find("no-such", "/bin:/sbin", Path::new("/"), Role::Workload).unwrap_err();
        assert_eq!(e.category(), "WorkloadNotFound");
        assert!(e.to_string().contains("/bin/no-such, /sbin/no-such"), "{e}");
    }

    #[test]
    fn a_file_without_the_right_to_execute_is_passed_over_but_named_when_it_is_all_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for part in [&a, &b] {
            fs::create_dir(part).unwrap();
            fs::write(part.join("tool"), "#!/no/such/interpreter -x\n").unwrap();
        }
        fs::set_permissions(a.join("tool"), fs::Permissions::from_mode(0o644)).unwrap();
        let path = format!("{}:{}", a.display(), b.display());
        fs::set_permissions(b.join("tool"), fs::Permissions::from_mode(0o644)).unwrap();
        let e = find("tool", &path, Path::new("/"), Role::Exec).unwrap_err();
        assert_eq!(e.category(), "PermissionDenied");
        fs::set_permissions(b.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", &path, Path::new("/"), Role::Exec).unwrap(), b.join("tool"));
        let e = refusal(b.join("tool"), Role::Workload, 0, io::ErrorKind::NotFound.into());
        assert!(e.to_string().contains("\"/no/such/interpreter -x\""), "{e}");
    }
}
