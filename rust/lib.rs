//! Byte and byte-level BPE tokenizers: trained, applied, and poured into token shards.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cache;
pub mod control;
pub mod count;
mod decode;
mod encode;
pub mod error;
pub mod formats;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod gather;
mod hash;
pub mod kernels;
mod memory;
mod parallel;
mod parts;
mod pieces;
pub mod pretokenize;
#[cfg(feature = "python")]
mod python;
mod room;
pub mod shards;
mod sink;
mod specials;
pub mod tokenizer;
pub mod train;
#[cfg(any(test, feature = "python"))]
mod transcode;
pub mod vocab;

pub use control::{Control, Stage};
pub use error::{Error, Result};
pub use parts::TextSource;
pub use specials::{Names, SpecialRule};
pub use tokenizer::Tokenizer;
pub use vocab::Vocab;
