//! The protocol as JSON Schema.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::{PROTOCOL, Request, Response};

/// The JSON Schema (draft 2020-12) of requests and responses.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let request = generator.subschema_for::<Request>();
    let response = generator.subschema_for::<Response>();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": PROTOCOL,
        "description": "A supervisor reads one Request from standard input and writes one Response to standard output.",
        "anyOf": [request, response],
        "$defs": generator.take_definitions(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `MICROAGENT_UPDATE=1 cargo test` writes the file.
    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/supervisor-protocol.schema.json");
        let text = format!("{:#}\n", schema());
        if std::env::var_os("MICROAGENT_UPDATE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == text,
            "docs/supervisor-protocol.schema.json is old: MICROAGENT_UPDATE=1 cargo test writes it"
        );
    }
}
