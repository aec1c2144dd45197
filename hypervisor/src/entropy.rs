//! True random numbers, for guests and for their seeds: the pCPU's own, else those of the machine's firmware, else none.

use hv_bundle::Fresh;
use hv_core::trng::Entropy;

use crate::{firmware, sysregs};

/// How often the generator is asked for a word. It may be exhausted for a moment (DDI0487 D24.2, RNDRRS), and
/// then the guest is told to ask again.
const ATTEMPTS: u32 = 8;

/// Where this pCPU's random numbers come from.
#[derive(Clone, Copy)]
pub enum Source {
    /// RNDRRS.
    Pcpu,
    /// The TRNG interface of EL3.
    Firmware,
}

impl Source {
    /// The one there is, on the pCPU that asks.
    pub fn find() -> Option<Self> {
        if sysregs::has_random_numbers() {
            Some(Self::Pcpu)
        } else if firmware::has_entropy() {
            Some(Self::Firmware)
        } else {
            None
        }
    }
}

impl Entropy for Source {
    fn fill(&mut self, words: &mut [u64]) -> bool {
        match self {
            Self::Firmware => firmware::fill_random(words),
            Self::Pcpu => words.iter_mut().all(|word| {
                let drawn = (0..ATTEMPTS).find_map(|_| sysregs::random_number());
                drawn.map(|drawn| *word = drawn).is_some()
            }),
        }
    }
}

/// What guests' seeds are mixed with now.
pub fn fresh() -> Fresh {
    let mut random = [0; 3];
    let is_drawn = Source::find().is_some_and(|mut source| source.fill(&mut random));
    Fresh {
        random: is_drawn.then_some(random),
        ticks: sysregs::now().0,
    }
}
