//! The runs of `kdump` that must pass, and what each has that others have not.

use anyhow::Result;

use lab::plan::{Fate, Plan, Scenario};

/// A run that must pass.
pub struct Case {
    /// Its name among the tests.
    pub name: &'static str,
    /// What is done to the guest.
    pub scenario: Scenario,
    /// CPU model.
    pub model: &'static str,
    /// Number of CPUs.
    pub cpus: u32,
    /// CPUs that are wedged.
    pub wedge: &'static str,
    /// The CPU that panics or asks for backtraces.
    pub panic: u32,
    /// How a CPU ends that SDEI stopped, if it is said.
    pub fate: Option<Fate>,
    /// Whether CPU_ON takes back a CPU that is parked in an event.
    pub reclaim: bool,
    /// Whether time is what the CPUs execute: then other work on the host changes nothing.
    pub icount: bool,
}

/// What most of them have.
pub const USUAL: Case = Case {
    name: "",
    scenario: Scenario::Kdump,
    model: "neoverse-n1",
    cpus: 4,
    wedge: "2",
    panic: 0,
    fate: None,
    reclaim: false,
    icount: false,
};

/// All of them. The dump of the first is opened by a debugger, too.
pub const CASES: [Case; 15] = [
    Case {
        name: "linux/kdump/one-of-4",
        model: "max",
        ..USUAL
    },
    Case {
        name: "linux/kdump/three-of-4",
        model: "max",
        wedge: "1-3",
        icount: true,
        ..USUAL
    },
    Case {
        name: "linux/kdump/boot-cpu-of-8",
        model: "cortex-a72",
        cpus: 8,
        wedge: "0",
        panic: 5,
        ..USUAL
    },
    Case {
        name: "linux/kdump/fifteen-of-16",
        cpus: 16,
        wedge: "1-15",
        icount: true,
        ..USUAL
    },
    Case {
        name: "linux/nmi/all-of-4",
        scenario: Scenario::Nmi,
        wedge: "0-3",
        icount: true,
        ..USUAL
    },
    Case {
        name: "linux/watchdog/all-of-4",
        scenario: Scenario::Watchdog,
        wedge: "0-3",
        icount: true,
        ..USUAL
    },
    Case {
        name: "linux/sysrq-l",
        scenario: Scenario::SysrqL,
        model: "cortex-a53",
        ..USUAL
    },
    Case {
        name: "linux/hardlockup",
        scenario: Scenario::Hardlockup,
        ..USUAL
    },
    Case {
        name: "linux/reclaim/one-of-4",
        reclaim: true,
        ..USUAL
    },
    Case {
        name: "linux/reclaim/three-of-4",
        model: "cortex-a72",
        wedge: "0,1,3",
        panic: 2,
        reclaim: true,
        ..USUAL
    },
    Case {
        name: "linux/ending/park",
        fate: Some(Fate::Park),
        ..USUAL
    },
    Case {
        name: "linux/ending/resume-park",
        model: "cortex-a72",
        wedge: "1,3",
        fate: Some(Fate::ResumePark),
        ..USUAL
    },
    Case {
        name: "linux/ending/resume-off",
        model: "max",
        wedge: "1-3",
        fate: Some(Fate::ResumeOff),
        ..USUAL
    },
    Case {
        name: "linux/ending/off",
        fate: Some(Fate::Off),
        ..USUAL
    },
    Case {
        name: "linux/ending/pad-off",
        model: "cortex-a53",
        wedge: "0",
        panic: 3,
        fate: Some(Fate::PadOff),
        ..USUAL
    },
];

impl Case {
    /// What `kdump` is to do.
    pub fn plan(&self) -> Result<Plan> {
        Ok(Plan {
            model: self.model.to_owned(),
            wedge: self.wedge.parse().map_err(anyhow::Error::msg)?,
            panic: self.panic,
            fate: self.fate,
            reclaim: self.reclaim,
            icount: self.icount,
            ..Plan::new(self.scenario, self.cpus)
        })
    }

    /// What must harden the kernel on QEMU's `virt`, at least.
    pub fn hardening(&self) -> &'static [&'static str] {
        match self.model {
            // All that a guest is shown of what it has; with E0PD the kernel does without KPTI.
            "max" => &[
                "shadow-call-stack",
                "vmap-stack",
                "ptr-auth",
                "pan",
                "epan",
                "e0pd",
                "bti",
            ],
            // KPTI is there for KASLR, and where instructions are counted nothing is random.
            _ if self.icount => &["shadow-call-stack", "vmap-stack"],
            "cortex-a53" | "cortex-a72" => &["shadow-call-stack", "vmap-stack", "kpti"],
            _ => &["shadow-call-stack", "vmap-stack", "kpti", "pan"],
        }
    }
}
