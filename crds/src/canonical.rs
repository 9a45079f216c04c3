//! The canonical form of a spec, and its digest: the generation of a file's workspace rises only when this changes.

use microagent_base::Digest;
use serde_json::Value;

use crate::spec::WorkspaceSpec;

/// The SHA-256 digest (`sha256:…`) of the spec as JSON with sorted keys, defaults filled in, and quantities in their
/// shortest form. Comments, order of keys, and spelling out a default do not change it.
#[must_use]
pub fn canonical_spec_hash(spec: &WorkspaceSpec) -> String {
    let mut text = String::new();
    // A spec has text keys and finite numbers only, so it always has a JSON form.
    write(&serde_json::to_value(spec).unwrap_or_default(), &mut text);
    Digest::of(text.as_bytes()).to_string()
}

/// Writes JSON with sorted keys, whatever order the map type of the build keeps.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            for (nth, (name, member)) in sorted.into_iter().enumerate() {
                out.push(if nth == 0 { '{' } else { ',' });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write(member, out);
            }
            out.push_str(if members.is_empty() { "{}" } else { "}" });
        }
        Value::Array(items) => {
            out.push('[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_out_a_default_changes_nothing_and_a_change_does() {
        let short: WorkspaceSpec = serde_json::from_str(r#"{"image":"debian"}"#).unwrap();
        let long: WorkspaceSpec = serde_json::from_str(
            r#"{"resources":{"memory":"0.5Gi","cpus":"1000m"},"runPolicy":"Always","image":"debian","env":[]}"#,
        )
        .unwrap();
        assert_eq!(canonical_spec_hash(&short), canonical_spec_hash(&long));
        assert_ne!(canonical_spec_hash(&short), canonical_spec_hash(&WorkspaceSpec::new("debian:12")));
    }

    /// A version that hashed the same spec to something else would count every workspace as changed.
    #[test]
    fn a_new_field_that_is_not_used_changes_nothing() {
        let hash = canonical_spec_hash(&WorkspaceSpec::new("debian"));
        assert_eq!(hash, "sha256:2e8b27c5b8ea4a0d37abe504504cda64bc21704985f6e251550ced84f33dbcaa");
    }
}
