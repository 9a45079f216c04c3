//! What the end-to-end tests share: real servers to test against, and images to give them.

pub mod image_fixture;
pub mod registry;
