//! vCPUs and their one-shot timers. Source: Xen `xen/common/domain.c`, `xen/common/sched/core.c`.
#![expect(unsafe_code, reason = "initialises a vCPU that is initialised, and arms a timer by register")]

use super::check::{answers, done, holds, refused};
use super::delivery::{acknowledge, is_pending, set_mask};
use super::{Env, Outcome, Stop};
use ebb::port::{Armed, SchedOps, VcpuOps};
use ebb::units::VcpuId;
use ebb::xen::Transport;
use xen_abi::{Errno, hypercall, vcpu as abi};

const NO_VCPU: VcpuId = VcpuId::new(4095);
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// Runs `body` with the timer's port masked and idle, and stops the timer after it.
fn with_timer<E: Env>(env: &E, body: impl FnOnce() -> Outcome) -> Outcome {
    set_mask(env, env.timer_port());
    acknowledge(env, env.timer_port());
    let outcome = body();
    let stopped = done("stop_timer", env.xen().stop_timer(env.vcpu()));
    acknowledge(env, env.timer_port());
    outcome.and(stopped)
}

fn arm<E: Env>(env: &E, deadline: u64) -> Outcome {
    let armed = done("set_timer", env.xen().set_timer(env.vcpu(), deadline))?;
    holds("an event will come", armed == Armed::Pending)
}

/// Polls the timer's port; answers the time at which it was seen pending, if it was before `deadline`.
fn fired<E: Env>(env: &E, deadline: u64) -> Result<Option<u64>, Stop> {
    while !is_pending(env, env.timer_port()) {
        done("poll", env.xen().poll(&[env.timer_port()], Some(deadline)))?;
        if env.now_ns() >= deadline && !is_pending(env, env.timer_port()) {
            return Ok(None);
        }
    }
    Ok(Some(env.now_ns()))
}

pub(super) fn the_own_vcpu_is_up<E: Env>(env: &E) -> Outcome {
    holds("is_up", done("is_up", env.xen().is_up(env.vcpu()))?)
}

pub(super) fn past_the_end_is_enoent<E: Env>(env: &E) -> Outcome {
    refused("is_up", env.xen().is_up(NO_VCPU), Errno::ENOENT)?;
    refused("set_timer", env.xen().set_timer(NO_VCPU, 0), Errno::ENOENT)?;
    refused("stop_timer", env.xen().stop_timer(NO_VCPU), Errno::ENOENT)?;
    refused("start", env.xen().start_vcpu(NO_VCPU), Errno::ENOENT)
}

pub(super) fn a_timer_in_the_past_fires_at_once<E: Env>(env: &E) -> Outcome {
    with_timer(env, || {
        let now = env.now_ns();
        arm(env, now.saturating_sub(SECOND))?;
        holds("fired", fired(env, now + SECOND)?.is_some())
    })
}

pub(super) fn a_timer_does_not_fire_early<E: Env>(env: &E) -> Outcome {
    with_timer(env, || {
        let deadline = env.now_ns() + 10 * MILLISECOND;
        arm(env, deadline)?;
        holds("not at once", !is_pending(env, env.timer_port()) || env.now_ns() >= deadline)?;
        let at = fired(env, deadline + 2 * SECOND)?;
        holds("fired", at.is_some())?;
        holds("not before its time", at.is_some_and(|at| at >= deadline))
    })
}

pub(super) fn a_timer_fires_once<E: Env>(env: &E) -> Outcome {
    with_timer(env, || {
        arm(env, env.now_ns() + MILLISECOND)?;
        holds("fired", fired(env, env.now_ns() + 2 * SECOND)?.is_some())?;
        acknowledge(env, env.timer_port());
        holds("not again", fired(env, env.now_ns() + 20 * MILLISECOND)?.is_none())
    })
}

pub(super) fn a_stopped_timer_does_not_fire<E: Env>(env: &E) -> Outcome {
    with_timer(env, || {
        arm(env, env.now_ns() + 200 * MILLISECOND)?;
        done("stop_timer", env.xen().stop_timer(env.vcpu()))?;
        holds("not fired", fired(env, env.now_ns() + 300 * MILLISECOND)?.is_none())
    })
}

pub(super) fn arming_again_replaces<E: Env>(env: &E) -> Outcome {
    with_timer(env, || {
        let soon = env.now_ns() + 100 * MILLISECOND;
        arm(env, soon)?;
        arm(env, soon + 200 * MILLISECOND)?;
        let at = fired(env, soon + 5 * SECOND)?;
        holds("fired at the later time", at.is_some_and(|at| at >= soon + 200 * MILLISECOND))
    })
}

pub(super) fn anothers_timer_is_einval<E: Env>(env: &E) -> Outcome {
    let other = VcpuId::new(u32::from(env.vcpu().get() == 0));
    if env.xen().is_up(other) == Err(Errno::ENOENT) {
        return Err(Stop::Skip("the domain has one vCPU"));
    }
    refused("set_timer", env.xen().set_timer(other, 0), Errno::EINVAL)?;
    refused("stop_timer", env.xen().stop_timer(other), Errno::EINVAL)
}

pub(super) fn the_register_form_is_the_same_timer<E: Env>(env: &E) -> Outcome {
    let set = |deadline| {
        // SAFETY: the call takes a time in a register and touches no memory.
        unsafe { env.xen().transport().call(hypercall::SET_TIMER_OP, [deadline, 0, 0, 0, 0]) }
    };
    with_timer(env, || {
        answers("set_timer_op", set(env.now_ns() + MILLISECOND), 0)?;
        holds("fired", fired(env, env.now_ns() + 2 * SECOND)?.is_some())?;
        acknowledge(env, env.timer_port());
        arm(env, env.now_ns() + 200 * MILLISECOND)?;
        answers("set_timer_op, 0", set(0), 0)?;
        holds("0 stops", fired(env, env.now_ns() + 300 * MILLISECOND)?.is_none())
    })
}

pub(super) fn a_running_vcpu_is_not_initialised_again<E: Env>(env: &E) -> Outcome {
    let context = abi::HvmContext { mode: abi::CONTEXT_64, ..Default::default() };
    // SAFETY: this vCPU runs, so it was initialised, and Xen refuses to do that again.
    let answer = unsafe { env.xen().initialise_vcpu(env.vcpu(), &context) };
    refused("initialise", answer, Errno::EEXIST)
}
