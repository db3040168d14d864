//! The virtual clock, the one-shot timers, and waiting in `SCHEDOP_poll`.
//!
//! Time passes only here: a little with each hypercall and each look at the clock, and in leaps while the guest
//! waits.
#![expect(unsafe_code, reason = "passes on the caller's promise about the addresses in the registers")]

use super::state::State;
use std::vec::Vec;
use xen_abi::{Errno, event, sched};

/// What a hypercall takes.
const HYPERCALL_NS: u64 = 1_000;
/// What a look at the clock takes.
const LOOK_NS: u64 = 100;
/// When `set_timer_op` believes that an absurd time means "soon".
const ABSURD_NS: u64 = 1 << 60;

/// The clock and one timer per vCPU.
pub(super) struct Time {
    now_ns: u64,
    timers: Vec<Option<u64>>,
}

impl Time {
    pub(super) fn new(vcpus: u32) -> Self {
        Self { now_ns: 1_000_000_000, timers: std::vec![None; vcpus as usize] }
    }

    /// The next timer that will fire, if any.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.timers.iter().flatten().min().copied()
    }
}

impl State {
    pub(super) fn now_ns(&mut self) -> u64 {
        self.pass_until(self.time.now_ns + LOOK_NS);
        self.time.now_ns
    }

    /// The time that a hypercall takes.
    pub(super) fn hypercall_passes(&mut self) {
        self.pass_until(self.time.now_ns + HYPERCALL_NS);
    }

    /// Lets time pass; timers fire in their order.
    pub(super) fn pass_until(&mut self, end_ns: u64) {
        while let Some(deadline) = self.time.next_deadline_ns().filter(|deadline| *deadline <= end_ns) {
            self.time.now_ns = self.time.now_ns.max(deadline);
            for vcpu in 0..self.config.vcpus {
                let timer = &mut self.time.timers[vcpu as usize];
                if *timer == Some(deadline) {
                    *timer = None;
                    self.events.raise_virq(event::VIRQ_TIMER, vcpu);
                }
            }
        }
        self.time.now_ns = self.time.now_ns.max(end_ns);
    }

    /// Lets time pass until `ready`, or a deadline. Without either, the guest sleeps for ever, which no test
    /// wants.
    pub(super) fn sleep(&mut self, deadline_ns: Option<u64>, ready: impl Fn(&Self) -> bool) {
        while !ready(self) {
            let timer = self.time.next_deadline_ns();
            let next = timer.into_iter().chain(deadline_ns).min();
            let Some(next) = next else {
                unreachable!("model: the vCPU sleeps, and nothing will ever wake it");
            };
            self.pass_until(next);
            if deadline_ns.is_some_and(|deadline| deadline <= self.time.now_ns) {
                return;
            }
        }
    }

    pub(super) fn set_timer(&mut self, vcpu: u32, deadline_ns: u64) {
        self.time.timers[vcpu as usize] = Some(deadline_ns);
        self.pass_until(self.time.now_ns);
    }

    pub(super) fn stop_timer(&mut self, vcpu: u32) {
        self.time.timers[vcpu as usize] = None;
    }

    /// `set_timer_op`: the same timer, where 0 stops.
    pub(super) fn set_timer_op(&mut self, vcpu: u32, deadline_ns: u64) {
        match deadline_ns {
            0 => self.stop_timer(vcpu),
            ABSURD_NS.. => self.set_timer(vcpu, self.time.now_ns + 100_000_000),
            _ => self.set_timer(vcpu, deadline_ns),
        }
    }

    /// `SCHEDOP_poll`.
    ///
    /// # Safety
    ///
    /// As `Transport::call`: the argument is valid for the command.
    pub(super) unsafe fn poll(&mut self, vcpu: u32, argument: u64) -> Result<i64, Errno> {
        // SAFETY: the caller's promise.
        let poll: sched::Poll = unsafe { self.copy_in(argument) }?;
        if poll.nr_ports > sched::POLL_MAX_PORTS {
            return Err(Errno::EINVAL);
        }
        let awake = |state: &Self| state.interrupts[vcpu as usize] && state.events.upcall_pending(vcpu);
        if awake(self) {
            return Ok(0);
        }
        let mut ports = Vec::new();
        for index in 0..u64::from(poll.nr_ports) {
            let at = poll.ports.checked_add(index * 4).ok_or(Errno::EFAULT)?;
            // SAFETY: the caller's promise: the list has this many entries.
            let port: u32 = unsafe { self.copy_in(at) }?;
            if !self.events.is_valid(port) {
                return Err(Errno::EINVAL);
            }
            ports.push(port);
        }
        let deadline = (poll.timeout_ns != 0).then_some(poll.timeout_ns);
        self.sleep(deadline, |state| awake(state) || ports.iter().any(|port| state.events.is_pending(*port)));
        Ok(0)
    }
}
