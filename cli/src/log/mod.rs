//! Reading what machines write.

pub(crate) mod cri;
pub(crate) mod tail;
