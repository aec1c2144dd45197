//! The way to the hypervisor over the machine's console: what is typed to a guest, and what an operator asks
//! (`hv_abi::operator`). A request is repeated until it is answered.
//!
//! An only guest's bytes are typed as they are. Where there are several guests each piece is a request that says whose it is.

mod answers;
mod direct;
mod guests;
mod hashes;
mod ram;
mod rungs;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hv_abi::console::RS;
use hv_abi::operator::{END, LITERAL, MOST, MOST_TYPED, OPENING, Request, Span, Typed, Verb};

pub use answers::{Answers, Late, VcpuAnswer, VmAnswer};
pub use direct::{Direct, Source};
pub use guests::find;
pub use ram::Range;
pub use rungs::Rung;

use crate::console::Line;

/// After so long without all of its answers, a request is sent again.
const REPEAT: Duration = Duration::from_millis(500);
/// So long a request is repeated. An emulated machine on a busy host is slow, and a guest's flood delays answers.
const LIMIT: Duration = Duration::from_secs(10);
/// So long vCPUs may take to answer after their VM has; a pCPU that is stuck never does.
const VCPU_LIMIT: Duration = Duration::from_secs(3);
/// So many typed bytes the hypervisor has room for when nobody has typed before: half of all it holds.
const FIRST_CREDIT: usize = 512;

/// So long those who listen may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the guest writes, for one who listens.
pub struct Listener {
    said: Receiver<Vec<u8>>,
    operator: Operator,
}

impl Listener {
    /// The next piece; none once the machine has ended, or if too much waits.
    pub fn next(&self) -> Option<Vec<u8>> {
        self.said.recv().ok()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        lock(&self.operator.shared.pending).listening -= 1;
        self.operator.shared.changed.notify_all();
    }
}

/// The way to a machine's console, and to one of its guests, for several threads.
#[derive(Clone)]
pub struct Operator {
    shared: Arc<Shared>,
    /// The guest.
    vm: u8,
}

struct Shared {
    input: Mutex<Input>,
    /// What was asked, and what has come of it; one at a time.
    turn: Mutex<u32>,
    pending: Mutex<Pending>,
    changed: Condvar,
    /// Who else shows what a guest writes.
    listeners: Mutex<Vec<(u8, SyncSender<Vec<u8>>)>>,
    /// There is a hypervisor.
    is_heard: bool,
    /// A way to RAM that is shorter than the line, where there is one.
    direct: OnceLock<Direct>,
}

/// So many pieces of what the guest writes wait for one who shows them; who is slower is let go.
const WAITING: usize = 4096;

struct Input {
    line: Box<dyn Write + Send>,
    /// How many typed bytes the hypervisor has room for, as far as we know: of an only guest's, and of each of several.
    credit: usize,
    rooms: BTreeMap<u8, usize>,
}

