//! `microagent explain`

use microagent_crds::explain::{Explained, explain};

use crate::{
    failure::{Failure, Result},
    output::{self, table::Table},
};

/// Explain a field of the manifest
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The field, such as spec.resources.memory
    #[arg(default_value = "")]
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
        text.push_str(&format!("FIELD:    {} <{}>\n", explained.field, explained.type_name));
    }
    if let Some(default) = &explained.default {
        text.push_str(&format!("DEFAULT:  {default}\n"));
    }
    if !explained.one_of.is_empty() {
        text.push_str(&format!("ONE OF:   {}\n", explained.one_of.join(", ")));
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
            table.row([child.name.clone(), format!("<{}>{required}", child.type_name), child.summary.clone()]);
        }
        text.push_str(&format!("\nFIELDS:\n{}", table.render("  ")));
    }
    text
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
