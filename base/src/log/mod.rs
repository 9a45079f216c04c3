//! Reading what machines write.

pub mod cri;
pub mod lines;
pub mod tail;
