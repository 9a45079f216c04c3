//! Reads manifests: a text with one or several documents becomes checked workspaces, or errors that show the place.

// The other side of these results, a workspace, is larger than any error.
#![allow(clippy::result_large_err)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use crate::{
    hint,
    manifest_error::SHOWN_COLUMNS,
    name,
    path::{FieldPath, Step},
    schema,
    spec::{Workspace, WorkspaceSpec},
    unsupported::{self, Origin},
    validate, yaml,
    yaml::Position,
};

pub use crate::manifest_error::{ManifestError, ManifestErrorKind};

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The most documents in one file.
pub const MAX_DOCUMENTS: usize = 256;
/// The most bytes of annotations, keys and values, as in Kubernetes.
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// Reads every document of a text. `file` is how errors name it.
///
/// Each document is one `Workspace`: every key is known, every rule of the schema is kept, defaults are filled in, and
/// nothing is asked for that cannot be done yet. Empty documents are passed over. What the API server adds to an object
/// (`status`, and in `metadata` the likes of `uid` and `resourceVersion`) is passed over too, so that the output of
/// `kubectl get -o yaml` can be used. A document that is not YAML hides those behind it.
#[must_use]
pub fn parse(text: &str, file: &str) -> Vec<Result<Workspace, ManifestError>> {
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_FILE_BYTES} are read", text.len());
        let problem = Problem::new(ManifestErrorKind::TooLarge, FieldPath::default(), message)
            .hint("split it into several files, and keep large contents in the image or on a disk");
        return vec![Err(problem.place(text, file, 0, None, None))];
    }
    let mut results: Vec<(usize, Result<Workspace, Failed>)> = Vec::new();
    for (nth, document) in yaml::documents(text, MAX_DOCUMENTS + 1).into_iter().enumerate() {
        if nth == MAX_DOCUMENTS {
            let message = format!("the file has more than {MAX_DOCUMENTS} documents");
            let problem = Problem::new(ManifestErrorKind::TooLarge, FieldPath::default(), message);
            results.push((nth, Err((problem.hint("split it into several files"), None))));
            break;
        }
        match document {
            Ok(Value::Null) => {}
            Ok(value) => results.push((nth, decode(&value).map_err(|problem| (problem, Some(value))))),
            Err(error) => results.push((nth, Err((Problem::from_yaml(error), None)))),
        }
    }
    let wanted: Vec<_> = results
        .iter()
        .filter_map(|(nth, result)| match result {
            Err((problem, Some(value))) => Some((*nth, problem.path.existing_in(value))),
            _ => None,
        })
        .collect();
    let mut found = yaml::locate(text, &wanted).into_iter();
    results
        .into_iter()
        .map(|(nth, result)| {
            result.map_err(|(problem, value)| {
                let position = if value.is_some() { found.next().flatten() } else { problem.position };
                problem.place(text, file, nth, position, value.as_ref().and_then(identity))
            })
        })
        .collect()
}

/// A problem, and the document that has it, when it is one.
type Failed = (Problem, Option<Value>);

/// What is wrong with a document, before its place in the text is known.
struct Problem {
    kind: ManifestErrorKind,
    path: FieldPath,
    message: String,
    hint: Option<String>,
    others: Vec<String>,
    position: Option<Position>,
}

