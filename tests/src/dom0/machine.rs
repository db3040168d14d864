//! One guest's ports and clock, over nothing but the two daemons.

use super::{Xenconsoled, Xenstored};
use core::cell::{Cell, RefCell};
use ebb::port::{ChannelStatus, Clock, EventOps, Wait};
use ebb::units::{DomId, EventPort, VcpuId};
use ebb::xen::SharedPage;
use std::boxed::Box;
use std::collections::BTreeSet;
use xen_abi::Errno;

/// The guest.
pub const GUEST: DomId = DomId::new(7);
/// Its port to the store.
pub const STORE_PORT: EventPort = EventPort::new(1);
/// Its port to the console.
pub const CONSOLE_PORT: EventPort = EventPort::new(2);

/// How long a daemon takes for one step.
const STEP_NS: u64 = 1_000_000;

/// What happens before a step: a script of a test.
type Hook = Box<dyn FnMut(&mut Xenstored, u32)>;

/// A guest's surroundings. The daemons run, a step at a time, when the guest waits.
pub struct Machine {
    /// The store daemon.
    pub store: RefCell<Xenstored>,
    /// The console daemon.
    pub console: RefCell<Xenconsoled>,
    /// The ring page of the store.
    pub store_page: SharedPage,
    /// The ring page of the console.
    pub console_page: SharedPage,
    now_ns: Cell<u64>,
    pending: RefCell<BTreeSet<EventPort>>,
    sent: Cell<u32>,
    refusal: Cell<Option<Errno>>,
    steps: Cell<u32>,
    hook: RefCell<Option<Hook>>,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A guest whose daemons are attached.
    #[must_use]
    pub fn new() -> Self {
        let (store_page, console_page) = (SharedPage::leaked(), SharedPage::leaked());
        let mut store = Xenstored::new();
        store.introduce(GUEST, store_page);
        Self {
            store: RefCell::new(store),
            console: RefCell::new(Xenconsoled::new(console_page)),
            store_page,
            console_page,
            now_ns: Cell::new(0),
            pending: RefCell::default(),
            sent: Cell::new(0),
            refusal: Cell::new(None),
            steps: Cell::new(0),
            hook: RefCell::new(None),
        }
    }

    /// Runs `hook` before each of the store's steps, with the number of the step.
    pub fn before_steps(&self, hook: impl FnMut(&mut Xenstored, u32) + 'static) {
        *self.hook.borrow_mut() = Some(Box::new(hook));
    }

    /// How many events the guest has sent.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent.get()
    }

    /// Has the guest's sends fail from now on, or work again.
    pub fn refuse_sends(&self, refusal: Option<Errno>) {
        self.refusal.set(refusal);
    }

    /// One step of both daemons, and of time.
    pub fn step(&self) {
        self.now_ns.set(self.now_ns.get() + STEP_NS);
        self.steps.set(self.steps.get() + 1);
        let mut store = self.store.borrow_mut();
        if let Some(hook) = self.hook.borrow_mut().as_mut() {
            hook(&mut store, self.steps.get());
        }
        if store.step(GUEST) {
            self.pending.borrow_mut().insert(STORE_PORT);
        }
        if self.console.borrow_mut().step() {
            self.pending.borrow_mut().insert(CONSOLE_PORT);
        }
    }

    /// Steps until nothing more comes of it.
    pub fn settle(&self, steps: u32) {
        (0..steps).for_each(|_| self.step());
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}

impl Wait for Machine {
    fn wait(&self, port: EventPort, deadline_ns: u64) {
        while !self.pending.borrow_mut().remove(&port) && self.now_ns() < deadline_ns {
            self.step();
        }
    }
}

impl EventOps for Machine {
    fn alloc_unbound(&self, _: DomId) -> Result<EventPort, Errno> {
        Err(Errno::ENOSPC)
    }
    fn bind_interdomain(&self, _: DomId, _: EventPort) -> Result<EventPort, Errno> {
        Err(Errno::ENOSPC)
    }
    fn bind_virq(&self, _: u32, _: VcpuId) -> Result<EventPort, Errno> {
        Err(Errno::ENOSPC)
    }
    fn bind_ipi(&self, _: VcpuId) -> Result<EventPort, Errno> {
        Err(Errno::ENOSPC)
    }
    fn close(&self, _: EventPort) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    fn send(&self, port: EventPort) -> Result<(), Errno> {
        assert!(port == STORE_PORT || port == CONSOLE_PORT, "an event on a port that is nobody's");
        self.sent.set(self.sent.get() + 1);
        if let Some(refusal) = self.refusal.get() {
            return Err(refusal);
        }
        if port == STORE_PORT {
            self.store.borrow_mut().signal(GUEST);
        } else {
            self.console.borrow_mut().signal();
        }
        Ok(())
    }
    fn status(&self, _: EventPort) -> Result<ChannelStatus, Errno> {
        Ok(ChannelStatus::Closed)
    }
    fn unmask(&self, _: EventPort) -> Result<(), Errno> {
        Ok(())
    }
}
