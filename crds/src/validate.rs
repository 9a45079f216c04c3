//! Whether a workspace keeps the rules of its schema: bounds first, then the CEL rules, as the API server does it.

use std::cell::OnceCell;

use kube::core::cel::{CompiledSchema, ValidationError, Validator, compile_schema};
use serde_json::Value;

use crate::{
    path::{FieldPath, Step},
    schema,
    spec::Workspace,
};

/// A rule of the schema that a workspace breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Violation {
    /// The field, such as `spec.disks[0].name`.
    pub path: String,
    /// What must be so.
    pub message: String,
}

/// Checks a workspace against the bounds and CEL rules of its schema; with the object as it was before, the rules for
/// changes too.
///
/// # Errors
/// Every rule that is broken.
pub fn validate(workspace: &Workspace, old: Option<&Workspace>) -> Result<(), Vec<Violation>> {
    let value = |one: &Workspace| {
        serde_json::to_value(one).map_err(|error| vec![Violation { path: String::new(), message: error.to_string() }])
    };
    let found = violations(&value(workspace)?, old.map(value).transpose()?.as_ref());
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// The same for an object as it was written.
pub(crate) fn violations(object: &Value, old: Option<&Value>) -> Vec<Violation> {
    let mut found = Vec::new();
    check_bounds(object, schema::openapi(), &mut FieldPath::default(), &mut found);
    // A rule may be costly or fail on what breaks a bound, so it is not run then.
    if found.is_empty() { check_rules(object, old) } else { found }
}

fn check_rules(object: &Value, old: Option<&Value>) -> Vec<Violation> {
    // Compiled once a thread: the validator cannot be shared between threads, and compiling takes milliseconds.
    thread_local! {
        static RULES: OnceCell<(Validator, CompiledSchema)> = const { OnceCell::new() };
    }
    RULES.with(|rules| {
        let (validator, compiled) = rules.get_or_init(|| (Validator::new(), compile_schema(schema::openapi())));
        match validator.validate_compiled(compiled, object, old) {
            Ok(()) => Vec::new(),
            Err(errors) => {
                let violation = |error: ValidationError| Violation {
                    path: error.field_path.trim_start_matches('.').to_owned(),
                    message: error.message,
                };
                let mut found: Vec<_> = errors.into_iter().map(violation).collect();
                // They come in the order of a hash map; users and tests want the same each time.
                found.sort_by(|a, b| a.path.cmp(&b.path));
                found
            }
        }
    })
}

/// The bounds that the schema sets: lengths, counts and ranges. Types and required fields were checked by decoding.
fn check_bounds(value: &Value, schema: &Value, path: &mut FieldPath, found: &mut Vec<Violation>) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let (measure, low, high, what) = match value {
        Value::String(text) => (count(text.chars().count()), "minLength", "maxLength", "characters"),
        Value::Array(items) => (count(items.len()), "minItems", "maxItems", "entries"),
        Value::Object(members) => (count(members.len()), "minProperties", "maxProperties", "entries"),
        Value::Number(number) => (number.as_f64().unwrap_or(f64::NAN), "minimum", "maximum", ""),
        Value::Null | Value::Bool(_) => return,
    };
    let verb = if what.is_empty() { "be" } else { "have" };
    let too = |limit: f64, side: &str| match (low, limit) {
        ("minLength" | "minItems", 1.0) if measure < limit => "must not be empty".to_owned(),
        _ => format!("must {verb} {side} {limit} {what}").trim_end().to_owned(),
    };
    for message in [
        bound(low).filter(|limit| measure < *limit).map(|limit| too(limit, "at least")),
        bound(high).filter(|limit| measure > *limit).map(|limit| too(limit, "at most")),
    ]
    .into_iter()
    .flatten()
    {
        found.push(Violation { path: path.to_string(), message });
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let inner = schema.get("properties").and_then(|all| all.get(name));
                if let Some(inner) = inner.or_else(|| schema.get("additionalProperties")) {
                    path.0.push(Step::Key(name.clone()));
                    check_bounds(member, inner, path, found);
                    path.0.pop();
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (nth, item) in items.iter().enumerate() {
                    path.0.push(Step::Index(nth));
                    check_bounds(item, inner, path, found);
                    path.0.pop();
                }
            }
        }
        _ => {}
    }
}

#[allow(clippy::cast_precision_loss)] // bounds are far below 2^52
fn count(n: usize) -> f64 {
    n as f64
}