impl Problem {
    fn new(kind: ManifestErrorKind, path: FieldPath, message: impl Into<String>) -> Self {
        Self { kind, path, message: message.into(), hint: None, others: Vec::new(), position: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    fn from_yaml(error: yaml::YamlError) -> Self {
        let kind = match &error.message {
            message if message.starts_with("duplicate key") => ManifestErrorKind::DuplicateKey,
            message if message.starts_with("the document is too large") => ManifestErrorKind::TooLarge,
            _ => ManifestErrorKind::InvalidYaml,
        };
        Self { position: error.position, ..Self::new(kind, error.path, error.message) }
    }

    fn from_serde(path: FieldPath, message: String) -> Self {
        let hint = hint::for_message(&message);
        let kind = match () {
            () if message.starts_with("unknown field") => ManifestErrorKind::UnknownField,
            () if message.starts_with("missing field") => ManifestErrorKind::MissingField,
            () => ManifestErrorKind::InvalidValue,
        };
        // The names that could have been meant are many; the hint has the one that matters.
        let short = match message.split_once(", expected ") {
            Some((start, _)) if hint.is_some() && message.starts_with("unknown") => start.to_owned(),
            _ => message,
        };
        Self { hint, ..Self::new(kind, path, short) }
    }

    /// The first of several problems, with the others behind it.
    fn first_of(kind: ManifestErrorKind, all: Vec<(String, String, Option<&str>)>) -> Option<Self> {
        let mut all = all.into_iter();
        let (path, message, hint) = all.next()?;
        let others = all.map(|(path, message, _)| format!("{path}: {message}")).collect();
        let problem = Self { others, ..Self::new(kind, FieldPath::parse(&path), message) };
        Some(Self { hint: hint.map(str::to_owned), ..problem })
    }

    fn place(
        self,
        text: &str,
        file: &str,
        document: usize,
        position: Option<Position>,
        workspace: Option<(String, String)>,
    ) -> ManifestError {
        let source = position.and_then(|at| text.lines().nth(at.line.saturating_sub(1))).map(|line| {
            // A tab or control character would move the caret, or the terminal.
            line.chars().take(SHOWN_COLUMNS).map(|c| if c.is_control() { ' ' } else { c }).collect()
        });
        ManifestError {
            kind: self.kind,
            file: file.to_owned(),
            document,
            workspace,
            line: position.map_or(0, |at| at.line),
            column: position.map_or(0, |at| at.column),
            path: self.path.to_string(),
            message: self.message,
            hint: self.hint,
            others: self.others,
            source,
        }
    }
}

/// A manifest as it may be written: the resource's own type is more tolerant, because the API server's objects have more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: Metadata,
    spec: WorkspaceSpec,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    name: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    // What the API server adds; it means nothing here.
    #[serde(default, rename = "uid")]
    _uid: Option<IgnoredAny>,
    #[serde(default, rename = "resourceVersion")]
    _resource_version: Option<IgnoredAny>,
    #[serde(default, rename = "generation")]
    _generation: Option<IgnoredAny>,
    #[serde(default, rename = "creationTimestamp")]
    _creation_timestamp: Option<IgnoredAny>,
    #[serde(default, rename = "deletionTimestamp")]
    _deletion_timestamp: Option<IgnoredAny>,
    #[serde(default, rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Option<IgnoredAny>,
    #[serde(default, rename = "managedFields")]
    _managed_fields: Option<IgnoredAny>,
    #[serde(default, rename = "ownerReferences")]
    _owner_references: Option<IgnoredAny>,
    #[serde(default, rename = "finalizers")]
    _finalizers: Option<IgnoredAny>,
    #[serde(default, rename = "selfLink")]
    _self_link: Option<IgnoredAny>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// Namespace and name, when both can be read.
fn identity(value: &Value) -> Option<(String, String)> {
    let metadata = value.get("metadata")?;
    let namespace = metadata.get("namespace").map_or(Some("default"), Value::as_str)?;
    Some((namespace.to_owned(), metadata.get("name")?.as_str()?.to_owned()))
}

fn decode(document: &Value) -> Result<Workspace, Problem> {
    check_kind(document)?;
    let mut value = document.clone();
    schema::drop_nulls(&mut value, schema::openapi());
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        metadata.retain(|name, member| {
            !(member.is_null() && ["namespace", "labels", "annotations"].contains(&name.as_str()))
        });
    }
    let spec_as_written = value.get("spec").cloned().unwrap_or_default();
    let decoded: Document = yaml::decode(value).map_err(|(path, message)| Problem::from_serde(path, message))?;
    check_metadata(&decoded.metadata)?;
    let Metadata { name, namespace, labels, annotations, .. } = decoded.metadata;
    check_spec((&name, &namespace), spec_as_written, &decoded.spec, Origin::Folder)?;
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(namespace),
        labels: (!labels.is_empty()).then_some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    };
    Ok(Workspace { metadata, spec: decoded.spec, status: None })
}

