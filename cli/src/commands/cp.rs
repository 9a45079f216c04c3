//! `microagent cp`

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use microagent_archive::{Count, Owners, Reading, Source, Unpack, What, in_words};
use microagent_guest_protocol::{CopyIn, CopyOut, CopyReply, CopyWhat, FileName};

use super::{Interrupt, exec, signal_code};
use crate::{
    context::Context,
    failure::{Failure, Result},
    guest::{
        copy::{self, End, Meter, Outcome, ToGuest},
        wire::Wire,
    },
    output::{human, progress::Bars},
    program::program,
};

/// How long a cancelled copy may take to tidy up.
const TIDY: Duration = Duration::from_secs(1);

/// Copy files between a running workspace and this host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One of SRC and DST is NAME:PATH, with a path in the guest, which begins at its root. A local path with a colon in \
                  it is told by a slash or a dot at its begin. With `-` for the local one, a tar archive is read from standard \
                  input or written to standard output.\n\n\
                  A file is copied into a directory that is there, or to the name of DST. A directory goes into a directory that is \
                  there, under its own name; `SRC/.` means what is in it. Where DST is not there its parent must be.\n\n\
                  What is copied in belongs to the workload's user, what is copied out to you. Modes and times are kept; owners \
                  only with -a, as are the set-user-ID and set-group-ID bits of what is copied out."
)]
pub(crate) struct Args {
    /// Keep the owners: numbers of users and groups
    #[arg(short, long)]
    archive: bool,
    /// Copy what SRC leads to when it is a symbolic link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// What to copy: a local path, NAME:PATH, or `-`
    #[arg(value_name = "SRC", allow_hyphen_values = false)]
    source: OsString,
    /// Where to: a local path, NAME:PATH, or `-`
    #[arg(value_name = "DST")]
    destination: OsString,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Local(PathBuf),
    Stream,
    Guest { name: String, path: String },
}

/// A copy that can begin once there is a connection.
pub(crate) struct Copy {
    /// The workspace, as the user named it.
    pub(crate) name: String,
    way: Way,
    quiet: bool,
    archive: bool,
}

enum Way {
    Out { request: CopyOut, what: What, to: Option<PathBuf> },
    In { request: CopyIn, from: Option<Box<Source>> },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let copy = args.copy()?;
    let key = context.key(&copy.name)?;
    let (wire, object) = exec::reach(context, &key).await?;
    let (user, _) = exec::workload(context, &object);
    copy.carry(wire, user, &key.name).await
}

impl Args {
    /// What is to be copied where. What is on this host is looked at before anything of a guest is.
    pub(crate) fn copy(self) -> Result<Copy> {
        let Self { archive, follow_link: follow, quiet, source, destination } = self;
        let useless = |option: &str, with: &str| Err(Failure::usage(format!("{option} means nothing with {with}")));
        let (name, way) = match (side(&source)?, side(&destination)?) {
            (Side::Guest { name, path }, to) => {
                let to = match to {
                    Side::Local(to) => Some(absolute(&to)?),
                    Side::Stream if archive => return useless("--archive", "an archive as DST: it has all owners"),
                    Side::Stream if io::stdout().is_terminal() => {
                        return Err(Failure::usage(
                            "an archive is nothing for a terminal: give standard output to a file or a program",
                        ));
                    }
                    Side::Stream => None,
                    Side::Guest { .. } => {
                        return Err(Failure::usage("one of SRC and DST must be on this host").help(
                            "copy to this host first, or let one pass through: `… cp A:PATH - | … cp - B:PATH`",
                        ));
                    }
                };
                let what = what(Path::new(&path));
                (name, Way::Out { request: CopyOut { path, follow }, what, to })
            }
            (from, Side::Guest { name, path }) => {
                let (what, from) = match from {
                    Side::Local(path) => {
                        let path = absolute(&path)?;
                        (what(&path), Some(Box::new(open(&path, follow)?)))
                    }
                    _ if follow => return useless("--follow-link", "an archive as SRC"),
                    _ => (What::Entries, None),
                };
                let what = match what {
                    What::Named(name) => CopyWhat::Named(FileName(name.as_bytes().to_vec())),
                    What::Contents => CopyWhat::Contents,
                    What::Entries => CopyWhat::Entries,
                };
                (name, Way::In { request: CopyIn { path, what, keep_owners: archive, user: None }, from })
            }
            _ => {
                return Err(Failure::usage("one of SRC and DST must be in a workspace: NAME:PATH")
                    .help(format!("such as `{} cp notes.txt web:/work/`", program())));
            }
        };
        Ok(Copy { name, way, quiet, archive })
    }
}

