//! A model of Xen, as one PVH domU sees it: decodes registers and memory exactly as Xen does, and nothing else.
//!
//! [`Model`] is a value; a test can make ten. By reference it is a [`Transport`], so the kernel's own marshalling
//! runs against it. It is deterministic: time is virtual, preemption comes from a seeded generator, and host
//! memory, limits and failures are the test's to command. What it answers is what the fact sheet says Xen 4.17
//! answers; [`crate::conformance`] holds both to it.
//!
//! | file | what it models |
//! |---|---|
//! | `state` | everything that Xen knows of the domain, and its construction |
//! | `access` | copying in and out through the caller's pointers, and faulting |
//! | `pages` | what frames hold |
//! | `host` | the host's free memory, in 2 MiB chunks |
//! | `p2m` | what is behind each guest frame number, and page-table pages |
//! | `reservation` | `memory_op` |
//! | `pod` | populate-on-demand |
//! | `event` | event channels and their bits |
//! | `time` | the clock, timers, waiting |
//! | `tmem` | transcendent memory, for which there are other domains, too |
//! | `call` | everything else, and the dispatch |
//! | `fault` | failures on demand |
//! | `validate` | every counter, derived again |
//! | `env` | the environment of the conformance cases |
//!
//! Not modelled: grant tables, the TSC and the clock pages, 1 GiB entries, the other side of rings.
#![expect(unsafe_code, reason = "a transport takes the caller's promise about addresses")]
#![expect(clippy::expect_used, reason = "a model that is built or used wrongly panics and says so")]

mod access;
mod call;
mod env;
mod event;
mod fault;
mod host;
mod p2m;
mod pages;
mod pod;
mod reservation;
mod state;
mod time;
mod tmem;
mod validate;

pub use env::ModelEnv;
pub use p2m::Slot;
pub use pages::{ALL_ONES, WORDS};
pub use state::{Config, Crash};
pub use tmem::{Hazard, Neighbour, Service};

use ebb::port::Clock;
use ebb::units::{EventPort, Frames, Gfn, VcpuId};
use ebb::xen::transport::Arguments;
use ebb::xen::{SharedPage, Transport, Xen};
use host::Mfn;
use state::State;
use std::ptr::NonNull;
use std::string::String;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;
use xen_abi::{Errno, hypercall};

/// The model hypervisor with its one domain.
pub struct Model {
    state: Mutex<State>,
    shared: SharedPage,
    ram: NonNull<u8>,
}

// SAFETY: the pointer is to memory that the state owns; whoever dereferences it says why that is sound.
unsafe impl Send for Model {}
// SAFETY: as above; everything else is behind the lock.
unsafe impl Sync for Model {}

impl Default for Model {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Model {
    /// A host and a freshly built domain.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let state = State::new(config);
        let (ram, private) = (state.pages.base(), state.pages.private());
        // SAFETY: an aligned page inside the memory of the state, which lives as long as the model; only atomics
        // touch it.
        let shared = unsafe { SharedPage::new(private) };
        Self { state: Mutex::new(state), shared, ram }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Typed hypercalls of vCPU 0.
    #[must_use]
    pub fn xen(&self) -> Xen<&Self> {
        Xen::new(self)
    }

    /// Another vCPU's way to make hypercalls.
    #[must_use]
    pub fn vcpu(&self, vcpu: VcpuId) -> Vcpu<'_> {
        Vcpu { model: self, vcpu: vcpu.get() }
    }

    /// Host address of guest RAM: frame `n` is at `n * 4096`. A hole reads as all ones there, too, but swallows
    /// no writes; and a populate-on-demand frame must be touched through [`read`](Self::read) first.
    #[must_use]
    pub fn ram(&self) -> NonNull<u8> {
        self.ram
    }

    /// Frames of RAM that the memory map shows.
    #[must_use]
    pub fn ram_frames(&self) -> Frames {
        Frames::new(self.state().ram_frames)
    }

    /// The shared info page.
    #[must_use]
    pub fn shared_info(&self) -> SharedPage {
        self.shared
    }

    /// Reads a word of guest memory as the guest would: a hole answers all ones.
    #[must_use]
    pub fn read(&self, frame: Gfn, index: usize) -> u64 {
        let mut state = self.state();
        state.touch(frame);
        match state.p2m.get(frame) {
            Slot::Hole | Slot::PopulateOnDemand | Slot::Device => ALL_ONES,
            Slot::SharedInfo => self.shared.u64(index * 8).load(Ordering::SeqCst),
            _ => state.pages.word(frame, index).load(Ordering::SeqCst),
        }
    }

