//! Waiting for a port: asleep in an interrupt-driven kernel, or polling before there are interrupts.
//!
//! [`HaltWait`] is for one vCPU that has nothing else to do; a scheduler parks a thread instead, by the same
//! rules. [`PollWait`] needs no interrupt table and so serves early boot, and a panic.

use super::events::{Channels, PortSet};
use crate::port::{Armed, Clock, SchedOps, VcpuOps, Wait};
use crate::units::{EventPort, VcpuId};

/// Puts the calling vCPU to sleep.
pub trait Halt {
    /// With interrupts off, asks `ready`; if the answer is no, sleeps until an interrupt. Turning interrupts on
    /// and sleeping is one step, so that an interrupt after `ready` was asked ends the sleep. Interrupts are on
    /// when this returns.
    fn halt_unless(&self, ready: impl FnOnce() -> bool);
}

/// Sleeps until the interrupt handler has put the port into a set, or the vCPU's timer fires.
///
/// The handler puts every port that [`Channels::scan`] hands it into `fired`, the timer's too.
#[derive(Clone, Copy, Debug)]
pub struct HaltWait<'f, C, V, H> {
    /// System time.
    pub clock: C,
    /// The one-shot timer.
    pub timers: V,
    /// How this vCPU sleeps.
    pub halt: H,
    /// The calling vCPU.
    pub vcpu: VcpuId,
    /// The port to which the timer's virtual interrupt of this vCPU is bound, unmasked.
    pub timer_port: EventPort,
    /// Ports that fired since they were taken.
    pub fired: &'f PortSet,
}

impl<C: Clock, V, H> Clock for HaltWait<'_, C, V, H> {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }
}

impl<C: Clock, V: VcpuOps, H: Halt> Wait for HaltWait<'_, C, V, H> {
    /// Arms the timer anew at every round: it may fire a little early, and other waits share it.
    ///
    /// A timer that cannot be armed makes this return at once, so that callers fall back to watching the clock.
    fn wait(&self, port: EventPort, deadline_ns: u64) {
        let bounded = deadline_ns != u64::MAX;
        loop {
            if self.fired.take(port) || self.clock.now_ns() >= deadline_ns {
                return;
            }
            self.fired.take(self.timer_port);
            if bounded && self.timers.set_timer(self.vcpu, deadline_ns) != Ok(Armed::Pending) {
                self.fired.take(port);
                return;
            }
            // The timer may fire before the sleep. Its handler has run then, and only its bit shows it.
            self.halt.halt_unless(|| {
                self.fired.contains(port) || (bounded && self.fired.contains(self.timer_port))
            });
        }
    }
}

/// Lets Xen watch the port: for a port that stays masked.
#[derive(Clone, Copy, Debug)]
pub struct PollWait<C, S> {
    /// System time.
    pub clock: C,
    /// The poll call.
    pub scheduling: S,
    /// Where the pending bits are.
    pub channels: Channels,
}

impl<C: Clock, S> Clock for PollWait<C, S> {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }
}

