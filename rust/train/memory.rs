//! The limit on what merging may take.

use crate::error::{Error, Result};

/// Bytes that the arrays of one training may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    limit: Option<usize>,
}

impl Memory {
    pub(super) fn new(limit: Option<usize>) -> Self {
        Self { limit }
    }

    /// Whether `bytes` fit.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.limit.is_none_or(|limit| bytes <= limit)
    }

    /// # Errors
    /// [`Error::Usage`] where `bytes` do not fit.
    pub(super) fn check(&self, bytes: usize) -> Result<()> {
        let Some(limit) = self.limit.filter(|&limit| bytes > limit) else {
            return Ok(());
        };
        let mega = |bytes: usize| bytes.div_ceil(1_000_000);
        Err(Error::usage(format!(
            "merging takes {} MB or more, but memory is limited to {} MB: allow more, or ask for \
             fewer ids; counting again can be saved (--count-only, --from-counts)",
            mega(bytes),
            mega(limit)
        )))
    }
}
