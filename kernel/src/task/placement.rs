//! Wake-ups, and which queue a thread goes to: the [policy](super::balance) carried out.
//!
//! A thread is found through its home, which may change while one looks; the lock of the right home settles it.
//! Whoever puts a thread into a queue tells that CPU what it must know: that it has work, or that its slice now has
//! an end.

use super::balance;
use super::cpu::{Need, Threads, Woken};
use super::platform::{CpuId, IrqOff, Pin, Platform, mask};
use super::scheduler::Scheduler;
use core::sync::atomic::Ordering;

impl<P: Platform> Scheduler<P> {
    /// Wakes a thread if it is blocked; else it will not block the next time it would. Any context.
    pub(super) fn wake(&self, index: u32) {
        let irq = IrqOff::new(self.platform);
        let sched = self.table.sched(index);
        loop {
            let home = sched.home();
            let mut state = self.cpu(home).state.lock();
            if sched.home() != home {
                // It moved before the lock was ours.
                continue;
            }
            if state.wake(&self.table, index) == Woken::Awake {
                return;
            }
            let to = sched.only().unwrap_or_else(|| self.place(home));
            sched.set_home(to);
            drop(state);
            self.deliver(irq.cpu(), index, to);
            return;
        }
    }

    /// Where a thread goes that is at home at `home`. An idle CPU that is chosen is not idle any more for others.
    fn place(&self, home: CpuId) -> CpuId {
        loop {
            let idle = self.idle.load(Ordering::SeqCst);
            let to = balance::place(home, idle);
            if idle == 0 || self.idle.fetch_and(!mask(to), Ordering::SeqCst) & mask(to) != 0 {
                return to;
            }
        }
    }

    /// Where a new thread goes: to an idle CPU, or else to the one with the least to do.
    pub(super) fn place_new(&self) -> CpuId {
        let pin = Pin::new(self.platform);
        if self.idle.load(Ordering::SeqCst) != 0 {
            return self.place(pin.cpu());
        }
        self.loads().min_by_key(|(cpu, load)| (*load, *cpu != pin.cpu())).map_or(CpuId::BOOT, |(cpu, _)| cpu)
    }

    /// Puts a thread, whose home `to` is, into the queue there, and tells that CPU. `me` is this CPU; interrupts
    /// are off.
    pub(super) fn deliver(&self, me: CpuId, index: u32, to: CpuId) {
        let there = self.cpu(to);
        let mut state = there.state.lock();
        let need = state.queue(&self.table, index);
        there.publish(&state);
        drop(state);
        match need {
            Need::Nothing => {}
            Need::Reschedule => self.nudge(me, to),
            Need::Rearm if to == me => self.rearm(me),
            Need::Rearm => self.send_kick(me, to),
        }
        if need != Need::Reschedule {
            // Somebody may have run out of work since the place was chosen.
            self.nudge_idle(me);
        }
    }

    /// Queues a new thread.
    pub(super) fn launch(&self, index: u32) {
        let irq = IrqOff::new(self.platform);
        let to = self.table.sched(index).home();
        self.deliver(irq.cpu(), index, to);
    }

    /// Makes `cpu` decide anew.
    pub(super) fn nudge(&self, me: CpuId, cpu: CpuId) {
        self.cpu(cpu).need.store(true, Ordering::SeqCst);
        if cpu != me {
            self.send_kick(me, cpu);
        }
    }

    /// Makes one idle CPU look for work, and answers whether there was one.
    pub(super) fn nudge_idle(&self, me: CpuId) -> bool {
        if self.idle.load(Ordering::SeqCst) & !mask(me) == 0 {
            return false;
        }
        let chosen = self.place(me);
        self.nudge(me, chosen);
        chosen != me
    }

    fn send_kick(&self, me: CpuId, to: CpuId) {
        self.cpu(me).kicks.fetch_add(1, Ordering::Relaxed);
        self.platform.kick(to);
    }

    /// Takes a thread from the busiest queue into that of `me`, which has nothing to do. Interrupts are off.
    pub(super) fn steal(&self, me: CpuId) -> bool {
        let Some(victim) = balance::victim(me, self.loads()) else { return false };
        let from = self.cpu(victim);
        let mut state = from.state.lock();
        let taken = state.release(&self.table, me);
        from.publish(&state);
        drop(state);
        let Some(index) = taken else { return false };
        let local = self.cpu(me);
        local.steals.fetch_add(1, Ordering::Relaxed);
        let mut state = local.state.lock();
        state.queue(&self.table, index);
        local.publish(&state);
        true
    }

    pub(super) fn loads(&self) -> impl Iterator<Item = (CpuId, u32)> {
        self.online().map(|cpu| (cpu, self.cpu(cpu).load.load(Ordering::SeqCst)))
    }
}
