//! `microagent events`

use jiff::Timestamp;
use microagent_controller::journal::{Event, EventType, Follower};
use serde_json::json;

use crate::{
    context::Context,
    failure::Result,
    output::{self, Format, OutputArgs, human, table::Table},
    watch::Watch,
};

/// Show what happened to workspaces
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only of this workspace
    name: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Go on with what happens from now on
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<u8> {
    let key = args.name.as_deref().map(|name| context.key(name)).transpose()?;
    let wanted = |event: &Event| match &key {
        Some(key) => event.key == *key,
        None => args.all_namespaces || event.key.namespace == context.namespace,
    };
    let mut watch = Watch::new();
    watch.dir(&context.paths.state);
    let mut follower = Follower::from_start(&context.paths.journal());
    let mut events = follower.poll()?;
    events.retain(&wanted);
    let format = args.output.output;
    if !args.watch {
        output::print(&all(format, &events, args.all_namespaces)?)?;
        if events.is_empty() && matches!(format, Format::Table | Format::Wide) {
            output::note(&match &key {
                Some(key) if key.namespace == context.namespace => format!("No events of workspace {}", key.name),
                Some(key) => format!("No events of workspace {key}"),
                None => "No events found.".to_owned(),
            });
        }
        return Ok(0);
    }
    loop {
        for event in events.iter().filter(|e| wanted(e)) {
            output::print(&one(format, event)?)?;
        }
        watch.changed().await;
        events = follower.poll()?;
    }
}

/// Events as one text.
fn all(format: Format, events: &[Event], namespaces: bool) -> Result<String> {
    if let Some(text) = output::structured(format, &json!({ "apiVersion": "v1", "kind": "List", "items": events }))? {
        return Ok(text);
    }
    if format == Format::Name {
        return Ok(events.iter().map(|e| format!("workspace/{}\n", e.key.name)).collect());
    }
    if events.is_empty() {
        return Ok(String::new());
    }
    Ok(table(events, namespaces, Timestamp::now()).render(""))
}

/// Events as a table.
pub(crate) fn table(events: &[Event], namespaces: bool, now: Timestamp) -> Table {
    let header = ["NAMESPACE", "AGE", "TYPE", "REASON", "OBJECT", "MESSAGE"];
    let skip = usize::from(!namespaces);
    let mut table = Table::new(&header[skip..]);
    for event in events {
        let cells = [
            event.key.namespace.clone(),
            human::age(event.time, now),
            type_name(event.type_).to_owned(),
            event.reason.clone(),
            format!("workspace/{}", event.key.name),
            event.message.clone(),
        ];
        table.row(&cells[skip..]);
    }
    table
}

/// An event by itself: a line for people, a line of JSON, a document of YAML.
fn one(format: Format, event: &Event) -> Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string(event)? + "\n",
        Format::Yaml => format!("---\n{}", microagent_crds::yaml::to_string(&serde_json::to_value(event)?)?),
        Format::Name => format!("workspace/{}\n", event.key.name),
        Format::Table | Format::Wide => line(event),
    })
}

/// An event as a line for people.
pub(crate) fn line(event: &Event) -> String {
    format!(
        "{:.0}  {:7}  {}  {}: {}\n",
        event.time,
        type_name(event.type_),
        event.key,
        event.reason,
        human::one_line(&event.message),
    )
}

fn type_name(kind: EventType) -> &'static str {
    match kind {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

#[cfg(test)]
mod tests {
    use microagent_controller::Key;

    use super::*;

    fn event() -> Event {
        Event {
            time: "2026-11-22T10:00:00.5Z".parse().unwrap(),
            key: Key::new("default", "a"),
            uid: "u".to_owned(),
            type_: EventType::Warning,
            reason: "ImageNotFound".to_owned(),
            message: "no such\nimage".to_owned(),
        }
    }

    #[test]
    fn the_table_has_namespaces_only_when_asked() {
        let now = "2026-11-22T10:01:00Z".parse().unwrap();
        insta::assert_snapshot!(table(&[event()], true, now).render(""), @r"
        NAMESPACE   AGE   TYPE      REASON          OBJECT        MESSAGE
        default     60s   Warning   ImageNotFound   workspace/a   no such …
        ");
        insta::assert_snapshot!(table(&[event()], false, now).render(""), @r"
        AGE   TYPE      REASON          OBJECT        MESSAGE
        60s   Warning   ImageNotFound   workspace/a   no such …
        ");
    }

    #[test]
    fn a_watched_event_is_one_line() {
        insta::assert_snapshot!(one(Format::Table, &event()).unwrap(), @"2026-11-22T10:00:00Z  Warning  default/a  ImageNotFound: no such image");
        assert_eq!(one(Format::Json, &event()).unwrap().lines().count(), 1);
        assert_eq!(one(Format::Name, &event()).unwrap(), "workspace/a\n");
    }
}
