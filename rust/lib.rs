//! Byte and byte-level BPE tokenizers: trained, applied, and poured into token shards.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod control;
pub mod error;
pub mod pretokenize;
#[cfg(feature = "python")]
mod python;
pub mod shards;

pub use control::{Control, Stage};
pub use error::{Error, Result};
