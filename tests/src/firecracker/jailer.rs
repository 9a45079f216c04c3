//! The stand-in for the jailer: the arguments of the real one, its directory and its change of user, and then the VMM. It shows the jail
//! by the working directory instead of a new root, as the stand-in needs the host's libraries.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, ExitCode},
};

use super::{
    ROOT_VARIABLE, SCRIPT_VARIABLE, Script,
    args::{Args, check_id},
    host::JAILER_ARGS,
};

const WITH_VALUE: &[&str] = &[
    "id",
    "exec-file",
    "uid",
    "gid",
    "chroot-base-dir",
    "netns",
    "parent-cgroup",
    "cgroup-version",
    "cgroup",
    "resource-limit",
];

pub(super) fn main(args: &[String], script: &Script) -> io::Result<ExitCode> {
    let given = args;
    let args = Args::parse(args, WITH_VALUE, &["daemonize", "new-pid-ns", "version"], &["cgroup", "resource-limit"])?;
    if args.has("version") {
        println!("Jailer v{}\n", script.jailer_version);
        return Ok(ExitCode::SUCCESS);
    }
    let id = args.needed("id")?;
    check_id(id)?;
    let number =
        |name: &str| args.needed(name)?.parse::<u32>().map_err(|_| io::Error::other(format!("Invalid {name}")));
    let (uid, gid) = (number("uid")?, number("gid")?);
    let exec = fs::canonicalize(args.needed("exec-file")?)?;
    let base = fs::canonicalize(args.one("chroot-base-dir").unwrap_or("/srv/jailer"))?;
    if args
        .all("cgroup")
        .iter()
        .any(|group| group.split_once('=').is_none_or(|(name, value)| !name.contains('.') || value.is_empty()))
    {
        return Err(io::Error::other("Invalid cgroup format"));
    }
    fs::write(exec.with_file_name(JAILER_ARGS), serde_json::to_vec(given)?)?;
    let name = exec.file_name().unwrap_or_default();
    let root = base.join(name).join(id).join("root");
    fs::create_dir_all(&root)?;
    let program = root.join(name);
    if program.exists() && fs::metadata(&program)?.nlink() > 1 {
        return Err(io::Error::other("the executable in the jail is a hard link"));
    }
    fs::copy(&exec, &program)?;
    for dir in ["", "dev", "dev/net", "run"] {
        fs::create_dir_all(root.join(dir))?;
        chown(root.join(dir), Some(uid), Some(gid))?;
    }
    std::env::set_current_dir(&root)?;
    // The description is outside of the jail.
    let script = Script { api: None, ..script.clone() };
    let error = Command::new(Path::new(".").join(name))
        .args(["--id", id, "--start-time-us", "1", "--start-time-cpu-us", "2", "--parent-cpu-time-us", "3"])
        .args(&args.rest)
        .env_clear()
        .env(ROOT_VARIABLE, "1")
        .env(SCRIPT_VARIABLE, serde_json::to_string(&script)?)
        .uid(uid)
        .gid(gid)
        .exec();
    Err(error)
}
