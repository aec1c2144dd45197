//! Words that inject faults into the hypervisor: for those who test its stop. Only the test image obeys them, and only it
//! and the tools read more of them than their names.

use core::fmt;

use super::{number, split_at};

/// Where a pCPU gets stuck, its interrupts masked: in EL2 with no vCPU running; in a call of the guest's, with
/// the console's lock or without; in the first instruction of the vector, at the exit after such a call; in the
/// last one before the guest goes on from there. With `mask` the pCPU is not stuck, but its vCPU: the operator's first NMI
/// has it go on with PSTATE.I and F set instead.
pub const PLACES: [&str; 6] = ["spin", "lock", "exit", "vector", "eret", "mask"];

/// How it breaks: three crashes and one with the console locked, and the machine told to stop.
pub const WAYS: [&str; 6] = ["panic", "lock", "fault", "stack", "off", "reset"];

/// A fault. Places and ways are numbers in their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    /// `wedge=N:PLACE,...`: pCPUs get stuck; [`Fault::wedges`] has them.
    Wedge(&'a [u8]),
    /// `break=WAY` or `break=WAY@N`: it breaks when all are up, or at a call of the guest on a pCPU.
    Break {
        /// How.
        way: u8,
        /// On which pCPU.
        pcpu: Option<u8>,
    },
    /// `probe=N:COUNT`: EL3 interrupts a pCPU.
    Probe {
        /// Which.
        pcpu: u8,
        /// So many times.
        count: u32,
    },
}

/// What is wrong with a word that injects a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFault {
    /// How it is written.
    Form(&'static str),
    /// There is no such pCPU, but so many.
    NoPcpu(u32, usize),
    /// A pCPU gets stuck once.
    Twice(u32),
}

impl fmt::Display for NoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Form(form) => write!(f, "is not understood; write {form}"),
            Self::NoPcpu(pcpu, pcpus) => {
                let last = pcpus.saturating_sub(1);
                write!(f, "names pCPU {pcpu}; there are pCPUs 0 to {last}")
            }
            Self::Twice(pcpu) => write!(f, "names pCPU {pcpu} twice; give it one place"),
        }
    }
}

const WEDGE: &str = "wedge=N:PLACE,... with a PLACE of spin, lock, exit, vector, eret or mask";
const BREAK: &str =
    "break=WAY or break=WAY@N with a WAY of panic, lock, fault, stack, off or reset";
const PROBE: &str = "probe=N:COUNT with a COUNT from 1 on";

/// The fault that `word` injects into a machine with so many pCPUs; `None` if it is about something else.
pub fn fault(word: &[u8], pcpus: usize) -> Option<Result<Fault<'_>, NoFault>> {
    let (name, Some(value)) = split_at(word, b'=') else {
        return None;
    };
    match name {
        b"wedge" => Some(check_wedges(value, pcpus).map(|()| Fault::Wedge(value))),
        b"break" => Some(read_break(value, pcpus)),
        b"probe" => Some(read_probe(value, pcpus)),
        _ => None,
    }
}

impl Fault<'_> {
    /// Which pCPUs get stuck, and where.
    pub fn wedges(list: &[u8]) -> impl Iterator<Item = (u8, u8)> {
        items(list).filter_map(|item| {
            let (pcpu, place) = wedge(item)?;
            Some((u8::try_from(pcpu).ok()?, place))
        })
    }
}

fn items(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',')
}

fn wedge(item: &[u8]) -> Option<(u32, u8)> {
    let (pcpu, place) = split_at(item, b':');
    Some((number(pcpu)?, position(place?, &PLACES)?))
}

fn check_wedges(list: &[u8], pcpus: usize) -> Result<(), NoFault> {
    for (at, item) in items(list).enumerate() {
        let (named, _) = wedge(item).ok_or(NoFault::Form(WEDGE))?;
        pcpu(named, pcpus)?;
        let mut before = items(list).take(at).filter_map(wedge);
        if before.any(|(other, _)| other == named) {
            return Err(NoFault::Twice(named));
        }
    }
    Ok(())
}

