//! How an event reaches a vCPU: pending bits, masks, selectors, upcalls (2-level). Source: Xen
//! `xen/common/event_2l.c`.
//!
//! Interrupts are off, so what Xen sets stays until a case looks. Other ports of the domain may become pending at
//! any time; what a case clears of theirs it puts back.

use super::check::{done, holds};
use super::{Env, Outcome, Stop};
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::port::EventOps;
use ebb::units::{DomId, EventPort};
use xen_abi::shared_info::{self, vcpu};

/// A pair of ports of this domain, connected to each other, both masked and not pending.
#[derive(Clone, Copy)]
pub(super) struct Loop {
    /// The end that waited.
    pub(super) near: EventPort,
    /// The end that bound to it.
    pub(super) far: EventPort,
}

impl Loop {
    pub(super) fn open<E: Env>(env: &E) -> Result<Self, Stop> {
        let near = done("alloc_unbound", env.xen().alloc_unbound(DomId::SELF))?;
        set_mask(env, near);
        let far = match env.xen().bind_interdomain(DomId::SELF, near) {
            Ok(far) => far,
            Err(error) => {
                done("close", env.xen().close(near))?;
                return done("bind_interdomain", Err(error));
            }
        };
        set_mask(env, far);
        acknowledge(env, far);
        Ok(Self { near, far })
    }

    pub(super) fn close<E: Env>(self, env: &E) -> Outcome {
        done("close the far end", env.xen().close(self.far))?;
        done("close the near end", env.xen().close(self.near))?;
        set_mask(env, self.near);
        set_mask(env, self.far);
        Ok(())
    }
}

/// Word of an array of the shared page, and the port's bit in it.
fn place<E: Env>(env: &E, array: usize, port: EventPort, with: impl FnOnce(&AtomicU64, u64) -> u64) -> bool {
    let bit = 1 << (port.get() % 64);
    with(env.shared_info().u64(array + port.get() as usize / 64 * 8), bit) & bit != 0
}

/// Whether the port is pending.
pub(super) fn is_pending<E: Env>(env: &E, port: EventPort) -> bool {
    place(env, shared_info::PENDING, port, |word, _| word.load(Ordering::SeqCst))
}

/// Clears the port's pending bit.
pub(super) fn acknowledge<E: Env>(env: &E, port: EventPort) {
    place(env, shared_info::PENDING, port, |word, bit| word.fetch_and(!bit, Ordering::SeqCst));
}

/// Masks the port.
pub(super) fn set_mask<E: Env>(env: &E, port: EventPort) {
    place(env, shared_info::MASK, port, |word, bit| word.fetch_or(bit, Ordering::SeqCst));
}

fn clear_mask<E: Env>(env: &E, port: EventPort) {
    place(env, shared_info::MASK, port, |word, bit| word.fetch_and(!bit, Ordering::SeqCst));
}

fn is_masked<E: Env>(env: &E, port: EventPort) -> bool {
    place(env, shared_info::MASK, port, |word, _| word.load(Ordering::SeqCst))
}

/// The event words of the vCPU that runs the cases.
fn part<E: Env>(env: &E) -> usize {
    env.vcpu().get() as usize * vcpu::SIZE
}

/// Takes the selector and the upcall flag, as a scan does; answers whether the port's word was selected.
fn take_selector<E: Env>(env: &E, port: EventPort, taken: &mut u64) -> bool {
    let page = env.shared_info();
    page.u8(part(env) + vcpu::UPCALL_PENDING).store(0, Ordering::SeqCst);
    let selector = page.u64(part(env) + vcpu::PENDING_SELECTOR).swap(0, Ordering::SeqCst);
    *taken |= selector;
    selector & 1 << (port.get() / 64) != 0
}

/// Puts back what was taken, so that the other ports' events are scanned for after all.
fn put_back<E: Env>(env: &E, taken: u64) {
    if taken != 0 {
        let page = env.shared_info();
        page.u64(part(env) + vcpu::PENDING_SELECTOR).fetch_or(taken, Ordering::SeqCst);
        page.u8(part(env) + vcpu::UPCALL_PENDING).store(1, Ordering::SeqCst);
    }
}

fn upcall_is_due<E: Env>(env: &E) -> bool {
    env.shared_info().u8(part(env) + vcpu::UPCALL_PENDING).load(Ordering::SeqCst) != 0
}

/// Runs `body` over a fresh loop with an empty selector, and clears up whatever it answers.
fn with_loop<E: Env>(env: &E, body: impl FnOnce(Loop, &mut u64) -> Outcome) -> Outcome {
    let ends = Loop::open(env)?;
    let mut taken = 0;
    take_selector(env, ends.near, &mut taken);
    let outcome = body(ends, &mut taken);
    let closed = ends.close(env);
    put_back(env, taken);
    outcome.and(closed)
}