    /// Writes a word of guest memory as the guest would: a hole swallows it.
    pub fn write(&self, frame: Gfn, index: usize, value: u64) {
        let mut state = self.state();
        state.touch(frame);
        match state.p2m.get(frame) {
            Slot::Hole | Slot::PopulateOnDemand | Slot::Device => {}
            Slot::SharedInfo => self.shared.u64(index * 8).store(value, Ordering::SeqCst),
            _ => state.pages.word(frame, index).store(value, Ordering::SeqCst),
        }
    }

    /// Fills a frame with zeroes, as the guest would.
    pub fn clear(&self, frame: Gfn) {
        let mut state = self.state();
        state.touch(frame);
        if state.p2m.get(frame).charged().is_some() {
            state.pages.fill(frame, 0);
        }
    }

    /// What is behind a frame number.
    #[must_use]
    pub fn slot(&self, frame: Gfn) -> Slot {
        self.state().p2m.get(frame)
    }

    /// Whether one 2 MiB entry maps the frame.
    #[must_use]
    pub fn is_large(&self, frame: Gfn) -> bool {
        self.state().p2m.is_large(frame)
    }

    /// `tot_pages`.
    #[must_use]
    pub fn charged(&self) -> Frames {
        Frames::new(self.state().charged)
    }

    /// Frames that are charged and can never be given back.
    #[must_use]
    pub fn leaked(&self) -> Frames {
        Frames::new(self.state().leaked.len() as u64)
    }

    /// Populate-on-demand: frames in the cache, and entries not populated yet.
    #[must_use]
    pub fn populate_on_demand(&self) -> (Frames, Frames) {
        let state = self.state();
        (Frames::new(state.pod.cache.len() as u64), Frames::new(state.pod.entries))
    }

    /// What `xl mem-set` does to the limit.
    pub fn set_target_mib(&self, target_mib: u64) {
        self.state().limit = state::limit_of(target_mib);
    }

    /// What `xl mem-max` does, to the frame.
    pub fn set_limit(&self, limit: Frames) {
        self.state().limit = limit.get();
    }

    /// The host's free frames, and how many whole 2 MiB chunks they make.
    #[must_use]
    pub fn host_free(&self) -> (Frames, u64) {
        let state = self.state();
        (Frames::new(state.host.free_frames()), state.host.free_chunks())
    }

    /// Other domains take host memory until only `left` frames are free.
    pub fn host_take_all_but(&self, left: Frames) {
        let mut state = self.state();
        while state.host.free_frames() > left.get() {
            let Some(mfn) = state.host.allocate(0) else { break };
            state.taken.push(mfn);
        }
    }

    /// Other domains take host memory, or give back what they took last, until `left` frames are free; as many as there
    /// are if they have not taken that much. Whole chunks first, unlike
    /// [`host_take_all_but`](Self::host_take_all_but): this is for hosts that several models share.
    pub fn host_leave(&self, left: Frames) {
        let mut state = self.state();
        loop {
            let excess = state.host.free_frames().saturating_sub(left.get());
            let order = if excess >= p2m::BLOCK && state.host.free_chunks() > 0 { 9 } else { 0 };
            if excess == 0 {
                break;
            }
            let Some(first) = state.host.allocate(order) else { break };
            state.taken.extend(first..first + (1 << order));
        }
        while state.host.free_frames() < left.get() {
            let Some(mfn) = state.taken.pop() else { break };
            state.host.free(mfn);
        }
    }

    /// Other domains take one frame of every free 2 MiB chunk, so that none is whole.
    pub fn host_fragment(&self) {
        let mut state = self.state();
        let mut spare = Vec::new();
        while let Some(first) = state.host.allocate(9) {
            spare.extend(first + 1..first + p2m::BLOCK as Mfn);
            state.taken.push(first);
        }
        spare.into_iter().for_each(|mfn| state.host.free(mfn));
    }

    /// Other domains give everything back.
    pub fn host_give_back(&self) {
        let mut state = self.state();
        for mfn in std::mem::take(&mut state.taken) {
            state.host.free(mfn);
        }
    }

    /// Somebody outside takes a reference to a frame of RAM: a release will unmap it but not free it.
    pub fn pin(&self, frame: Gfn) {
        let mut state = self.state();
        let Slot::Ram(mfn) = state.p2m.get(frame) else {
            unreachable!("model: only RAM is pinned, not {frame}")
        };
        state.p2m.set(frame, Slot::Pinned(mfn)).expect("model: no pool page to pin with");
    }