#[derive(Default)]
struct Pending {
    answers: Option<Answers>,
    /// The hypervisor listens. What is sent before that is lost in part, and the rest would be typed to the guest.
    is_ready: bool,
    is_over: bool,
    /// How many guests there are, once the hypervisor has said so, and what they are called.
    guests: u64,
    names: BTreeMap<u8, String>,
    /// Where each guest has its RAM.
    ram: BTreeMap<u8, Vec<Range>>,
    /// Where its kernel's VMCOREINFO was when it was looked for last.
    vmcoreinfo: BTreeMap<u8, u64>,
    /// How many listen to guests.
    listening: usize,
    /// What NMIs have come to.
    nmis: rungs::Heard,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked meanwhile has left nothing half done that the next could not overwrite.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operator {
    /// Over `line`, the console's input. Without a hypervisor (`bare`) bytes go as they are.
    pub fn new(line: impl Write + Send + 'static, bare: bool) -> Self {
        let random = RandomState::new().build_hasher().finish() as u32;
        let shared = Arc::new(Shared {
            input: Mutex::new(Input {
                line: Box::new(line),
                credit: FIRST_CREDIT,
                rooms: BTreeMap::new(),
            }),
            turn: Mutex::new(random << 16),
            pending: Mutex::default(),
            changed: Condvar::new(),
            listeners: Mutex::default(),
            is_heard: !bare,
            direct: OnceLock::new(),
        });
        Self { shared, vm: 0 }
    }

    /// Types `bytes` to the guest, as fast as it reads once more has been typed than the hypervisor holds.
    pub fn type_bytes(&self, bytes: &[u8]) -> Result<()> {
        if !self.shared.is_heard {
            return self.write(bytes);
        }
        if self.are_several() {
            return self.type_by_request(bytes);
        }
        for part in bytes.chunks(64) {
            while !self.send_within_credit(part)? {
                if !lock(&self.shared.pending).is_ready {
                    if self.wait_for_room() {
                        return Ok(());
                    }
                    continue;
                }
                // What cannot say how much room there is takes what it can.
                let room = match self.ask(Verb::Room, 0) {
                    Ok(answers) => answers.vm.map_or(0, |vm| vm.room),
                    Err(_) => part.len(),
                };
                lock(&self.shared.input).credit = room;
                if room < part.len() && self.wait_for_room() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Types `part` if the hypervisor has room for it; other threads may have taken that room. Answers whether it was typed.
    fn send_within_credit(&self, part: &[u8]) -> Result<bool> {
        let mut input = lock(&self.shared.input);
        let Some(left) = input.credit.checked_sub(part.len()) else {
            return Ok(false);
        };
        input.credit = left;
        let escaped = |&byte| [Some(byte), (byte == RS).then_some(LITERAL)];
        let escaped: Vec<u8> = part.iter().flat_map(escaped).flatten().collect();
        send(&mut input.line, &escaped)?;
        Ok(true)
    }

    /// The same, and whatever happens on the line nobody else gets it.
    fn type_by_request(&self, bytes: &[u8]) -> Result<()> {
        while !lock(&self.shared.pending).is_ready {
            if self.wait_for_room() {
                return Ok(());
            }
        }
        for part in bytes.chunks(MOST_TYPED) {
            loop {
                let known = lock(&self.shared.input).rooms.get(&self.vm).copied();
                let room = match known {
                    Some(room) if room >= part.len() => break,
                    _ => self.ask(Verb::Room, 0)?.vm.map_or(0, |vm| vm.room),
                };
                lock(&self.shared.input).rooms.insert(self.vm, room);
                if room < part.len() && self.wait_for_room() {
                    return Ok(());
                }
            }
            let request = Request {
                typed: Typed::of(part),
                ..Request::new(0, Verb::Type, self.vm, 0)
            };
            let answers = self.exchange(request)?;
            let room = answers.vm.map_or(0, |vm| vm.room);
            lock(&self.shared.input).rooms.insert(self.vm, room);
        }
        Ok(())
    }

    /// Gives the guest time to read; whether the machine has ended.
    fn wait_for_room(&self) -> bool {
        let pending = lock(&self.shared.pending);
        let waited = self.shared.changed.wait_timeout(pending, REPEAT / 10);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_over
    }

    /// Asks, and waits for the answers. Those of vCPUs whose pCPU does not answer are missing.
    ///
    /// # Errors
    ///
    /// If nobody answers, it may not be done, or there is no such guest or vCPU.
    pub fn ask(&self, verb: Verb, vcpu: u8) -> Result<Answers> {
        self.exchange(Request::new(0, verb, self.vm, vcpu))
    }

    /// Raises an SDEI event that the guest's configuration defines: a private one on `vcpu`, a shared one wherever the guest has
    /// routed it.
    ///
    /// # Errors
    ///
    /// If nobody answers, it may not be done, or there is no such vCPU or event.
    pub fn raise(&self, event: u32, vcpu: u8) -> Result<Answers> {
        self.exchange(Request {
            event,
            ..Request::new(0, Verb::Raise, self.vm, vcpu)
        })
    }

    /// Reads guest RAM by guest physical address, whatever the guest does; it goes on meanwhile. Aligned doublewords are
    /// as they were at one moment, and longer parts are not.
    ///
    /// # Errors
    ///
    /// If nobody answers, it may not be done, or not all of it is RAM.
    pub fn read(&self, ipa: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let at = ipa.checked_add(bytes.len() as u64);
            let at = at.with_context(|| not_ram(u64::MAX))?;
            // The next one begins at a doubleword.
            let most = usize::from(MOST) - (at % 8) as usize;
            let span = Span {
                ipa: at,
                length: most.min(length - bytes.len()) as u16,
            };
            let answers = self.exchange(Request {
                span,
                ..Request::new(0, Verb::Memory, self.vm, 0)
            })?;
            match answers.memory.context("there is no answer")? {
                Ok(part) => bytes.extend(part),
                Err(outside) => bail!(not_ram(outside)),
            }
        }
        Ok(bytes)
    }

    fn exchange(&self, request: Request) -> Result<Answers> {
        ensure!(
            self.shared.is_heard,
            "there is no hypervisor to ask: the guest runs on the bare machine"
        );
        let mut turn = lock(&self.shared.turn);
        self.wait_until_ready()?;
        *turn = *turn & 0xffff_0000 | turn.wrapping_add(1) & 0xffff;
        let request = Request {
            id: *turn,
            ..request
        };
        lock(&self.shared.pending).answers = Some(Answers::to(request));
        let began = Instant::now();
        let mut vm_came = None;
        loop {
            ensure!(!lock(&self.shared.pending).is_over, "the machine has ended");
            let text = request.to_string();
            let bytes = [&OPENING[..], text.as_bytes(), &END[..]].concat();
            self.write(&bytes)?;
            let until = Instant::now() + REPEAT;
            let mut pending = lock(&self.shared.pending);
            loop {
                let answers = pending.answers.as_ref();
                let answers = answers.context("another request has taken this one's place")?;
                let left = until.saturating_duration_since(Instant::now());
                if answers.is_whole() || pending.is_over || left.is_zero() {
                    break;
                }
                let waited = self.shared.changed.wait_timeout(pending, left);
                pending = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            let Some(answers) = &pending.answers else {
                bail!("another request has taken this one's place");
            };
            if answers.vm.is_some() {
                vm_came.get_or_insert_with(Instant::now);
            }
            let is_late = vm_came.is_some_and(|came: Instant| came.elapsed() > VCPU_LIMIT);
            if answers.is_whole() || is_late {
                return pending
                    .answers
                    .take()
                    .context("there are no answers")?
                    .judged();
            }
            if began.elapsed() > LIMIT && vm_came.is_none() {
                bail!(
                    "the hypervisor does not answer; it may not have started yet, or have crashed, or its `operator=` is off"
                );
            }
        }
    }

    fn wait_until_ready(&self) -> Result<()> {
        let is_waiting = |pending: &mut Pending| !pending.is_ready && !pending.is_over;
        let pending = lock(&self.shared.pending);
        let waited = self
            .shared
            .changed
            .wait_timeout_while(pending, LIMIT, is_waiting);
        let pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        ensure!(!pending.is_over, "the machine has ended");
        ensure!(
            pending.is_ready,
            "the hypervisor has not started yet; ask again when it has"
        );
        Ok(())
    }

    /// The hypervisor may have said long ago that it is ready: it is asked, and answers if it is there.
    pub fn suppose_ready(&self) {
        lock(&self.shared.pending).is_ready = true;
    }

    /// Where the guest has its RAM; nothing until the hypervisor has said so.
    pub fn ram(&self) -> Vec<Range> {
        let pending = lock(&self.shared.pending);
        pending.ram.get(&self.vm).cloned().unwrap_or_default()
    }

    /// The same, for what cannot be done without.
    ///
    /// # Errors
    ///
    /// The hypervisor has not said it.
    pub fn known_ram(&self) -> Result<Vec<Range>> {
        let ram = self.ram();
        ensure!(
            !ram.is_empty(),
            "the hypervisor has not said where the guest's memory is"
        );
        Ok(ram)
    }

    /// Where its kernel's VMCOREINFO was when it was looked for last.
    pub fn vmcoreinfo_place(&self) -> Option<u64> {
        lock(&self.shared.pending).vmcoreinfo.get(&self.vm).copied()
    }

    /// Notes where it is.
    pub fn note_vmcoreinfo_place(&self, place: u64) {
        lock(&self.shared.pending).vmcoreinfo.insert(self.vm, place);
    }

    /// Takes notice of what the hypervisor has said.
    pub fn hear(&self, line: &Line) {
        let mut pending = lock(&self.shared.pending);
        if let Some(count) = line.text.strip_prefix("@ready vms=") {
            pending.is_ready = true;
            pending.guests = count.parse().unwrap_or(1);
            self.shared.changed.notify_all();
        }
        if let Some((vm, name, ram)) = ram::guest(&line.text) {
            pending.names.insert(vm, name.to_owned());
            pending.ram.insert(vm, ram);
        }
        if pending.nmis.hear(line) {
            self.shared.changed.notify_all();
        }
        if let Some(answers) = &mut pending.answers
            && answers.hear(line)
        {
            self.shared.changed.notify_all();
        }
    }

    /// All that the guest writes from now on, until the machine ends.
    pub fn listen(&self) -> Listener {
        let (sender, said) = sync_channel(WAITING);
        lock(&self.shared.pending).listening += 1;
        lock(&self.shared.listeners).push((self.vm, sender));
        Listener {
            said,
            operator: self.clone(),
        }
    }

    /// Takes notice of what guest `vm` has written.
    pub fn hear_guest(&self, vm: u8, bytes: &[u8]) {
        let mut listeners = lock(&self.shared.listeners);
        let keeps_up = |listener: &SyncSender<Vec<u8>>| listener.try_send(bytes.to_vec()).is_ok();
        listeners.retain(|(whose, listener)| *whose != vm || keeps_up(listener));
    }

    /// Whether the machine has ended.
    pub fn is_over(&self) -> bool {
        lock(&self.shared.pending).is_over
    }

    /// The machine has ended: nobody waits any more. Who listens may take a moment to show the last of it.
    pub fn end(&self) {
        lock(&self.shared.listeners).clear();
        let mut pending = lock(&self.shared.pending);
        pending.is_over = true;
        self.shared.changed.notify_all();
        let is_heard = |pending: &mut Pending| pending.listening > 0;
        let changed = &self.shared.changed;
        // One that takes nothing any more keeps nobody.
        let _ = changed.wait_timeout_while(pending, LAST_WORDS, is_heard);
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        send(&mut lock(&self.shared.input).line, bytes)
    }
}

fn not_ram(ipa: u64) -> String {
    format!("the guest has no RAM at {ipa:#x}; only its RAM is read, by guest physical address")
}

fn send(line: &mut Box<dyn Write + Send>, bytes: &[u8]) -> Result<()> {
    line.write_all(bytes)
        .and_then(|()| line.flush())
        .context("the machine's console takes nothing any more")
}

#[cfg(test)]
mod tests;