fn send<E: Env>(env: &E, port: EventPort) -> Outcome {
    done("send", env.xen().send(port))
}

fn unmask<E: Env>(env: &E, port: EventPort) -> Outcome {
    done("unmask", env.xen().unmask(port))
}

pub(super) fn an_event_arrives_at_the_other_end<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, _| {
        send(env, ends.far)?;
        holds("the near end is pending", is_pending(env, ends.near))?;
        holds("the far end is not", !is_pending(env, ends.far))?;
        send(env, ends.near)?;
        holds("nor is it one way only", is_pending(env, ends.far))
    })
}

pub(super) fn an_event_raises_an_upcall<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, taken| {
        clear_mask(env, ends.near);
        send(env, ends.far)?;
        holds("pending", is_pending(env, ends.near))?;
        holds("the upcall is due", upcall_is_due(env))?;
        holds("its word is selected", take_selector(env, ends.near, taken))
    })
}

pub(super) fn a_masked_port_stays_silent<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, taken| {
        send(env, ends.far)?;
        holds("pending", is_pending(env, ends.near))?;
        holds("its word is not selected", !take_selector(env, ends.near, taken))
    })
}

pub(super) fn unmasking_raises_what_was_pending<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, taken| {
        send(env, ends.far)?;
        unmask(env, ends.near)?;
        holds("not masked", !is_masked(env, ends.near))?;
        holds("still pending", is_pending(env, ends.near))?;
        holds("the upcall is due", upcall_is_due(env))?;
        holds("its word is selected", take_selector(env, ends.near, taken))
    })
}

pub(super) fn unmasking_an_idle_port_raises_nothing<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, taken| {
        unmask(env, ends.near)?;
        holds("not masked", !is_masked(env, ends.near))?;
        holds("its word is not selected", !take_selector(env, ends.near, taken))
    })
}

pub(super) fn unmasking_twice_raises_once<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, taken| {
        send(env, ends.far)?;
        unmask(env, ends.near)?;
        holds("selected", take_selector(env, ends.near, taken))?;
        unmask(env, ends.near)?;
        holds("not selected again", !take_selector(env, ends.near, taken))
    })
}

pub(super) fn a_pending_port_is_mute<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, taken| {
        clear_mask(env, ends.near);
        send(env, ends.far)?;
        holds("selected", take_selector(env, ends.near, taken))?;
        send(env, ends.far)?;
        holds("not selected again while pending", !take_selector(env, ends.near, taken))
    })
}

pub(super) fn an_event_after_the_acknowledgement_is_not_lost<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, taken| {
        clear_mask(env, ends.near);
        send(env, ends.far)?;
        holds("selected", take_selector(env, ends.near, taken))?;
        acknowledge(env, ends.near);
        // Here the handler would run, and the next event comes.
        send(env, ends.far)?;
        holds("pending again", is_pending(env, ends.near))?;
        holds("selected again", take_selector(env, ends.near, taken))
    })
}

pub(super) fn a_clear_by_hand_unmasks_for_the_next<E: Env>(env: &E) -> Outcome {
    with_loop(env, |ends, taken| {
        send(env, ends.far)?;
        clear_mask(env, ends.near);
        holds("nothing is raised by the clear", !take_selector(env, ends.near, taken))?;
        acknowledge(env, ends.near);
        send(env, ends.far)?;
        holds("the next event is", take_selector(env, ends.near, taken))
    })
}

pub(super) fn an_event_between_look_and_wait_ends_the_wait<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    clear_mask(env, ends.near);
    // We looked, and there was nothing; the event comes before the wait begins.
    let sent = send(env, ends.far);
    let start = env.now_ns();
    let deadline = start + 2_000_000_000;
    let mut woken = false;
    while is_pending(env, ends.near) && env.now_ns() < deadline {
        woken = env.wait_for_upcall(deadline);
    }
    let late = env.now_ns() >= deadline;
    let handled = !is_pending(env, ends.near);
    ends.close(env)?;
    sent?;
    holds("the wait ended by an upcall", woken)?;
    holds("which handled the port", handled)?;
    holds("before its deadline", !late)
}

pub(super) fn a_wait_wakes_again_and_again<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    clear_mask(env, ends.near);
    let mut outcome = Ok(());
    for _ in 0..32 {
        let deadline = env.now_ns() + 2_000_000_000;
        outcome = outcome.and(send(env, ends.far));
        while is_pending(env, ends.near) && env.now_ns() < deadline {
            env.wait_for_upcall(deadline);
        }
        outcome = outcome.and(holds("handled in time", !is_pending(env, ends.near)));
    }
    ends.close(env)?;
    outcome
}
