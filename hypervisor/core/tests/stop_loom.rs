//! The words of a stop under every order that a weakly ordered machine may show them in.

use std::sync::atomic::Ordering;

use hv_core::id::PcpuId;
use hv_core::stop::StoppedBy;
use hv_core::stop::watchdog::Sample;
use hv_core::stop::words::{Claim, Slot, Stopper};
use hv_core::word::Word;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

#[derive(Debug)]
struct Shared(AtomicU32);

impl Default for Shared {
    fn default() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl Word for Shared {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.0.swap(value, order)
    }

    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        self.0.fetch_or(bits, order)
    }

    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32> {
        self.0
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }
}

#[test]
fn of_all_that_fail_at_once_exactly_one_is_the_stopper() {
    loom::model(|| {
        let stopper = Arc::new(Stopper::<Shared>::default());
        let others: Vec<_> = [1, 2]
            .map(|id| {
                let stopper = stopper.clone();
                thread::spawn(move || stopper.claim(PcpuId(id)))
            })
            .into();
        let mut claims = vec![stopper.claim(PcpuId(0))];
        claims.extend(others.into_iter().map(|other| other.join().unwrap()));
        let winner = stopper.who().expect("somebody claimed");
        for (id, claim) in (0..).map(PcpuId).zip(claims) {
            let expected = if id == winner {
                Claim::Mine
            } else {
                Claim::Theirs(winner)
            };
            assert_eq!(claim, expected);
        }
    });
}

#[test]
fn who_comes_up_is_either_found_online_or_finds_itself_asked() {
    loom::model(|| {
        let slot = Arc::new(Slot::<Shared>::default());
        let newcomer = {
            let slot = slot.clone();
            thread::spawn(move || slot.come_online(true).is_asked())
        };
        let state = slot.ask();
        let finds_itself_asked = newcomer.join().unwrap();
        assert_ne!(state.is_online(), finds_itself_asked);
        assert_eq!(state.is_online(), state.is_armed());
    });
}

#[test]
fn what_a_pcpu_wrote_before_it_parked_is_there_for_who_sees_it_parked() {
    loom::model(|| {
        let slot = Arc::new(Slot::<Shared>::default());
        let context = Arc::new(AtomicU32::new(0));
        let parker = {
            let (slot, context) = (slot.clone(), context.clone());
            thread::spawn(move || {
                context.store(7, Ordering::Relaxed);
                assert!(slot.park(StoppedBy::Ipi));
            })
        };
        let _ = slot.ask();
        if slot.state().parked().is_some() {
            assert_eq!(context.load(Ordering::Relaxed), 7);
        }
        parker.join().unwrap();
    });
}

#[test]
fn asking_and_signalling_lose_no_answer() {
    loom::model(|| {
        let slot = Arc::new(Slot::<Shared>::default());
        let _ = slot.come_online(true);
        let parker = {
            let slot = slot.clone();
            thread::spawn(move || slot.park(StoppedBy::Sdei))
        };
        let asked = slot.ask();
        let signalled = slot.mark_signalled();
        assert!(!asked.is_signalled() && signalled.is_asked());
        assert!(parker.join().unwrap(), "it was the first way to park");
        let state = slot.state();
        assert_eq!(state.parked(), Some(StoppedBy::Sdei));
        assert!(state.is_online() && state.is_asked() && state.is_signalled());
    });
}

#[test]
fn a_sample_is_read_whole_and_once_or_not_at_all() {
    /// Half written, written, and read.
    const STATES: [u32; 3] = [1, 2, 3];
    fn read(sample: &Sample<Shared>, place: &AtomicU32) -> bool {
        let is_written = sample.collect();
        if is_written {
            assert_eq!(place.swap(STATES[2], Ordering::Relaxed), STATES[1]);
            sample.release();
        }
        is_written
    }
    loom::model(|| {
        let sample = Arc::new(Sample::<Shared>::default());
        let place = Arc::new(AtomicU32::new(0));
        sample.ask();
        let handler = {
            let (sample, place) = (sample.clone(), place.clone());
            thread::spawn(move || {
                if sample.begin() {
                    place.store(STATES[0], Ordering::Relaxed);
                    place.store(STATES[1], Ordering::Relaxed);
                    sample.finish();
                }
            })
        };
        let other = {
            let (sample, place) = (sample.clone(), place.clone());
            thread::spawn(move || read(&sample, &place))
        };
        let mine = read(&sample, &place);
        let theirs = other.join().unwrap();
        handler.join().unwrap();
        assert!(!(mine && theirs), "one answer is read once");
    });
}
