//! What placement counts, as OpenMetrics text. Names of workspaces and nodes never become labels.

use std::fmt;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Labels = Vec<(&'static str, &'static str)>;

/// All metrics of one placement.
pub(crate) struct Metrics {
    registry: Registry,
    actions: Family<Labels, Counter>,
    leader: Gauge,
    workspaces: Gauge,
    unplaced: Gauge,
    unreadable: Gauge,
    queue: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at zero.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("microagent_placement");
        let (actions, leader, workspaces) = (Family::<Labels, Counter>::default(), Gauge::default(), Gauge::default());
        let (unplaced, unreadable, queue) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("actions", "What was done, by how it ended", actions.clone());
        registry.register("leader", "Whether this one leads", leader.clone());
        registry.register("workspaces", "Workspaces", workspaces.clone());
        registry.register("workspaces_unplaced", "Workspaces that have no node", unplaced.clone());
        registry.register("workspaces_unreadable", "Workspaces that this version cannot read", unreadable.clone());
        registry.register("queue_depth", "Workspaces that wait for a look", queue.clone());
        Self { registry, actions, leader, workspaces, unplaced, unreadable, queue }
    }

    /// Something was done: `outcome` is `done`, `refused` or `failed`.
    pub(crate) fn acted(&self, action: &'static str, outcome: &'static str) {
        self.actions.get_or_create(&vec![("action", action), ("outcome", outcome)]).inc();
    }

    /// The text.
    #[must_use]
    pub(crate) fn render(
        &self,
        leads: bool,
        (all, unplaced, unreadable): (usize, usize, usize),
        queue: usize,
    ) -> String {
        let set = |gauge: &Gauge, n: usize| gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        set(&self.leader, leads.into());
        set(&self.workspaces, all);
        set(&self.unplaced, unplaced);
        set(&self.unreadable, unreadable);
        set(&self.queue, queue);
        let mut page = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_was_counted() {
        let metrics = Metrics::new();
        metrics.acted("bind", "done");
        let page = metrics.render(true, (3, 2, 1), 0);
        for line in [
            "microagent_placement_actions_total{action=\"bind\",outcome=\"done\"} 1",
            "microagent_placement_leader 1",
            "microagent_placement_workspaces_unplaced 2",
            "# EOF",
        ] {
            assert!(page.lines().any(|one| one == line), "{line}\n{page}");
        }
    }
}