impl<C: Clock, S: SchedOps> Wait for PollWait<C, S> {
    /// Also correct with interrupts off.
    fn wait(&self, port: EventPort, deadline_ns: u64) {
        if self.channels.take_pending(port) {
            return;
        }
        // A refusal is a spurious return. The caller looks again, and at the clock.
        let _ = self.scheduling.poll(&[port], (deadline_ns != u64::MAX).then_some(deadline_ns));
        self.channels.take_pending(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::ShutdownReason;
    use crate::xen::SharedPage;
    use core::cell::{Cell, RefCell};
    use core::sync::atomic::Ordering;
    use std::vec::Vec;
    use xen_abi::Errno;

    const PORT: EventPort = EventPort::new(5);
    const TIMER: EventPort = EventPort::new(6);

    /// A processor, its timer and its clock; a script says what happens at each sleep.
    struct Machine {
        now_ns: Cell<u64>,
        armed: Cell<Option<u64>>,
        answer: Cell<Result<Armed, Errno>>,
        fired: PortSet,
        /// Fires while the timer is being armed, that is, before the sleep.
        at_arming: Cell<Option<EventPort>>,
        sleeps: RefCell<Vec<&'static str>>,
        script: RefCell<Vec<fn(&Machine)>>,
    }

    impl Machine {
        fn new(script: Vec<fn(&Machine)>) -> Self {
            Self {
                now_ns: Cell::new(100),
                armed: Cell::new(None),
                answer: Cell::new(Ok(Armed::Pending)),
                fired: PortSet::new(),
                at_arming: Cell::new(None),
                sleeps: RefCell::default(),
                script: RefCell::new(script),
            }
        }

        fn wait(&self, deadline_ns: u64) {
            let (vcpu, timer_port) = (VcpuId::new(0), TIMER);
            HaltWait { clock: self, timers: self, halt: self, vcpu, timer_port, fired: &self.fired }
                .wait(PORT, deadline_ns);
        }

        /// The timer's event, at its time.
        fn expire(&self) {
            self.now_ns.set(self.armed.take().unwrap());
            self.fired.insert(TIMER);
        }
    }

    impl Clock for Machine {
        fn now_ns(&self) -> u64 {
            self.now_ns.get()
        }
    }

    impl VcpuOps for &Machine {
        fn is_up(&self, _: VcpuId) -> Result<bool, Errno> {
            Ok(true)
        }
        fn set_timer(&self, _: VcpuId, deadline_ns: u64) -> Result<Armed, Errno> {
            self.armed.set(Some(deadline_ns));
            if let Some(port) = self.at_arming.take() {
                self.fired.insert(port);
            }
            self.answer.get()
        }
        fn stop_timer(&self, _: VcpuId) -> Result<(), Errno> {
            self.armed.set(None);
            Ok(())
        }
    }

    impl Halt for &Machine {
        fn halt_unless(&self, ready: impl FnOnce() -> bool) {
            if ready() {
                self.sleeps.borrow_mut().push("ready");
                return;
            }
            self.sleeps.borrow_mut().push("slept");
            let mut script = self.script.borrow_mut();
            assert!(!script.is_empty(), "asleep for ever");
            script.remove(0)(self);
        }
    }

    #[test]
    fn an_event_before_the_wait_ends_it_at_once() {
        let machine = Machine::new(Vec::new());
        machine.fired.insert(PORT);
        machine.wait(1_000);
        assert!(machine.sleeps.borrow().is_empty());
        assert!(!machine.fired.contains(PORT), "taken");
    }

    #[test]
    fn other_interrupts_do_not_end_the_wait() {
        let machine =
            Machine::new(std::vec![|m| m.fired.insert(EventPort::new(9)), |m| m.fired.insert(PORT),]);
        machine.wait(1_000);
        assert_eq!(machine.sleeps.borrow().len(), 2);
        assert!(!machine.fired.contains(PORT));
    }

    #[test]
    fn the_deadline_ends_the_wait() {
        let machine = Machine::new(std::vec![Machine::expire]);
        machine.wait(1_000);
        assert_eq!(machine.now_ns(), 1_000);
    }

    #[test]
    fn a_timer_that_fires_early_is_armed_again() {
        let machine = Machine::new(std::vec![
            |m| {
                m.now_ns.set(999);
                m.fired.insert(TIMER);
            },
            Machine::expire,
        ]);
        machine.wait(1_000);
        assert_eq!(machine.now_ns(), 1_000);
    }

    #[test]
    fn an_event_between_the_check_and_the_sleep_is_seen() {
        let machine = Machine::new(Vec::new());
        machine.at_arming.set(Some(PORT));
        machine.wait(1_000);
        assert_eq!(*machine.sleeps.borrow(), ["ready"]);
    }

    #[test]
    fn a_timer_that_fires_before_the_sleep_is_seen() {
        let machine = Machine::new(std::vec![Machine::expire]);
        machine.at_arming.set(Some(TIMER));
        machine.wait(1_000);
        assert_eq!(*machine.sleeps.borrow(), ["ready", "slept"], "no sleep without a timer");
    }

    #[test]
    fn an_expired_deadline_does_not_sleep() {
        let machine = Machine::new(Vec::new());
        machine.wait(100);
        machine.answer.set(Ok(Armed::Expired));
        machine.wait(101);
        machine.answer.set(Err(Errno::EINVAL));
        machine.wait(101);
        assert!(machine.sleeps.borrow().is_empty());
    }

    #[test]
    fn without_a_deadline_no_timer_is_armed() {
        let machine = Machine::new(std::vec![|m| m.fired.insert(PORT)]);
        machine.fired.insert(TIMER);
        machine.wait(u64::MAX);
        assert_eq!(machine.armed.get(), None);
    }

    impl SchedOps for &Machine {
        fn yield_now(&self) {}
        fn poll(&self, ports: &[EventPort], deadline_ns: Option<u64>) -> Result<(), Errno> {
            assert_eq!(ports, [PORT]);
            self.armed.set(deadline_ns);
            let mut script = self.script.borrow_mut();
            assert!(!script.is_empty(), "polls for ever");
            script.remove(0)(self);
            Ok(())
        }
        fn shutdown(&self, _: ShutdownReason) -> Result<(), Errno> {
            Ok(())
        }
    }

    #[test]
    fn polling_takes_the_event() {
        let page = SharedPage::leaked();
        let channels = Channels::new(page);
        let machine = Machine::new(std::vec![|_| ()]);
        let wait = PollWait { clock: &machine, scheduling: &machine, channels };
        page.u64(0x800).store(1 << 5, Ordering::SeqCst);
        wait.wait(PORT, 1_000);
        assert_eq!(machine.script.borrow().len(), 1, "there already: no hypercall");
        assert!(!channels.take_pending(PORT));
        wait.wait(PORT, 1_000);
        assert_eq!(machine.armed.get(), Some(1_000));
        machine.script.borrow_mut().push(|_| ());
        wait.wait(PORT, u64::MAX);
        assert_eq!(machine.armed.get(), None);
    }
}
