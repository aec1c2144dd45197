//! An atomic word that a model checker can stand in for.

use core::sync::atomic::{AtomicU32, Ordering};

/// An atomic word; the standard one, or that of a model checker.
pub trait Word {
    /// Reads it.
    fn load(&self, order: Ordering) -> u32;
    /// Writes it.
    fn store(&self, value: u32, order: Ordering);
    /// Replaces it, and answers what it was.
    fn swap(&self, value: u32, order: Ordering) -> u32;
    /// Sets bits, and answers what it was.
    fn fetch_or(&self, bits: u32, order: Ordering) -> u32;
    /// Replaces `old` by `new`; the value found is the error if it is another.
    ///
    /// # Errors
    ///
    /// If the word does not hold `old`.
    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32>;
}

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        AtomicU32::store(self, value, order);
    }

    #[inline]
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::swap(self, value, order)
    }

    #[inline]
    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_or(self, bits, order)
    }

    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32> {
        AtomicU32::compare_exchange(self, old, new, Ordering::AcqRel, Ordering::Acquire)
    }
}
