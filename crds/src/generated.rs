//! The committed files that are made from the types: what `crdgen` writes and checks.

use crate::{condition::ConditionType, reason::Reason, schema, unsupported::UNSUPPORTED, yaml::YamlError};

const BEGIN: &str = "<!-- unsupported:begin -->\n";
const END: &str = "<!-- unsupported:end -->";

/// A committed file that is made from the types.
pub struct GeneratedFile {
    /// Where it is, from the root of the repository.
    pub path: &'static str,
    /// Gives its content; from the present content, where only a part of the file is made.
    pub render: fn(present: &str) -> Result<String, YamlError>,
}

/// Every such file.
pub const FILES: &[GeneratedFile] = &[
    GeneratedFile { path: "manifests/crds/workspaces.microagent.dev.yaml", render: |_| schema::crd_yaml() },
    GeneratedFile {
        path: "manifests/crds/workspace.schema.json",
        render: |_| Ok(format!("{:#}\n", schema::json_schema())),
    },
    GeneratedFile { path: "docs/reasons.md", render: |_| Ok(reasons()) },
    GeneratedFile { path: "docs/status.md", render: |present| Ok(with_unsupported(present)) },
];

/// The page of conditions and reasons.
#[must_use]
pub fn reasons() -> String {
    let mut page = "# Conditions and reasons\n\n\
        Made from the types by `crdgen`; do not edit. Names are stable: programs may match on them.\n\n\
        ## Conditions\n\n| condition | when it is True |\n|---|---|\n"
        .to_owned();
    for condition in ConditionType::ALL {
        page.push_str(&format!("| `{condition}` | {} |\n", condition.doc()));
    }
    page.push_str("\n## Reasons\n\n| reason | meaning |\n|---|---|\n");
    for reason in Reason::ALL {
        page.push_str(&format!("| `{reason}` | {} |\n", reason.doc()));
    }
    page
}

/// The table of what is refused.
#[must_use]
pub fn unsupported() -> String {
    let mut table = "| field | values | what to do instead |\n|---|---|---|\n".to_owned();
    for one in UNSUPPORTED {
        let values =
            if one.values.is_empty() { "any".to_owned() } else { format!("`{}`", one.values.replace(", ", "`, `")) };
        let only = one.only.map_or_else(String::new, |only| format!(" ({})", only.place()));
        table.push_str(&format!("| `{}`{only} | {values} | {} |\n", one.field, one.instead));
    }
    table
}

/// A page with the table between its two marks; unchanged when it has no marks.
fn with_unsupported(page: &str) -> String {
    let marks = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    match marks {
        Some((before, after)) => format!("{before}{BEGIN}{}{END}{after}", unsupported()),
        None => page.to_owned(),
    }
}
