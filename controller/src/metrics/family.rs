//! A metric for each combination of its labels, all made at the start: looking one up takes no lock, no hash and no
//! allocation, none ever appears or goes, and those that never happened read 0.

use std::{fmt, marker::PhantomData, sync::Arc};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric},
};

use super::label::{Encoded, Labels};

/// See the module. Clones share the metrics.
pub(super) struct ByLabel<L, M> {
    metrics: Arc<[M]>,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels, M> ByLabel<L, M> {
    pub(super) fn new(metric: impl Fn() -> M) -> Self {
        Self { metrics: L::all().iter().map(|_| metric()).collect(), labels: PhantomData }
    }

    pub(super) fn get(&self, labels: L) -> &M {
        &self.metrics[labels.index()]
    }
}

impl<L, M> Clone for ByLabel<L, M> {
    fn clone(&self) -> Self {
        Self { metrics: self.metrics.clone(), labels: PhantomData }
    }
}

impl<L, M: fmt::Debug> fmt::Debug for ByLabel<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.metrics.iter()).finish()
    }
}

impl<L: Labels, M: EncodeMetric + TypedMetric> EncodeMetric for ByLabel<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        L::all().into_iter().zip(self.metrics.iter()).try_for_each(|(labels, metric)| {
            let labels = Encoded(labels);
            metric.encode(encoder.encode_family(&labels)?)
        })
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}