/// Reads an end as `docker cp` does.
fn side(text: &OsStr) -> Result<Side> {
    let bytes = text.as_bytes();
    if bytes == b"-" {
        return Ok(Side::Stream);
    }
    let colon = bytes.iter().position(|&b| b == b':').filter(|_| !bytes.starts_with(b"/") && !bytes.starts_with(b"."));
    let Some(colon) = colon else {
        if bytes.is_empty() {
            return Err(Failure::usage("a path is empty"));
        }
        return Ok(Side::Local(PathBuf::from(text)));
    };
    let text = text.to_str().ok_or_else(|| {
        Failure::usage(format!("{} is not UTF-8", text.display())).help("copy the directory that the file is in")
    })?;
    let (name, path) = text.split_at(colon);
    match &path[1..] {
        "" => Err(Failure::usage(format!("{text:?} names nothing in the guest")).help("write NAME:/ for its root")),
        path if path.starts_with('/') => Ok(Side::Guest { name: name.to_owned(), path: path.to_owned() }),
        path => Ok(Side::Guest { name: name.to_owned(), path: format!("/{path}") }),
    }
}

/// What of a path is copied: it under its name, or what is in it.
fn what(path: &Path) -> What {
    let bytes = path.as_os_str().as_bytes();
    match path.file_name() {
        Some(name) if !bytes.ends_with(b"/.") => What::Named(name.to_owned()),
        _ => What::Contents,
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::env::current_dir()?.join(path))
}

fn open(path: &Path, follow: bool) -> Result<Source> {
    let reading = Reading { follow, only_disks: false, without: None };
    let source = Source::open(Path::new("/"), path, reading);
    source.map_err(|e| Failure::new(format!("cannot copy {}: {e}", path.display())))
}

impl Copy {
    /// Does it over a connection to the guest. What is copied in is `user`'s.
    pub(crate) async fn carry(self, wire: Wire, user: Option<String>, name: &str) -> Result<u8> {
        let Self { way, quiet, archive, .. } = self;
        let mut interrupt = Interrupt::listen()?;
        let bars = (!quiet && io::stderr().is_terminal()).then(|| Arc::new(Bars::new()));
        let meter =
            Meter::new(format!("copying {}", if matches!(way, Way::In { .. }) { "in" } else { "out" }), bars.clone());
        let measured = meter.clone();
        let mut work = tokio::task::spawn_blocking(move || match way {
            Way::Out { request, what, to: Some(to) } => {
                let owners = if archive { Owners::Kept } else { Owners::Ours };
                let how = Unpack { root: Path::new("/"), to: &to, what, owners, special_bits: archive };
                copy::unpack_out(wire, request, &how, measured)
            }
            Way::Out { request, to: None, .. } => copy::stream_out(wire, request, &mut io::stdout().lock(), measured),
            Way::In { request, from } => {
                copy::copy_in(wire, CopyIn { user, ..request }, measured, |to| send(from.map(|source| *source), to))
            }
        });
        let outcome = tokio::select! {
            outcome = &mut work => Some(outcome?),
            number = interrupt.next() => {
                meter.cancel();
                // Nothing half is to be left.
                let _ = tokio::time::timeout(TIDY, work).await;
                if let Some(bars) = bars {
                    bars.clear();
                }
                return Ok(signal_code(number));
            }
        };
        if let Some(bars) = bars {
            bars.clear();
        }
        outcome.map_or(Ok(0), |outcome| code(outcome, name))
    }
}

fn send(from: Option<Source>, to: &mut ToGuest) -> io::Result<Vec<String>> {
    match from {
        Some(source) => source.write(to),
        None => io::copy(&mut io::stdin().lock(), to).map(|_| Vec::new()),
    }
}

