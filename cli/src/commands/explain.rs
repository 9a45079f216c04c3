//! `microagent explain`

use microagent_crds::{
    explain::{Child, Explained, explain},
    unsupported::UNSUPPORTED,
};

use crate::{
    failure::{Failure, Result},
    output::{self, table::Table},
};

/// Explain a field of the manifest
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The field, such as spec.resources.memory
    #[arg(default_value = "", hide_default_value = true)]
    field: String,
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    let explained = explain(&args.field)
        .map_err(|e| Failure::usage(format!("there is no field `{}` in `{}`", e.field, e.parent)).help(e.help))?;
    output::print(&text(&explained))?;
    Ok(0)
}

fn text(explained: &Explained) -> String {
    let mut text = String::from("KIND:     Workspace\nVERSION:  microagent.dev/v1alpha1\n");
    if !explained.field.is_empty() {
        let mark = mark(is_refused(explained, ""));
        text.push_str(&format!("FIELD:    {} <{}>{mark}\n", explained.field, explained.type_name));
    }
    if let Some(default) = &explained.default {
        text.push_str(&format!("DEFAULT:  {default}\n"));
    }
    if !explained.one_of.is_empty() {
        text.push_str(&format!("ONE OF:   {}\n", values(explained).join(", ")));
    }
    text.push_str(&format!("\nDESCRIPTION:\n{}\n", wrap(&explained.description)));
    if !explained.rules.is_empty() {
        let rules: String = explained.rules.iter().map(|rule| format!("  - {rule}\n")).collect();
        text.push_str(&format!("\nRULES:\n{rules}"));
    }
    if !explained.children.is_empty() {
        let mut table = Table::new(&["NAME", "TYPE", "MEANING"]);
        for child in &explained.children {
            let required = if child.required { " (required)" } else { "" };
            table.row([child.name.clone(), format!("<{}>{required}", child.type_name), meaning(explained, child)]);
        }
        text.push_str(&format!("\nFIELDS:\n{}", table.render("  ")));
    }
    text
}

/// What a field within another means, with the values that it can have and those that are refused yet.
fn meaning(parent: &Explained, child: &Child) -> String {
    let field = [parent.field.as_str(), child.name.as_str()].join(".");
    let summary = child.summary.as_str();
    let Ok(explained) = explain(&field) else { return summary.to_owned() };
    let all = &explained.one_of;
    if all.is_empty() {
        return format!("{summary}{}", mark(is_refused(&explained, "")));
    }
    if all.iter().any(|value| !summary.contains(&format!("`{value}`"))) {
        let list = format!("One of {}.", values(&explained).join(", "));
        // A first sentence about one value would read as if there were no other.
        return if summary.starts_with('`') { list } else { format!("{summary} {list}") };
    }
    let refused: Vec<_> = all.iter().map(String::as_str).filter(|value| is_refused(&explained, value)).collect();
    if refused.is_empty() {
        summary.to_owned()
    } else {
        format!("{summary} Not supported yet: {}.", refused.join(", "))
    }
}

/// The values of a field, those marked that are refused yet.
fn values(explained: &Explained) -> Vec<String> {
    explained.one_of.iter().map(|value| format!("{value}{}", mark(is_refused(explained, value)))).collect()
}

/// Whether a field is refused with `value`, or, for an empty one, with any.
fn is_refused(explained: &Explained, value: &str) -> bool {
    let field = |name: &str| name.replace("[]", "");
    // What is refused of one origin only says so in its description.
    UNSUPPORTED.iter().filter(|one| one.only.is_none()).any(|one| {
        field(one.field) == explained.field && (one.values.is_empty() || one.values.split(", ").any(|v| v == value))
    })
}

fn mark(is_refused: bool) -> &'static str {
    if is_refused { " (not supported yet)" } else { "" }
}

/// Fills lines of at most 90 characters behind two blanks.
fn wrap(text: &str) -> String {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::from(" ");
        for word in paragraph.split_whitespace() {
            if line.len() > 1 && line.len() + word.len() > 90 {
                lines.push(std::mem::replace(&mut line, String::from(" ")));
            }
            line.push(' ');
            line.push_str(word);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_told_with_its_type_default_and_rules() {
        let text = text(&explain("spec.resources.memory").unwrap());
        assert!(text.starts_with("KIND:     Workspace\n"), "{text}");
        for part in ["FIELD:    spec.resources.memory <", "DEFAULT:  ", "DESCRIPTION:\n  ", "RULES:\n  - "] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn values_and_fields_that_are_refused_are_marked() {
        let mode = text(&explain("spec.network.mode").unwrap());
        assert!(mode.contains("None, Mediated (not supported yet), User (not supported yet)\n"), "{mode}");
        let network = text(&explain("spec.network").unwrap());
        assert!(network.contains("One of None, Mediated (not supported yet), User (not"), "{network}");
        assert!(network.contains("Guest ports that the host listens for. (not supported yet)"), "{network}");
        let ports = text(&explain("spec.network.ports").unwrap());
        assert!(ports.contains("FIELD:    spec.network.ports <[]object> (not supported yet)\n"), "{ports}");
        let spec = text(&explain("spec").unwrap());
        assert!(spec.contains("or `AppleVf`. Not supported yet: AppleVf.\n"), "{spec}");
        assert!(spec.contains("(Kubernetes only).\n"), "{spec}");
    }

    #[test]
    fn the_whole_resource_lists_its_fields() {
        let text = text(&explain("").unwrap());
        assert!(text.contains("FIELDS:") && text.contains("  spec "), "{text}");
    }

    #[test]
    fn an_unknown_field_is_wrong_usage() {
        let failure = run(&Args { field: "spec.imgae".to_owned() }).unwrap_err();
        assert!(failure.to_string().contains("image"), "{failure}");
    }
}
