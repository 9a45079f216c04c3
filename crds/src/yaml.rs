//! YAML in and out. The only place that knows `serde_yaml`, which is no longer developed.
//!
//! Reading is strict: a key that stands twice is an error, and so is a document that its aliases would blow up. JSON is
//! read too, being YAML.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize, Serialize,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess},
};
use serde_json::{Map, Number, Value};

use crate::path::{FieldPath, Step};

/// Values in one document, aliases expanded. A file of 1 MiB with sense in it has far fewer.
const MAX_NODES: usize = 100_000;
/// Characters in one document, aliases expanded: four times what the largest file holds.
const MAX_BYTES: usize = 4 << 20;

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// Why a text is not YAML, or why a value has no YAML.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// What is wrong.
    pub message: String,
    /// Where, when it is known.
    pub position: Option<Position>,
    pub(crate) path: FieldPath,
}

impl YamlError {
    fn new(error: &serde_yaml::Error, path: FieldPath) -> Self {
        let position = error.location().map(|at| Position { line: at.line(), column: at.column() });
        let mut message = error.to_string();
        // The position is told apart from the message here, and `: ` is the path in front of it.
        if let Some(at) = position
            && let Some(cut) = message.find(&format!(" at line {} column {}", at.line, at.column))
        {
            message.truncate(cut);
        }
        if let Some((prefix, rest)) = message.split_once(": ")
            && !prefix.is_empty()
            && path.to_string().starts_with(prefix)
        {
            message = rest.to_owned();
        }
        Self { message, position, path }
    }
}

/// Writes a value as a YAML document.
///
/// # Errors
/// When the value cannot be written, such as a map whose keys are not text.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, YamlError> {
    serde_yaml::to_string(value).map_err(|error| YamlError::new(&error, FieldPath::default()))
}

/// Reads a text of one document, which says where in the file it is wrong.
///
/// # Errors
/// The text is not YAML, holds none or several documents, or not what `T` is.
pub fn from_str<T: de::DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    let mut found = documents(text, 2);
    let many = |message: &str| YamlError { message: message.to_owned(), position: None, path: FieldPath::default() };
    let value = match (found.pop(), found.pop()) {
        (Some(value), None) => value?,
        (None, _) => return Err(many("it is empty")),
        (Some(_), Some(first)) => {
            first?;
            return Err(many("it holds more than one document"));
        }
    };
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = FieldPath::from(error.path());
        let position = locate(text, &[(0, path.clone())]).pop().flatten();
        let message = match path.to_string() {
            at if at.is_empty() => error.inner().to_string(),
            at => format!("{at}: {}", error.inner()),
        };
        YamlError { message, position, path }
    })
}

/// Reads at most `limit` documents of a text, in order. An empty document is `null`. Behind a document that is not YAML
/// nothing can be read any more, so its error is the last entry.
pub(crate) fn documents(text: &str, limit: usize) -> Vec<Result<Value, YamlError>> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text).take(readable(text, limit)) {
        let budget = Budget { nodes: Cell::new(MAX_NODES), bytes: Cell::new(MAX_BYTES) };
        let mut track = serde_path_to_error::Track::new();
        let reader = serde_path_to_error::Deserializer::new(document, &mut track);
        let value = Strict(&budget).deserialize(reader);
        let value = value.map_err(|error| YamlError::new(&error, FieldPath::from(&track.path())));
        found.push(value);
    }
    found
}

/// How many documents can be read: those before the first that is not YAML, and that one, for its error.
///
/// Behind that one `serde_yaml` gives the same error for ever, or goes on in the middle of the document and panics.
fn readable(text: &str, limit: usize) -> usize {
    let documents = serde_yaml::Deserializer::from_str(text).take(limit);
    let whole = documents.map(IgnoredAny::deserialize).take_while(Result::is_ok).count();
    (whole + 1).min(limit)
}

/// Finds where fields stand, given as (document, path); in one reading of the text, so that many errors cost no more
/// than one. The path of a map's member gives the place of its key, that of a list's entry the place of the entry.
pub(crate) fn locate(text: &str, wanted: &[(usize, FieldPath)]) -> Vec<Option<Position>> {
    let mut found = vec![None; wanted.len()];
    let Some(last) = wanted.iter().map(|(document, _)| *document).max() else { return found };
    for (nth, document) in serde_yaml::Deserializer::from_str(text).enumerate().take(last + 1) {
        if let Some(at) = wanted.iter().position(|(document, _)| *document == nth)
            && let Err(error) = (Locate { path: &wanted[at].1.0 }).deserialize(document)
        {
            found[at] = error.location().map(|at| Position { line: at.line(), column: at.column() });
        }
    }
    found
}

/// What a document may still hold.
struct Budget {
    nodes: Cell<usize>,
    bytes: Cell<usize>,
}

