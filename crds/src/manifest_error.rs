//! What is wrong with a manifest, and how it is shown.

use std::fmt;

use crate::reason::Reason;

/// Of the source line, as much is shown.
pub(crate) const SHOWN_COLUMNS: usize = 120;

/// The kind of an error in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManifestErrorKind {
    /// The file or one of its parts is larger than is read.
    TooLarge,
    /// The text is not YAML.
    InvalidYaml,
    /// A key stands twice.
    DuplicateKey,
    /// The document is not a `Workspace` of this version.
    NotAWorkspace,
    /// A field has a name that is not known.
    UnknownField,
    /// A field is missing.
    MissingField,
    /// A field has a value of another type or form.
    InvalidValue,
    /// A rule is broken.
    InvalidSpec,
    /// A field asks for what cannot be done yet.
    NotSupported,
}

impl ManifestErrorKind {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "TooLarge",
            Self::InvalidYaml => "InvalidYaml",
            Self::DuplicateKey => "DuplicateKey",
            Self::NotAWorkspace => "NotAWorkspace",
            Self::UnknownField => "UnknownField",
            Self::MissingField => "MissingField",
            Self::InvalidValue => "InvalidValue",
            Self::InvalidSpec => "InvalidSpec",
            Self::NotSupported => "NotSupported",
        }
    }
}

/// What is wrong with one document of a manifest, and where. `Display` shows the source line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The kind of error.
    pub kind: ManifestErrorKind,
    /// The file, as the caller named it.
    pub file: String,
    /// The document in the file, counted from 0.
    pub document: usize,
    /// Namespace and name of the workspace, when they could be read: which one is affected.
    pub workspace: Option<(String, String)>,
    /// The line, counted from 1; 0 when it is not known.
    pub line: usize,
    /// The column in characters, counted from 1; 0 when it is not known.
    pub column: usize,
    /// The field, such as `spec.disks[0].name`; empty for the document as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What else is wrong in the same document, each with its field.
    pub others: Vec<String>,
    /// The source line, cut to what can be shown.
    pub source: Option<String>,
}

impl ManifestError {
    /// The stable code of the error's kind.
    #[must_use]
    pub fn category(&self) -> &'static str {
        self.kind.as_str()
    }

    /// The reason of the `Stalled` condition that it causes.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self.kind {
            ManifestErrorKind::NotSupported => Reason::NotSupported,
            _ => Reason::InvalidManifest,
        }
    }
}

impl std::error::Error for ManifestError {}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.category(), self.message)?;
        let margin = " ".repeat(self.line.to_string().len());
        write!(f, "{margin}--> {}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, " ({})", self.path)?;
        }
        if let Some(source) = self.source.as_ref().filter(|_| self.line > 0) {
            write!(f, "\n{margin} |\n{} | {source}", self.line)?;
            if self.column <= SHOWN_COLUMNS {
                write!(f, "\n{margin} | {}^", " ".repeat(self.column.saturating_sub(1)))?;
            }
        }
        for other in &self.others {
            write!(f, "\n{margin} = also: {other}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{margin} = help: {hint}")?;
        }
        Ok(())
    }
}
