//! What a stopper does from the first moment to the last, however often it fails on the way.

/// A step, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Climb the ladder.
    Stop,
    /// Say what happened.
    Report,
    /// Keep it for the next boot.
    Keep,
    /// Reset, switch off or halt.
    Leave,
    /// Nothing is left that has not failed.
    Park,
}

/// How far it has come. One that fails begins again where it failed with the ladder, once, and else with
/// what follows: the words of the ladder say who was signalled, so that nobody is twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopSequence {
    begun: Option<Step>,
    retried: bool,
}

impl StopSequence {
    /// A stopper that has done nothing yet.
    pub const fn new() -> Self {
        Self {
            begun: None,
            retried: false,
        }
    }

    /// The step to do now: the first, or the one after the step begun last, which has been done.
    #[must_use]
    pub fn advance(&mut self) -> Step {
        let next = match self.begun {
            None => Step::Stop,
            Some(Step::Stop) => Step::Report,
            Some(Step::Report) => Step::Keep,
            Some(Step::Keep) => Step::Leave,
            Some(Step::Leave | Step::Park) => Step::Park,
        };
        self.begun = Some(next);
        next
    }

    /// The step to do now that the one begun last has failed; also says which that was.
    #[must_use]
    pub fn resume(&mut self) -> (Option<Step>, Step) {
        let failed = self.begun;
        if failed == Some(Step::Stop) && !self.retried {
            self.retried = true;
            return (failed, Step::Stop);
        }
        (failed, self.advance())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_done_once_and_then_never_anything_again() {
        let mut sequence = StopSequence::new();
        let steps = [Step::Stop, Step::Report, Step::Keep, Step::Leave];
        assert_eq!([(); 4].map(|()| sequence.advance()), steps);
        assert_eq!(sequence.advance(), Step::Park);
        assert_eq!(sequence.advance(), Step::Park);
    }

    #[test]
    fn a_failure_in_the_ladder_climbs_it_once_more() {
        let mut sequence = StopSequence::new();
        assert_eq!(sequence.advance(), Step::Stop);
        assert_eq!(sequence.resume(), (Some(Step::Stop), Step::Stop));
        assert_eq!(sequence.resume(), (Some(Step::Stop), Step::Report));
    }

    #[test]
    fn however_often_it_fails_it_comes_to_an_end() {
        let mut sequence = StopSequence::new();
        let mut step = sequence.advance();
        for _ in 0..5 {
            step = sequence.resume().1;
        }
        assert_eq!(step, Step::Park);
        assert_eq!(sequence.resume().1, Step::Park);
    }
}
