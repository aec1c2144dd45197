//! What executes the machine's instructions, and whether they are counted.

use super::{Arguments, Machine};

impl Machine {
    /// The options for it, unless the arguments of the user have them: QEMU takes the first accelerator that works,
    /// and refuses one that does not go with a count.
    pub(super) fn accelerate(&self, line: &mut Arguments) {
        let has = Asked::by(&self.extra);
        if self.icount {
            if !has.accelerator {
                line.option("-accel", "tcg,thread=single");
            }
            if !has.count {
                let shift = self.icount_shift;
                line.option("-icount", format!("shift={shift},sleep=off"));
            }
            line.option("-rtc", "clock=vm");
            line.option("-seed", "1");
        } else if !has.accelerator && !has.count {
            let steps = if self.steps {
                ",one-insn-per-tb=on"
            } else {
                ""
            };
            line.option("-accel", format!("tcg,thread=multi{steps}"));
        }
    }
}

/// What the user's own arguments choose.
#[derive(Default)]
struct Asked {
    accelerator: bool,
    count: bool,
}

impl Asked {
    fn by(arguments: &[std::ffi::OsString]) -> Self {
        let mut asked = Self::default();
        let mut words = arguments.iter().map(|word| word.to_string_lossy());
        while let Some(word) = words.next() {
            // QEMU takes one dash or two.
            let Some(name) = word.strip_prefix('-') else {
                continue;
            };
            match name.strip_prefix('-').unwrap_or(name) {
                "accel" | "enable-kvm" => asked.accelerator = true,
                "icount" => asked.count = true,
                "machine" | "M" => {
                    let value = words.next().unwrap_or_default();
                    let mut settings = value.split(',');
                    asked.accelerator |= settings.any(|it| it.starts_with("accel="));
                }
                _ => {}
            }
        }
        asked
    }
}
