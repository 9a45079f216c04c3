//! What a field is, read from the schema: `microagent explain spec.resources.memory`.

use serde_json::Value;

use crate::{hint, schema};

/// What a field is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The field's path, such as `spec.resources.memory`; empty for the whole resource.
    pub field: String,
    /// The type, such as `string`, `[]object` or `map[string]integer`.
    pub type_name: String,
    /// What it means, with units, bounds and default.
    pub description: String,
    /// The default as JSON, when the field has one.
    pub default: Option<String>,
    /// The values that it can have, when they are few.
    pub one_of: Vec<String>,
    /// The rules that its value must keep, in words.
    pub rules: Vec<String>,
    /// The fields within it.
    pub children: Vec<Child>,
}

/// A field within another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The name.
    pub name: String,
    /// The type.
    pub type_name: String,
    /// Whether it must be given.
    pub required: bool,
    /// The first sentence of its description.
    pub summary: String,
}

/// Why a field cannot be explained.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no field `{field}` in `{parent}`; {help}")]
pub struct ExplainError {
    /// The name that is not known.
    pub field: String,
    /// The field that was looked in.
    pub parent: String,
    /// What to do.
    pub help: String,
}

/// Explains the field at `path`, such as `spec.disks.name`; lists are looked into, with or without `[]`. The resource's
/// own name may stand in front, as `kubectl explain` has it: `workspace.spec`.
///
/// # Errors
/// When there is no such field; the error has the nearest name.
pub fn explain(path: &str) -> Result<Explained, ExplainError> {
    let mut names: Vec<&str> = path.split('.').map(|name| name.split('[').next().unwrap_or(name)).collect();
    names.retain(|name| !name.is_empty());
    if names.first().is_some_and(|name| ["workspace", "workspaces", "ws"].contains(&name.to_lowercase().as_str())) {
        names.remove(0);
    }
    let mut at = schema::openapi();
    for (depth, name) in names.iter().enumerate() {
        let members = properties(at);
        at = members.iter().find(|(known, _)| known == name).map(|(_, inner)| *inner).ok_or_else(|| {
            let known: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
            let help = match hint::nearest(name, &known) {
                Some(name) => format!("did you mean `{name}`?"),
                None if known.is_empty() => "it has no fields".to_owned(),
                None => format!("its fields are {}", known.join(", ")),
            };
            let parent = if depth == 0 { "Workspace".to_owned() } else { names[..depth].join(".") };
            ExplainError { field: (*name).to_owned(), parent, help }
        })?;
    }
    let required = |name: &str| {
        let of = inner(at).get("required").and_then(Value::as_array);
        of.is_some_and(|all| all.iter().any(|one| one == name))
    };
    Ok(Explained {
        field: names.join("."),
        type_name: type_name(at),
        description: text(at, "description"),
        default: at.get("default").map(Value::to_string),
        one_of: at
            .get("enum")
            .and_then(Value::as_array)
            .map_or_else(Vec::new, |all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        rules: at
            .get("x-kubernetes-validations")
            .and_then(Value::as_array)
            .map_or_else(Vec::new, |all| all.iter().map(|rule| text(rule, "message")).collect()),
        children: properties(at)
            .into_iter()
            .map(|(name, child)| Child {
                name: name.to_owned(),
                type_name: type_name(child),
                required: required(name),
                summary: first_sentence(&text(child, "description")),
            })
            .collect(),
    })
}

/// The schema of what a list holds, or the schema itself.
fn inner(schema: &Value) -> &Value {
    schema.get("items").map_or(schema, inner)
}

fn properties(schema: &Value) -> Vec<(&str, &Value)> {
    let members = inner(schema).get("properties").and_then(Value::as_object);
    let mut members: Vec<_> = members.into_iter().flatten().map(|(name, inner)| (name.as_str(), inner)).collect();
    members.sort_by_key(|(name, _)| *name);
    members
}

fn type_name(schema: &Value) -> String {
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return "integer or string".to_owned();
    }
    match (schema.get("type").and_then(Value::as_str), schema.get("items"), schema.get("additionalProperties")) {
        (_, Some(items), _) => format!("[]{}", type_name(items)),
        (_, _, Some(values)) => format!("map[string]{}", type_name(values)),
        (Some(name), _, _) => name.to_owned(),
        (None, _, _) => "any".to_owned(),
    }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn first_sentence(text: &str) -> String {
    text.find(". ").map_or(text, |end| &text[..=end]).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_explained_with_its_default_and_rules() {
        let memory = explain("spec.resources.memory").unwrap();
        assert_eq!(memory.type_name, "string");
        assert_eq!(memory.default.as_deref(), Some("\"512Mi\""));
        assert!(memory.description.contains("64Mi to 1Ti"));
        assert_eq!(memory.rules, ["must be a quantity of bytes from 64Mi to 1Ti"]);
        assert_eq!(explain("workspace.spec.runPolicy").unwrap().one_of, ["Always", "OnFailure", "Once", "Halted"]);
        assert_eq!(explain("status.timings").unwrap().type_name, "map[string]integer");
    }

    #[test]
    fn lists_are_looked_into() {
        let disks = explain("spec.disks[]").unwrap();
        assert_eq!(disks.type_name, "[]object");
        let name = disks.children.iter().find(|child| child.name == "mountPath").unwrap();
        assert!(name.required);
        assert_eq!(explain("spec.disks.source.empty.size").unwrap().type_name, "string");
        assert_eq!(explain("").unwrap().children.len(), 5);
    }

    #[test]
    fn an_unknown_field_gets_the_nearest_name() {
        let error = explain("spec.resource").unwrap_err();
        assert_eq!(error.to_string(), "there is no field `resource` in `spec`; did you mean `resources`?");
    }
}