fn read_break(value: &[u8], pcpus: usize) -> Result<Fault<'_>, NoFault> {
    let form = NoFault::Form(BREAK);
    let (way, on) = split_at(value, b'@');
    let on = on.map(|on| number(on).ok_or(form)).transpose()?;
    Ok(Fault::Break {
        way: position(way, &WAYS).ok_or(form)?,
        pcpu: on.map(|on| pcpu(on, pcpus)).transpose()?,
    })
}

fn read_probe(value: &[u8], pcpus: usize) -> Result<Fault<'_>, NoFault> {
    let form = NoFault::Form(PROBE);
    let (target, count) = split_at(value, b':');
    let count = count
        .and_then(number)
        .filter(|&count| count != 0)
        .ok_or(form)?;
    Ok(Fault::Probe {
        pcpu: pcpu(number(target).ok_or(form)?, pcpus)?,
        count,
    })
}

fn pcpu(named: u32, pcpus: usize) -> Result<u8, NoFault> {
    let found = u8::try_from(named).ok();
    let found = found.filter(|&pcpu| usize::from(pcpu) < pcpus);
    found.ok_or(NoFault::NoPcpu(named, pcpus))
}

fn position(word: &[u8], table: &[&str]) -> Option<u8> {
    let at = table.iter().position(|known| known.as_bytes() == word)?;
    u8::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::format;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn each_fault_is_read() {
        let read = |word: &'static str| fault(word.as_bytes(), 4).unwrap();
        let Ok(Fault::Wedge(list)) = read("wedge=1:spin,3:eret,2:mask") else {
            panic!("it is a list of wedges");
        };
        assert_eq!(
            Fault::wedges(list).collect::<Vec<_>>(),
            [(1, 0), (3, 4), (2, 5)]
        );
        let way = |way, pcpu| Ok(Fault::Break { way, pcpu });
        assert_eq!(read("break=panic"), way(0, None));
        assert_eq!(read("break=reset@3"), way(5, Some(3)));
        let probe = Fault::Probe { pcpu: 1, count: 20 };
        assert_eq!(read("probe=1:20"), Ok(probe));
        assert_eq!(fault(b"crash=halt", 4), None);
        assert_eq!(fault(b"wedge", 4), None);
    }

    #[test]
    fn what_is_malformed_is_told_its_form() {
        for word in [
            "wedge=",
            "wedge=1",
            "wedge=1:",
            "wedge=1:spn",
            "wedge=:spin",
            "wedge=1:spin,",
            "wedge=a:spin",
            "break=",
            "break=pank",
            "break=panic@",
            "break=panic@x",
            "break=panic@1@2",
            "probe=",
            "probe=1",
            "probe=1:0",
            "probe=1:x",
            "probe=1:2:3",
        ] {
            let error = fault(word.as_bytes(), 4).unwrap().unwrap_err();
            let NoFault::Form(form) = error else {
                panic!("{word}: {error}");
            };
            assert_eq!(
                form.split_once('=').unwrap().0,
                word.split_once('=').unwrap().0
            );
            assert!(error.to_string().contains(form), "{error}");
        }
    }

    #[test]
    fn a_pcpu_that_is_not_there_is_named() {
        for word in ["wedge=1:spin,99:spin", "break=panic@99", "probe=99:1"] {
            let error = fault(word.as_bytes(), 4).unwrap().unwrap_err();
            assert_eq!(error, NoFault::NoPcpu(99, 4), "{word}");
            assert_eq!(error.to_string(), "names pCPU 99; there are pCPUs 0 to 3");
        }
        assert_eq!(
            fault(b"break=panic@256", 300).unwrap(),
            Err(NoFault::NoPcpu(256, 300))
        );
        assert_eq!(
            fault(b"wedge=1:spin,1:exit", 4).unwrap(),
            Err(NoFault::Twice(1))
        );
    }

    #[test]
    fn every_place_and_way_is_in_the_form() {
        for place in PLACES {
            assert!(WEDGE.contains(place), "{place}");
            assert!(
                fault(format!("wedge=0:{place}").as_bytes(), 1)
                    .unwrap()
                    .is_ok()
            );
        }
        for way in WAYS {
            assert!(BREAK.contains(way), "{way}");
            assert!(
                fault(format!("break={way}@0").as_bytes(), 1)
                    .unwrap()
                    .is_ok()
            );
        }
    }
}
