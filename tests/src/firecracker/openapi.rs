//! Requests and answers held against Firecracker's own API description.

use std::{env, fs, path::PathBuf};

use serde_json::{Map, Value};

use super::API_VARIABLE;

/// An API description (OpenAPI 2.0).
#[derive(Clone, Debug)]
pub struct Description(Value);

impl Description {
    /// Where the description is, if it is at hand.
    #[must_use]
    pub fn path() -> Option<PathBuf> {
        let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/firecracker/openapi.yaml");
        let path = env::var_os(API_VARIABLE).map_or_else(|| PathBuf::from(usual), PathBuf::from);
        path.exists().then_some(path)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(path: &std::path::Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let yaml: serde_yaml::Value = serde_yaml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let json = json(yaml)?;
        if json["swagger"] != "2.0" || !json["paths"].is_object() {
            return Err(format!("{} is no description by OpenAPI 2.0", path.display()));
        }
        Ok(Self(json))
    }

    /// Whether the request is one of the description's.
    ///
    /// # Errors
    /// Why not.
    pub fn check_request(&self, method: &str, path: &str, body: &Value) -> Result<(), String> {
        let operation = self.operation(method, path).ok_or_else(|| format!("there is no {method} {path}"))?;
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        match parameters.iter().find(|parameter| parameter["in"] == "body") {
            Some(parameter) => self.check(&parameter["schema"], body, "body"),
            None if body.is_null() => Ok(()),
            None => Err(format!("{method} {path} has no body")),
        }
    }

    /// Whether the answer is one that the description has for the request.
    ///
    /// # Errors
    /// Why not.
    pub fn check_answer(&self, method: &str, path: &str, status: u16, body: &Value) -> Result<(), String> {
        let operation = self.operation(method, path).ok_or_else(|| format!("there is no {method} {path}"))?;
        let responses = &operation["responses"];
        let response = match &responses[status.to_string()] {
            Value::Null => &responses["default"],
            response => response,
        };
        match &response["schema"] {
            Value::Null if body.is_null() => Ok(()),
            Value::Null => Err(format!("{method} {path} has no body in its answer {status}")),
            schema => self.check(schema, body, "answer"),
        }
    }

    /// The names of the fields of the body of a request.
    #[must_use]
    pub fn fields(&self, method: &str, path: &str) -> Vec<String> {
        let Some(operation) = self.operation(method, path) else { return Vec::new() };
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let body =
            parameters.iter().find(|parameter| parameter["in"] == "body").map(|p| self.resolve(&p["schema"]).clone());
        let properties = body.as_ref().and_then(|schema| schema["properties"].as_object());
        properties.into_iter().flat_map(Map::keys).cloned().collect()
    }

    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let parts: Vec<&str> = path.split('/').collect();
        let same = |pattern: &str| {
            let pattern: Vec<&str> = pattern.split('/').collect();
            pattern.len() == parts.len()
                && pattern.iter().zip(&parts).all(|(pattern, part)| pattern == part || pattern.starts_with('{'))
        };
        let (_, operations) = self.0["paths"].as_object()?.iter().find(|(pattern, _)| same(pattern))?;
        operations.get(method.to_ascii_lowercase())
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"].as_str().and_then(|text| text.strip_prefix("#/definitions/"));
        name.map_or(schema, |name| &self.0["definitions"][name])
    }

    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = self.resolve(schema);
        let wrong = |what: &str| Err(format!("{at}: {value} is not {what}"));
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            return wrong(&format!("one of {words:?}"));
        }
        match schema["type"].as_str() {
            Some("object") => {
                let Value::Object(object) = value else { return wrong("an object") };
                let empty = Map::new();
                let properties = schema["properties"].as_object().unwrap_or(&empty);
                for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if !object.contains_key(name) {
                        return Err(format!("{at}: {name} is missing"));
                    }
                }
                for (name, value) in object {
                    let at = format!("{at}.{name}");
                    match properties.get(name) {
                        Some(schema) => self.check(schema, value, &at)?,
                        None if schema["additionalProperties"].is_null() => return Err(format!("{at} is unknown")),
                        None => {}
                    }
                }
                Ok(())
            }
            Some("array") => {
                let Value::Array(items) = value else { return wrong("an array") };
                items.iter().try_for_each(|item| self.check(&schema["items"], item, at))
            }
            Some("string") if value.is_string() => Ok(()),
            Some("boolean") if value.is_boolean() => Ok(()),
            Some("integer") => {
                let Some(number) = value.as_u64() else { return wrong("a number") };
                let low = schema["minimum"].as_u64().is_none_or(|low| number >= low);
                let high = schema["maximum"].as_u64().is_none_or(|high| number <= high);
                if low && high { Ok(()) } else { wrong("within its bounds") }
            }
            Some(other) => wrong(other),
            None => Ok(()),
        }
    }
}

/// YAML's maps may have keys that are no text: statuses are numbers.
fn json(value: serde_yaml::Value) -> Result<Value, String> {
    Ok(match value {
        serde_yaml::Value::Mapping(map) => {
            let entries = map.into_iter().map(|(key, value)| {
                let key = match key {
                    serde_yaml::Value::String(text) => text,
                    serde_yaml::Value::Number(number) => number.to_string(),
                    other => return Err(format!("{other:?} is no key")),
                };
                Ok((key, json(value)?))
            });
            Value::Object(entries.collect::<Result<_, _>>()?)
        }
        serde_yaml::Value::Sequence(items) => Value::Array(items.into_iter().map(json).collect::<Result<_, _>>()?),
        other => serde_json::to_value(other).map_err(|e| e.to_string())?,
    })
}
