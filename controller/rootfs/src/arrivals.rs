//! Layers that are read while they come.

/// Whoever brings the layers of a build that begins before all of them are there. A layer is named by its place in the
/// image, from 0.
pub trait Arrivals: Sync {
    /// The one of the `waiting` layers, which are never none, to be read next; they are sorted with the largest first.
    ///
    /// Waits until one of them has begun to come and prefers that one, so that no layer that is there waits for one that
    /// is not. Once `stopped` says that the build has ended, any of them is given.
    fn next(&self, waiting: &[usize], stopped: &dyn Fn() -> bool) -> usize;

    /// Whether whoever brings the layer holds its blob against its digest. It is then not hashed here as well, and what
    /// was built is of no use until that digest is known to be right. Asked once, before the layer is read.
    fn verifies(&self, layer: usize) -> bool;
}

/// All layers are there, and nobody has verified them.
pub(crate) struct AllThere;

impl Arrivals for AllThere {
    fn next(&self, waiting: &[usize], _: &dyn Fn() -> bool) -> usize {
        waiting.first().copied().unwrap_or_default()
    }

    fn verifies(&self, _: usize) -> bool {
        false
    }
}