/// The rules of the schema, and what this version cannot do.
fn check_spec(
    (name, namespace): (&str, &str),
    as_written: Value,
    spec: &WorkspaceSpec,
    origin: Origin,
) -> Result<(), Problem> {
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "Workspace",
        "metadata": { "name": name, "namespace": namespace },
        "spec": as_written,
    });
    let violations = validate::violations(&object, None).into_iter().map(|v| (v.path, v.message, None)).collect();
    if let Some(problem) = Problem::first_of(ManifestErrorKind::InvalidSpec, violations) {
        return Err(problem);
    }
    let refusals = unsupported::refusals(spec, origin);
    let refusals = refusals.into_iter().map(|r| (r.path, r.message, Some(r.instead))).collect();
    match Problem::first_of(ManifestErrorKind::NotSupported, refusals) {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

/// Reads the spec of an object of the API server as strictly as that of a file: the CRD in the cluster may be of another version,
/// with fewer rules or with fields that mean nothing here. `object` names it in errors, `namespace/name` as a rule.
///
/// # Errors
/// What is wrong with it, with the field; there is no line.
pub fn from_object(
    object: &str,
    (namespace, name): (&str, &str),
    spec: &Value,
) -> Result<WorkspaceSpec, ManifestError> {
    let read = || {
        name::check_name(name).map_err(|must| {
            let path = FieldPath(["metadata", "name"].map(|key| Step::Key(key.to_owned())).to_vec());
            Problem::new(ManifestErrorKind::InvalidValue, path, must)
        })?;
        let mut value = json!({ "spec": spec });
        schema::drop_nulls(&mut value, schema::openapi());
        let as_written = value.get("spec").cloned().unwrap_or_default();
        let decoded: SpecOnly = yaml::decode(value).map_err(|(path, message)| Problem::from_serde(path, message))?;
        check_spec((name, namespace), as_written, &decoded.spec, Origin::Kubernetes)?;
        Ok(decoded.spec)
    };
    read().map_err(|problem: Problem| problem.place("", object, 0, None, Some((namespace.to_owned(), name.to_owned()))))
}

/// The part of an object that this program reads as a manifest.
#[derive(Deserialize)]
struct SpecOnly {
    spec: WorkspaceSpec,
}

const API_VERSION: &str = "microagent.dev/v1alpha1";

/// Told apart before anything else, so that a Pod is called a Pod and not a workspace with strange fields.
fn check_kind(document: &Value) -> Result<(), Problem> {
    use ManifestErrorKind::{MissingField, NotAWorkspace};
    let hint = format!("a manifest starts with `apiVersion: {API_VERSION}` and `kind: Workspace`");
    if !document.is_object() {
        let message = "the document is not a map of fields";
        return Err(Problem::new(NotAWorkspace, FieldPath::default(), message).hint(hint));
    }
    for (field, wanted) in [("kind", "Workspace"), ("apiVersion", API_VERSION)] {
        let path = FieldPath(vec![Step::Key(field.to_owned())]);
        match document.get(field) {
            Some(Value::String(text)) if text == wanted => {}
            Some(Value::String(text)) if text == "List" => {
                let hint = "write each item as a document of its own, with `---` between them";
                return Err(Problem::new(NotAWorkspace, path, "a `List` is not read").hint(hint));
            }
            Some(found) => {
                let message = format!("`{field}` is {found}, and not \"{wanted}\"");
                return Err(Problem::new(NotAWorkspace, path, message).hint(hint));
            }
            None => return Err(Problem::new(MissingField, path, format!("missing field `{field}`")).hint(hint)),
        }
    }
    Ok(())
}

fn check_metadata(metadata: &Metadata) -> Result<(), Problem> {
    let invalid = |keys: &[&str], message: &str| {
        let steps = keys.iter().map(|key| Step::Key((*key).to_owned())).collect();
        Problem::new(ManifestErrorKind::InvalidValue, FieldPath(steps), message)
    };
    name::check_name(&metadata.name).map_err(|must| invalid(&["metadata", "name"], must))?;
    name::check_namespace(&metadata.namespace).map_err(|must| invalid(&["metadata", "namespace"], must))?;
    for (key, value) in &metadata.labels {
        name::check_key(key)
            .and_then(|()| name::check_label_value(value))
            .map_err(|must| invalid(&["metadata", "labels", key], must))?;
    }
    for key in metadata.annotations.keys() {
        name::check_key(key).map_err(|must| invalid(&["metadata", "annotations", key], must))?;
    }
    let bytes: usize = metadata.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_ANNOTATION_BYTES {
        return Err(invalid(&["metadata", "annotations"], "must have at most 262144 bytes together"));
    }
    Ok(())
}

impl Workspace {
    /// The workspace with every default filled in, as the API server would store it.
    ///
    /// The defaults of the spec are part of its type, so that a spec has them from the moment it is made; what is left
    /// is the namespace.
    #[must_use]
    pub fn defaulted(mut self) -> Self {
        self.metadata.namespace.get_or_insert_with(default_namespace);
        self
    }
}
