//! What the composition in this module needs from outside: the pCPU, and the way to the VM's lock and the siblings.
//! The shell implements both on the machine, the tests in memory.

use core::ops::DerefMut;

use hv_abi::operator::hashes::Word;
use hv_abi::policy::After;

use super::{Answer, End, Ending, GuestMap, Kernel, Pcpu, Shared, TracedCall, VcpuLoop};
use crate::evidence::{Access, Decision, Place};
use crate::flash::Array;
use crate::id::{IntId, VcpuId, VmId};
use crate::mailbox::Requests;
use crate::operator::Came;
use crate::pl011::Image;
use crate::psci::Endian;
use crate::regs::GuestRegs;
use crate::time::Instant;
use crate::trng;
use crate::vgic::{Effects, ListReg, Parts};
use crate::virtio::{self, Mediator};
use crate::walk::Regime;

/// Why a vCPU came out of its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestExit {
    /// A synchronous exception ([`Hardware::syndrome`]).
    Synchronous,
    /// An IRQ or FIQ: a physical interrupt waits.
    Interrupt,
    /// A physical SError.
    SError,
}

/// What the hardware says of a synchronous exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Syndrome {
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
}

/// What is called at a synchronous exit, with the pc: whether the guest goes on.
pub type Synchronous<V, C> = extern "C" fn(&mut VcpuLoop<V, C>, u64) -> bool;

/// A physical interrupt that was acknowledged and whose priority has been dropped. But for the guest's own it is still to be
/// deactivated ([`Hardware::deactivate`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// There was none, or it needed nothing but to be taken: the doorbell.
    None,
    /// The maintenance interrupt of the virtual CPU interface (IHI0069 12.4).
    Maintenance(u32),
    /// The machine's console has received something.
    Console(u32),
    /// The time given to [`Hardware::set_alarm`] has come.
    Alarm(u32),
    /// Somebody stops the machine, or wants to know whether this pCPU answers ([`Hardware::answer_stop`]). It is not to be
    /// deactivated.
    Stop,
    /// That of a mediated device of the guest's.
    Device(IntId),
    /// Any other: the guest's. It stays active until the guest deactivates it.
    Guest(IntId),
}

/// The pCPU that a vCPU runs on. What the VM's flash keeps is reached with the VM's lock held.
pub trait Hardware: Pcpu + Array + virtio::queue::Memory {
    /// How many list registers there are; at most [`crate::vgic::MAX_LIST_REGS`].
    fn list_regs(&self) -> usize;
    /// List register `index`.
    fn list_register(&self, index: usize) -> ListReg;
    /// A list register's value as the hardware spells it.
    fn list_register_word(&self, value: ListReg) -> u64;
    /// Sets list register `index` to a word.
    fn set_list_register(&mut self, index: usize, word: u64);
    /// A bit for each empty list register (ICH_ELRSR_EL2, GICH_ELSR).
    fn empty_list_registers(&self) -> u64;
    /// A bit for each list register whose interrupt the guest has ended and that has a maintenance interrupt for that
    /// (ICH_EISR_EL2, GICH_EISR).
    fn ended_list_registers(&self) -> u64;
    /// How many interrupts the guest has deactivated that were in no list register, since ICH_HCR_EL2 was last set.
    fn deactivations(&self) -> u32;
    /// Sets ICH_HCR_EL2 or GICH_HCR. What the hardware has not got is left out.
    fn set_ich_hcr(&mut self, value: u64);
    /// The virtual CPU interface as out of reset: everything disabled, nothing active.
    fn reset_virtual_interface(&mut self);
    /// Performs what the virtual GIC decided about physical interrupts. The part of the virtual GIC is locked that it concerns,
    /// or the VM's lock is held.
    fn perform(&mut self, effects: &Effects);
    /// Which of the 32 physical interrupts from INTID `32 * block` on are pending (GICD_ISPENDR, GICR_ISPENDR0), a bit each;
    /// private ones are those of `owner`'s pCPU. A level-sensitive one is pending while its line is up; `None` where
    /// this interrupt controller does not say so.
    fn lines(&self, owner: VcpuId, block: u32) -> Option<u32>;

