//! `gc`: what belongs to no machine that is to be kept.

use microagent_supervisor_protocol::{ErrorBody, ErrorCode, GcRequest, Target};

use crate::{dir::MachineDir, record::Record, verbs};

/// The most directories of one call.
const MAX_DIRS: usize = 65_536;

/// Ends and removes each machine of ours that is not to be kept; gives their UIDs. One that cannot be removed hinders no other, and
/// is told at the end.
pub(crate) fn gc(request: &GcRequest) -> Result<Vec<String>, ErrorBody> {
    let dirs = &request.machine_dirs;
    if dirs.len() > MAX_DIRS {
        let message =
            format!("{} directories of machines: at most {MAX_DIRS} can be looked at in one call", dirs.len());
        return Err(ErrorBody::new(ErrorCode::InvalidRequest, message));
    }
    let dirs = dirs.iter().map(|dir| MachineDir::new(dir)).collect::<Result<Vec<_>, _>>()?;
    let (mut removed, mut failed) = (Vec::new(), None);
    for dir in dirs {
        match remove(&dir, &request.keep) {
            Ok(uid) => removed.extend(uid),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(removed), Err)
}

/// Only a directory with a supervisor's record is one of ours.
fn remove(dir: &MachineDir, keep: &[String]) -> Result<Option<String>, ErrorBody> {
    let Some(record) = Record::load(dir)?.filter(|record| !keep.contains(&record.machine.uid)) else { return Ok(None) };
    let target = Target { uid: record.machine.uid, machine_dir: dir.path().to_owned() };
    verbs::delete(&target)?;
    Ok(Some(target.uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    use microagent_supervisor_protocol::PROTOCOL;

    #[test]
    fn a_directory_without_a_record_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("overlay.ext4"), "").unwrap();
        let request = |dirs: &[&Path]| GcRequest {
            protocol: PROTOCOL.to_owned(),
            machine_dirs: dirs.iter().map(|dir| (*dir).to_owned()).collect(),
            keep: Vec::new(),
        };
        let absent = dir.path().join("absent");
        assert_eq!(gc(&request(&[dir.path(), &absent])).unwrap(), Vec::<String>::new());
        assert!(dir.path().join("overlay.ext4").exists() && !absent.exists());
        assert_eq!(gc(&request(&[Path::new("x")])).unwrap_err().code, ErrorCode::InvalidRequest);
    }
}
