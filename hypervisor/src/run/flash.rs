//! What a guest's flash keeps, as the pCPU that holds the VM's lock reaches it.

use core::sync::atomic::Ordering;

use hv_core::flash::Array;

use super::Pcpu;

impl Array for Pcpu {
    fn word(&self, index: usize) -> u32 {
        let word = self.vm.flash.get(index);
        word.map_or(u32::MAX, |word| word.load(Ordering::Relaxed))
    }

    fn set_word(&mut self, index: usize, value: u32) {
        if let Some(word) = self.vm.flash.get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn erase(&mut self, first: usize, count: usize) {
        let words = self.vm.flash.iter().skip(first).take(count);
        words.for_each(|word| word.store(u32::MAX, Ordering::Relaxed));
    }
}
