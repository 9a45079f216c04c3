//! The admin endpoint of the built controller, over its real sockets: what is scraped, what is probed, what hostile clients can do,
//! and what the logs say of a pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod clients;
mod controller;
mod logs;
mod openmetrics;
mod page;
mod probes;
mod scrape;
mod sockets;
