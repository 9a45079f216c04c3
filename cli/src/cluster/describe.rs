//! The events of a workspace, as the cluster keeps them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};

use super::{Cluster, refused};
use crate::{
    commands::describe::EVENTS,
    failure::Result,
    objects::Object,
    output::{human, table::Table},
};

impl Cluster {
    /// The last events, the oldest first.
    pub(super) async fn events(&self, object: &Object) -> Result<Vec<Event>> {
        let Some(uid) = object.uid() else { return Ok(Vec::new()) };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &object.key.namespace);
        let of_it = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let events = api.list(&of_it).await.map_err(|e| refused(e, "list events", "list events"))?;
        let mut events = events.items;
        events.sort_by_key(when);
        events.drain(..events.len().saturating_sub(EVENTS));
        Ok(events)
    }
}

/// When it happened, for the last time if more than once.
fn when(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let once = event.event_time.as_ref().map(|time| time.0);
    series.or(last).or(once).or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// Events as a table; none when there is nothing in it.
pub(super) fn table(events: &[Event], now: Timestamp) -> Option<Table> {
    let mut table = Table::new(&["AGE", "TYPE", "REASON", "FROM", "MESSAGE"]);
    for event in events {
        table.row([
            when(event).map(|then| human::age(then, now)).unwrap_or_default(),
            event.type_.clone().unwrap_or_default(),
            event.reason.clone().unwrap_or_default(),
            event.reporting_component.clone().unwrap_or_default(),
            event.message.clone().unwrap_or_default(),
        ]);
    }
    (!events.is_empty()).then_some(table)
}