impl Budget {
    fn take<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        let (Some(nodes), Some(bytes)) = (self.nodes.get().checked_sub(1), self.bytes.get().checked_sub(bytes)) else {
            return Err(E::custom(format_args!(
                "the document is too large: more than {MAX_NODES} values or {MAX_BYTES} characters with its aliases"
            )));
        };
        self.nodes.set(nodes);
        self.bytes.set(bytes);
        Ok(())
    }
}

/// Reads any value, strictly.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a Budget);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.0.take(0).map(|()| Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.0.take(0).map(|()| Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.0.take(0).map(|()| Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.take(0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("infinity and NaN are not numbers here"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.0.take(value.len()).map(|()| Value::String(value.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.0.take(0).map(|()| Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.0.take(0)?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.0.take(0)?;
        let mut members = Map::new();
        while let Some(key) = map.next_key_seed(NewKey { seen: &members, budget: self.0 })? {
            let value = map.next_value_seed(self)?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

/// Reads a key that was not there before. The check is made here, and not after, so that the error has the key's place.
struct NewKey<'a> {
    seen: &'a Map<String, Value>,
    budget: &'a Budget,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl de::Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a text")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        self.budget.take(key.len())?;
        if self.seen.contains_key(key) {
            return Err(E::custom(format_args!("duplicate key `{key}`")));
        }
        Ok(key.to_owned())
    }
}

/// Follows a path and fails where it ends: the place of a value is known to `serde_yaml` only when an error has it.
struct Locate<'a> {
    path: &'a [Step],
}

fn here<E: de::Error>() -> E {
    E::custom("here")
}

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.path.first() {
            Some(Step::Key(_)) => deserializer.deserialize_map(self),
            Some(Step::Index(_)) => deserializer.deserialize_seq(self),
            None => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> de::Visitor<'de> for Locate<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("here")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.path.split_first() else { return Err(here()) };
        for _ in 0..*wanted {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Err(here());
            }
        }
        seq.next_element_seed(Locate { path: rest })?;
        Err(here())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.path.split_first() else { return Err(here()) };
        while let Some(found) = map.next_key_seed(FindKey { wanted, is_last: rest.is_empty() })? {
            if found {
                map.next_value_seed(Locate { path: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Err(here())
    }
}

/// Tells whether a key is the wanted one, and fails on it when the path ends there.
struct FindKey<'a> {
    wanted: &'a str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for FindKey<'_> {
    type Value = bool;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl de::Visitor<'_> for FindKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.is_last { Err(here()) } else { Ok(key == self.wanted) }
    }
}

/// Decodes a value into a type and tells the path of the first error.
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, (FieldPath, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| (FieldPath::from(error.path()), error.inner().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_an_error_with_the_place_of_the_second() {
        let error = documents("a:\n  b: 1\n  c: 2\n  b: 3\n", 9).pop().unwrap().unwrap_err();
        assert_eq!(error.message, "duplicate key `b`");
        assert_eq!(error.position, Some(Position { line: 4, column: 3 }));
    }

    #[test]
    fn aliases_cannot_blow_up_a_document() {
        let list = vec!["x"; 10_000].join(",");
        let uses = vec!["*a"; 10_000].join(",");
        let error = documents(&format!("a: &a [{list}]\nb: [{uses}]\n"), 9).pop().unwrap().unwrap_err();
        assert!(error.message.contains("too large"), "{error}");
    }

    #[test]
    fn text_that_is_not_yaml_is_one_error_behind_what_was_read() {
        let found = documents("a: 1\n---\nb: [\n---\nc: 1\n", 99);
        assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
        // An alias to nothing ends the document for the reader but not for the parser below it.
        for text in ["<<: *a\n", "a: 1\na: [*b]\n---\nc: 1\n", "[[*a], b]\n"] {
            assert_eq!(documents(text, 99).len(), 1, "{text}");
        }
    }

    #[test]
    fn several_documents_and_json_are_read() {
        let found = documents("a: 1\n---\n{\"b\": [true, null]}\n---\n", 9);
        let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
        assert_eq!(found, [serde_json::json!({"a": 1}), serde_json::json!({"b": [true, null]}), Value::Null]);
    }

    #[test]
    fn a_field_is_found_in_its_document() {
        let text = "a: 1\n---\nspec:\n  disks:\n  - name: x\n  - name: y\n";
        let wanted = [(1, FieldPath::parse("spec.disks[1].name")), (0, FieldPath::parse("a"))];
        let at = |line, column| Some(Position { line, column });
        assert_eq!(locate(text, &wanted), [at(6, 5), at(1, 1)]);
        assert_eq!(locate(text, &[(1, FieldPath::parse("spec.disks[0]"))]), [at(5, 5)]);
        assert_eq!(locate(text, &[(1, FieldPath::default())]), [at(3, 1)]);
    }
}