    /// Acknowledges a physical interrupt and drops its priority.
    fn acknowledge(&mut self) -> Interrupt;
    /// Lets one of the hypervisor's own interrupts come again.
    fn deactivate(&mut self, intid: u32);
    /// Has [`Interrupt::Alarm`] come at `at`; also when the pCPU itself has something to look after.
    fn set_alarm(&mut self, at: Option<Instant>);
    /// The alarm has gone off: what the pCPU itself has to look after.
    fn look_after(&mut self);

    /// The caller ends the VM and waits for siblings that are still in the guest. Called again and again. False if one never
    /// comes: the VM is then given up. The machine is stopped from in here instead if there is no other VM.
    #[must_use]
    fn wait_for_siblings(&mut self, end: End) -> bool;

    /// Answers [`Interrupt::Stop`]. Does not return if the machine stops.
    fn answer_stop(&mut self);

    /// Whether the calls of its guest are told of ([`Hardware::tell_of_call`]).
    fn traces_calls(&self) -> bool;
    /// Calls [`VcpuLoop::settle_traced`] if calls `are_traced`, else [`VcpuLoop::settle_synchronous`].
    fn synchronous<V: Vm>(are_traced: bool) -> Synchronous<V, Self>
    where
        Self: Sized;
    /// The guest has made a call, whose calls are traced.
    fn tell_of_call(&self, call: &TracedCall);
    /// Runs the guest of a vCPU, whose pCPU this is, until an exit is not settled on the short way
    /// ([`VcpuLoop::settle_synchronous`], which is behind `synchronous`, and its neighbours); its registers are then what the
    /// guest stopped with.
    fn enter<V: Vm>(vcpu: &mut VcpuLoop<V, Self>, synchronous: Synchronous<V, Self>)
    where
        Self: Sized;
    /// Of the last synchronous exit.
    fn syndrome(&self) -> Syndrome;
    /// The vCPU is on from now on, its registers at `regs` whenever the hypervisor runs; or off.
    fn show_guest(&mut self, regs: Option<&GuestRegs>);
    /// Sleeps until an interrupt is pending.
    fn wait_for_interrupt(&mut self);
    /// The guest takes a physical SError as a virtual one, as soon as PSTATE.A allows.
    fn pass_serror_on(&mut self);
    /// EL1 and EL0 as out of reset, the guest's translations forgotten.
    fn reset_el1(&mut self);
    /// The same but for the timers, which run on while a core has no power.
    fn reset_core(&mut self);
    /// Has the guest's virtual timer not interrupt (CNTV_CTL_EL0.IMASK); what its control register was.
    fn mask_virtual_timer(&mut self) -> u64;
    /// The guest's virtual counter is so far behind the system counter from its next entry on (CNTVOFF_EL2); if its timer was masked,
    /// its control register is this again.
    fn set_clock(&mut self, offset: u64, timer: Option<u64>);
    /// The byte order of EL1's data.
    fn endian(&self) -> Endian;
    /// Sets it, of a core that was just reset.
    fn set_endian(&mut self, endian: Endian);

    /// The registers that say how EL1 translates.
    fn regime(&self) -> Regime;
    /// The instruction at `pc` as EL1 would read it; none if EL1 could not, or it is not memory of the guest's.
    fn instruction(&self, pc: u64) -> Option<u32>;
    /// Sets SP_EL1 or SP_EL0.
    fn set_stack_pointer(&mut self, is_el1: bool, value: u64);

    /// Stage 2 has refused an access of this vCPU to `place`, by the instruction at `pc`, as it does not allow what it maps: whoever is to know is
    /// told, and a page that is written for the first time is writable from now on.
    fn resolve_guarded_access(
        &mut self,
        _me: VcpuId,
        _pc: u64,
        _access: Access,
        _place: Place,
    ) -> Decision {
        Decision::Refused
    }