    /// A mapping of another domain's page appears in a hole.
    pub fn map_foreign(&self, frame: Gfn, slot: Slot) {
        let mut state = self.state();
        let allowed = matches!(slot, Slot::ForeignMapping | Slot::GrantMapping | Slot::Device);
        assert!(allowed && state.p2m.get(frame) == Slot::Hole, "model: a foreign page goes into a hole");
        state.p2m.set(frame, slot).expect("model: no pool page to map with");
    }

    /// Page-table pages that are left, if they are counted.
    #[must_use]
    pub fn paging_pool(&self) -> Option<u64> {
        self.state().p2m.pool_left()
    }

    /// The `nth` reservation call of `command` from now on (0 is the next) stops at `extent`; a release has by
    /// then removed `after_frames` frames of it.
    pub fn cut_short(&self, command: u32, nth: u64, extent: u64, after_frames: u64) {
        self.state().faults.cut_short(command, nth, extent, after_frames);
    }

    /// The next hypercall `number`, with this first argument if one is given, answers `error` and does nothing.
    pub fn refuse(&self, number: u32, command: Option<u64>, error: Errno) {
        self.state().faults.refuse(number, command, error);
    }

    /// dom0 signals its end of a port, binding it first if it waits for that.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is no port to dom0.
    pub fn signal(&self, port: EventPort) -> Result<(), Errno> {
        self.state().events.signal_from_outside(port.get())
    }

    /// The vCPU's interrupt flag.
    pub fn set_interrupts(&self, vcpu: VcpuId, enabled: bool) {
        self.state().interrupts[vcpu.get() as usize] = enabled;
    }

    /// Halts the vCPU with interrupts on: until an upcall is due (true), or until `deadline_ns` (false).
    #[must_use]
    pub fn halt(&self, vcpu: VcpuId, deadline_ns: u64) -> bool {
        let mut state = self.state();
        state.sleep(Some(deadline_ns), |state| state.events.upcall_pending(vcpu.get()));
        state.events.upcall_pending(vcpu.get())
    }

    /// Lets time pass.
    pub fn pass_ns(&self, ns: u64) {
        let mut state = self.state();
        let end = state.now_ns() + ns;
        state.pass_until(end);
    }

    /// Hypercalls made so far.
    #[must_use]
    pub fn hypercalls(&self) -> u64 {
        self.state().hypercalls
    }

    /// Open event-channel ports.
    #[must_use]
    pub fn open_ports(&self) -> usize {
        self.state().events.open_ports()
    }

    /// The reason of the first shutdown, if the domain has asked for one.
    #[must_use]
    pub fn shutdown_reason(&self) -> Option<u32> {
        self.state().shutdown
    }

    /// Why the domain was crashed, if it was. It makes no hypercalls after that.
    #[must_use]
    pub fn crash(&self) -> Option<Crash> {
        self.state().crash
    }

    /// The interrupt vector through which a vCPU gets its upcalls, if it has its own.
    #[must_use]
    pub fn upcall_vector(&self, vcpu: VcpuId) -> Option<u8> {
        self.state().upcall_vectors[vcpu.get() as usize]
    }

    /// Derives every counter again.
    ///
    /// # Errors
    ///
    /// What does not add up.
    pub fn validate(&self) -> Result<(), String> {
        self.state().validate()
    }
}

impl Clock for Model {
    fn now_ns(&self) -> u64 {
        self.state().now_ns()
    }
}

/// One vCPU of the model.
#[derive(Clone, Copy)]
pub struct Vcpu<'m> {
    model: &'m Model,
    vcpu: u32,
}

// SAFETY: decodes the argument as Xen's ABI says, and touches no other memory of the caller's than that names
// and the frames that the call is about.
unsafe impl Transport for Vcpu<'_> {
    unsafe fn call(&self, number: u32, arguments: Arguments) -> i64 {
        let mut state = self.model.state();
        if number == hypercall::TMEM_OP {
            // SAFETY: the caller's promise.
            if let Some(pool) = unsafe { state.tmem_peek(arguments[0]) } {
                // Others may come between the call and the lock, as they may in Xen.
                state.tmem_in_flight(pool, true);
                drop(state);
                std::thread::yield_now();
                state = self.model.state();
                state.tmem_in_flight(pool, false);
            }
        }
        assert!(state.crash.is_none(), "model: the domain has crashed ({:?}) and runs no more", state.crash);
        // SAFETY: the caller's promise.
        unsafe { state.hypercall(self.vcpu, number, arguments) }
    }
}

// SAFETY: as vCPU 0.
unsafe impl Transport for Model {
    unsafe fn call(&self, number: u32, arguments: Arguments) -> i64 {
        // SAFETY: the caller's promise.
        unsafe { Vcpu { model: self, vcpu: 0 }.call(number, arguments) }
    }
}
