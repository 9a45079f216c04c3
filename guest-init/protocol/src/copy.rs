//! Files between host and guest, as tar streams. Guest-init reads and writes them itself: no program of the image is needed.

use serde::{Deserialize, Serialize};

/// Copy a file or a directory out. Its archive comes as frames of [`crate::frame::Kind::Output`], and then a [`CopyReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopyOut {
    /// Absolute path in the guest. Symbolic links on the way are resolved inside the guest's root. The archive's entries lie below the
    /// path's last part, or below `.` for the root.
    pub path: String,
    /// Whether a symbolic link at the end of the path stands for what it leads to. One that a slash follows always does.
    #[serde(default)]
    pub follow: bool,
}

/// Copy an archive in. It follows as frames of [`crate::frame::Kind::Stdin`], whose end is an empty frame; then comes a [`CopyReply`], which
/// may come before the end when it tells of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopyIn {
    /// Absolute path in the guest, where it goes. Symbolic links in it are resolved inside the guest's root.
    pub path: String,
    /// What the archive stands for.
    pub what: CopyWhat,
    /// Keep the owners that the archive tells. Else all is `user`'s.
    #[serde(default)]
    pub keep_owners: bool,
    /// `user[:group]` by name or number, as of a command. Root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// What an archive stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum CopyWhat {
    /// One file or directory: the first entry, below which all others lie. Into a directory that is there it comes under this name; else it
    /// gets the name of the path.
    Named(FileName),
    /// The same, of which only what is in the directory is meant.
    Contents,
    /// Entries that go into a directory that is there.
    Entries,
}

/// A name of a file: any bytes, in base64 on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileName(#[serde(with = "crate::frame::base64_bytes")] pub Vec<u8>);

/// The last frame of a copy. A connection that ends without it was cut, and the copy is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum CopyReply {
    /// It went to its end. Of a copy out, all of its archive was sent before.
    Copied {
        /// What was left out or could not be read, and why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left_out: Option<String>,
    },
    /// It did not.
    Failed {
        /// A stable code in CamelCase: `FileNotFound`, `DestinationUnusable`, `ArchiveBroken`, …
        code: String,
        /// What, where and why, for people.
        message: String,
        /// How many files, directories and links of a copy in are there all the same.
        #[serde(default)]
        entries: u64,
        /// How many bytes of files they have.
        #[serde(default)]
        bytes: u64,
    },
}