    /// Answers a TRNG call.
    fn answer_trng(&mut self, call: trng::Call, regs: &mut GuestRegs);
    /// Writes a byte to the machine's console.
    fn transmit(&mut self, byte: u8);
    /// Takes in a byte that the machine's console has received, if it has.
    fn receive(&mut self) -> Option<Came>;
    /// Tells the operator.
    fn answer(&mut self, answer: Answer<'_>);
    /// The guest takes a virtual SError that says that the operator wanted it, as soon as PSTATE.A allows.
    fn send_nmi(&mut self);
    /// Whether that waits still.
    fn is_serror_pending(&self) -> bool;
    /// Writes the page that stands in for the emulated UART's registers: a load of the guest's that begins after this
    /// returns finds these values. The VM's lock is held.
    fn write_uart_page(&mut self, image: &Image);
    /// Lets the guest read that page, or not. If not, no load of any vCPU is answered by it after this returns. The VM's
    /// lock is held.
    fn show_uart_page(&mut self, on: bool);
}

/// The VM that a vCPU belongs to, as the vCPU's own pCPU reaches it. Lock order: the VM's, then those of its virtual GIC
/// ([`Parts`]).
pub trait Vm: Parts + Sized {
    /// The lock on what the vCPUs share, while it is held.
    type Guard<'a>: DerefMut<Target = Shared>
    where
        Self: 'a;

    /// The lock on a mediated device, while it is held.
    type Mediator<'a>: DerefMut<Target = Mediator>
    where
        Self: 'a;

    /// Waits for the lock, from which nobody is kept for long.
    fn lock(&self) -> Self::Guard<'_>;
    /// Waits for a mediated device of the map, by its number there. It comes behind [`Self::lock`], and before the parts of the
    /// virtual GIC.
    fn mediator(&self, number: usize) -> Option<Self::Mediator<'_>>;
    /// Its number.
    fn id(&self) -> VmId;
    /// The VM of this number, of any on this machine, if there is one: to be looked at and asked. It has no mailbox that is the
    /// caller's own.
    fn peer(&self, id: VmId) -> Option<Self>;
    /// What the VM looks like to its guest.
    fn map(&self) -> &GuestMap;
    /// Posts requests to a vCPU and rings its pCPU. What does not exist is not asked.
    fn ask(&self, vcpu: VcpuId, requests: Requests);
    /// GICv2: CPU interface `from` sends SGI `intid` to a vCPU, to which it is posted next.
    fn post_sender(&self, vcpu: VcpuId, intid: u32, from: VcpuId);
    /// GICv2: takes the senders of SGI `4 * group` and the three after it, a byte each ([`crate::mailbox::Senders`]).
    fn take_senders(&self, me: VcpuId, group: usize) -> u32;
    /// Posts requests to the caller's own mailbox.
    fn remind(&self, requests: Requests);
    /// Whether there is something in the caller's own mailbox, without ordering: a doorbell follows every post.
    fn is_asked(&self) -> bool;
    /// Takes all requests out of a mailbox.
    fn take(&self, me: VcpuId) -> Requests;

    /// Leaves a vCPU a word ([`crate::operator::Question::word`]), instead of the one before.
    fn post_question(&self, vcpu: VcpuId, word: u64);
    /// Takes that word; 0 if there is none.
    fn take_question(&self, me: VcpuId) -> u64;

    /// Reads the guest's RAM at `ipa`, all of which is RAM, as it is at the moment.
    fn read_ram(&self, ipa: u64, to: &mut [u8]);
    /// What stands for the page of the guest's RAM at `ipa`, all of which is RAM, as it is at the moment.
    fn hash_page(&self, ipa: u64) -> Word;

    /// A vCPU ends the VM: says so.
    fn announce(&self, ending: Ending);
    /// Says what is remembered of a vCPU that has left its guest for good.
    fn report(&self, vcpu: &super::Vcpu);
    /// The VM is given up: a vCPU does not leave it.
    fn give_up(&self);
    /// All has been said of a VM that ended.
    fn conclude(&self);
    /// The VM is off. Returns if other guests run on and it is not to be the machine's end.
    fn finish(&self, after: After);
    /// Writes a kernel into the VM's memory as it is at its start, and resets passed-through devices. Nobody runs in it. What the guest has is
    /// read-only to its capture kernel, and the memory of that is none of the guest's.
    fn write_memory(&self, kernel: Kernel) -> super::Load;
    /// A vCPU that is on has left its guest for good: its registers are kept, as far as there may be a dump. This pCPU is its own, and has what
    /// the guest left in it.
    fn keep_registers(&self, vcpu: VcpuId, regs: &GuestRegs);
}
