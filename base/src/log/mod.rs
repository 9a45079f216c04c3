//! Reading what machines write.

pub mod cri;
pub mod tail;