fn code(outcome: Outcome, name: &str) -> Result<u8> {
    let Outcome { end, problems, count } = outcome;
    let before = |count: Count| match count.entries {
        0 => String::new(),
        1 => format!("; one entry was copied before, with {}", human::bytes(count.bytes)),
        n => format!("; {n} entries were copied before, with {}", human::bytes(count.bytes)),
    };
    match end {
        End::Reply(CopyReply::Copied { left_out }) => {
            let told = [in_words(&problems), left_out].into_iter().flatten().collect::<Vec<_>>().join("; ");
            if told.is_empty() {
                return Ok(0);
            }
            Err(Failure::new(format!("not all was copied: {}", human::lines(&told))))
        }
        End::Reply(CopyReply::Failed { code, message, entries, bytes }) => {
            let count = if entries > 0 { Count { entries, bytes } } else { count };
            let message = format!("{}: {}{}", human::one_line(&code), human::lines(&message), before(count));
            Err(Failure::new(message))
        }
        End::HungUp => Err(Failure::try_again(format!(
            "the machine of workspace {name} ended{}, and the copy is not whole{}",
            exec::or_its_agent(),
            before(count)
        ))
        .help(format!(
            "see `{0} describe {name}`; a machine that goes on running was started before there was `cp`: `{0} restart {name}`",
            program()
        ))),
        End::Broken(e) => Err(Failure::new(format!("the guest broke the protocol: {e}{}", before(count)))),
        End::Unpacking(e) => Err(Failure::new(format!("{}{}", human::lines(&e.to_string()), before(count)))),
        End::Ours(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        End::Ours(e) => Err(Failure::new(format!("the stream of the archive broke: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn copy(line: &str) -> Result<Copy> {
        Line::parse_from(std::iter::once("cp").chain(line.split(' '))).args.copy()
    }

    #[test]
    fn an_end_is_local_or_a_stream_or_in_a_guest_as_docker_reads_it() {
        let guest = |name: &str, path: &str| Side::Guest { name: name.to_owned(), path: path.to_owned() };
        for (text, expected) in [
            ("-", Side::Stream),
            ("a", Side::Local("a".into())),
            ("./a:b", Side::Local("./a:b".into())),
            ("/a:b", Side::Local("/a:b".into())),
            ("web:/a:b/", guest("web", "/a:b/")),
            ("web:a/.", guest("web", "/a/.")),
            ("team/web:/", guest("team/web", "/")),
        ] {
            assert_eq!(side(OsStr::new(text)).unwrap(), expected, "{text}");
        }
        for text in [&b"web:"[..], b"", b"web:/\xff"] {
            assert_eq!(side(OsStr::from_bytes(text)).unwrap_err().report(), 2);
        }
    }

    #[test]
    fn a_dot_at_the_end_means_what_is_in_it_and_so_does_a_path_without_a_name() {
        for path in [".", "a/.", "/", "..", "a/..", "/."] {
            // `.` has its name only once it is absolute.
            let what = what(&Path::new("/w").join(path));
            assert_eq!(what, What::Contents, "{path}");
        }
        for path in ["a", "b/a", "b/a/", "/a"] {
            assert_eq!(what(Path::new(path)), What::Named("a".into()), "{path}");
        }
    }

    #[test]
    fn exactly_one_end_is_in_a_guest_and_an_option_means_something() {
        for line in ["/a /b", "a:/x b:/x", "- -", "- /a", "-a web:/x -", "-L - web:/x"] {
            assert_eq!(copy(line).map(|_| ()).unwrap_err().report(), 2, "{line}");
        }
        assert_eq!(copy("/no/such web:/x").map(|_| ()).unwrap_err().report(), 1);
        let Copy { name, way: Way::Out { request, what, to }, .. } = copy("-L team/web:a/b here").unwrap() else {
            panic!()
        };
        assert_eq!((name.as_str(), request), ("team/web", CopyOut { path: "/a/b".to_owned(), follow: true }));
        assert_eq!((what, to), (What::Named("b".into()), Some(std::env::current_dir().unwrap().join("here"))));
        let Copy { way: Way::In { request, .. }, .. } = copy("-a . web:/x").unwrap() else { panic!() };
        assert_eq!((request.what, request.keep_owners), (CopyWhat::Contents, true));
    }

    #[test]
    fn a_copy_that_is_not_whole_is_no_success() {
        let with = |end, entries| Outcome { end, problems: Vec::new(), count: Count { entries, bytes: 2048 } };
        let failed = |message: &str| {
            let code = "CopyFailed".to_owned();
            End::Reply(CopyReply::Failed { code, message: message.to_owned(), entries: 1, bytes: 5 })
        };
        let told: Vec<_> = [
            with(End::HungUp, 3),
            with(End::HungUp, 0),
            with(failed("cannot write \x1b[31m"), 0),
            with(End::Reply(CopyReply::Copied { left_out: Some("p: a pipe".to_owned()) }), 0),
            with(End::Unpacking(microagent_archive::Error::Broken { at: 7, problem: "it was cut off".to_owned() }), 2),
        ]
        .into_iter()
        .map(|outcome| {
            let failure = code(outcome, "web").unwrap_err();
            format!("{} {failure}", failure.report())
        })
        .collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        75 the machine of workspace web ended, and the copy is not whole; 3 entries were copied before, with 2.0 KiB
          help: see `microagent describe web`; a machine that goes on running was started before there was `cp`: `microagent restart web`
        75 the machine of workspace web ended, and the copy is not whole
          help: see `microagent describe web`; a machine that goes on running was started before there was `cp`: `microagent restart web`
        1 CopyFailed: cannot write \u{1b}[31m; one entry was copied before, with 5 B
        1 not all was copied: p: a pipe
        1 the archive is broken at byte 7: it was cut off; 2 entries were copied before, with 2.0 KiB
        ");
        assert_eq!(code(with(End::Reply(CopyReply::Copied { left_out: None }), 0), "web").unwrap(), 0);
    }
}
