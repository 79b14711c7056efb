//! Files of Keras: read exactly or refused.
#![cfg(all(feature = "keras", feature = "gpu"))]

mod broken;
#[path = "../common/mod.rs"]
mod common;
mod fixtures;
mod refused;
mod replay;
