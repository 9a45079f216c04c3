//! Work that blocks, away from the threads that passes run on.

use super::fault::host_error;
use crate::memory::Fault;

/// Does work that blocks. What it logs belongs to the pass that asked for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .unwrap_or_else(|e| Err(host_error(format!("the work was ended: {e}"))))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::{Arc, Mutex},
        thread::{self, ThreadId},
    };

    use tracing::{Instrument as _, span::Id};
    use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _, registry::Registry};

    use super::*;

    /// The threads that are within a span.
    #[derive(Clone, Default)]
    struct Within(Arc<Mutex<HashSet<ThreadId>>>);

    impl Within {
        fn here(&self) -> bool {
            self.0.lock().unwrap().contains(&thread::current().id())
        }
    }

    impl Layer<Registry> for Within {
        fn on_enter(&self, _: &Id, _: Context<'_, Registry>) {
            self.0.lock().unwrap().insert(thread::current().id());
        }

        fn on_exit(&self, _: &Id, _: Context<'_, Registry>) {
            self.0.lock().unwrap().remove(&thread::current().id());
        }
    }

    #[tokio::test]
    async fn what_blocks_is_within_the_span_of_its_pass_on_a_thread_of_its_own() {
        let within = Within::default();
        let _guard = tracing::subscriber::set_default(Registry::default().with(within.clone()));
        let (seen, pass) = (within.clone(), thread::current().id());
        let work = blocking(move || Ok((seen.here(), thread::current().id())));
        let (inside, thread) = work.instrument(tracing::info_span!("reconcile")).await.unwrap();
        assert!(inside && thread != pass);
        assert!(!within.here());
    }
}
