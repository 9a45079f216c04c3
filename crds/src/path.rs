//! The place of a field in a document: `spec.disks[0].name`.

use std::fmt;

use serde_json::Value;

/// One step down a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The place of a field in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(pub(crate) Vec<Step>);

impl FieldPath {
    /// Reads `a.b[0].c`. For paths that this crate made: keys with dots in them cannot be written so.
    pub(crate) fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let (key, indices) = part.split_once('[').unwrap_or((part, ""));
            if !key.is_empty() {
                steps.push(Step::Key(key.to_owned()));
            }
            steps.extend(indices.split(['[', ']']).filter_map(|index| index.parse().ok()).map(Step::Index));
        }
        Self(steps)
    }

    /// The longest leading part of the path that `document` has.
    pub(crate) fn existing_in(&self, document: &Value) -> Self {
        let mut at = document;
        let mut steps = Vec::new();
        for step in &self.0 {
            let next = match step {
                Step::Key(key) => at.get(key),
                Step::Index(index) => at.get(index),
            };
            let Some(next) = next else { break };
            at = next;
            steps.push(step.clone());
        }
        Self(steps)
    }
}

impl From<&serde_path_to_error::Path> for FieldPath {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        Self(
            path.iter()
                .filter_map(|segment| match segment {
                    Segment::Seq { index } => Some(Step::Index(*index)),
                    Segment::Map { key } => Some(Step::Key(key.clone())),
                    Segment::Enum { .. } | Segment::Unknown => None,
                })
                .collect(),
        )
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if nth == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}
