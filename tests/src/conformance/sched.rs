//! Polling. Source: Xen `xen/common/sched/core.c`.

use super::check::{answers, done, holds, refused};
use super::delivery::{Loop, is_pending};
use super::own;
use super::{Env, Outcome, Stop};
use ebb::port::{EventOps, SchedOps};
use ebb::units::EventPort;
use xen_abi::{Errno, hypercall};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// Polls until a deadline; answers whether it has come. An event on another port of the domain may end a poll
/// early, but not time and again.
fn sleep<E: Env>(env: &E, ports: &[EventPort], deadline: u64) -> Result<bool, Stop> {
    for _ in 0..16 {
        done("a timeout is success", env.xen().poll(ports, Some(deadline)))?;
        if env.now_ns() >= deadline {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn a_pending_port_ends_a_poll_at_once<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    let sent = env.xen().send(ends.far);
    let deadline = env.now_ns() + 10 * SECOND;
    let polled = env.xen().poll(&[ends.near], Some(deadline));
    let (now, pending) = (env.now_ns(), is_pending(env, ends.near));
    ends.close(env)?;
    done("send", sent)?;
    done("poll of a masked port", polled)?;
    holds("long before the deadline", now < deadline - 5 * SECOND)?;
    holds("the port is still pending", pending)
}

pub(super) fn any_port_of_the_list_will_do<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    let sent = env.xen().send(ends.far);
    let deadline = env.now_ns() + 10 * SECOND;
    let polled = env.xen().poll(&[ends.far, ends.near], Some(deadline));
    let now = env.now_ns();
    ends.close(env)?;
    done("send", sent)?;
    done("poll", polled)?;
    holds("long before the deadline", now < deadline - 5 * SECOND)
}

pub(super) fn a_poll_times_out<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    let slept = sleep(env, &[ends.near], env.now_ns() + 5 * MILLISECOND);
    let pending = is_pending(env, ends.near);
    ends.close(env)?;
    holds("it waits for its deadline", slept?)?;
    holds("nothing is pending", !pending)
}

pub(super) fn a_poll_of_nothing_is_a_sleep<E: Env>(env: &E) -> Outcome {
    holds("it waits for its deadline", sleep(env, &[], env.now_ns() + 3 * MILLISECOND)?)
}

pub(super) fn a_deadline_in_the_past_does_not_wait<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    let start = env.now_ns();
    let past = env.xen().poll(&[ends.near], Some(start.saturating_sub(SECOND)));
    let zero = env.xen().poll(&[ends.near], Some(0));
    let now = env.now_ns();
    ends.close(env)?;
    done("poll until the past", past)?;
    done("poll until 0", zero)?;
    holds("at once", now < start + 5 * SECOND)
}

pub(super) fn more_than_128_ports_are_einval<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    let sent = env.xen().send(ends.far);
    let ports = [ends.near; 129];
    let deadline = Some(env.now_ns() + SECOND);
    let (all, fewer) = (env.xen().poll(&ports, deadline), env.xen().poll(&ports[..128], deadline));
    ends.close(env)?;
    done("send", sent)?;
    refused("129 ports", all, Errno::EINVAL)?;
    done("128 ports", fewer)
}

pub(super) fn a_port_that_does_not_exist_is_einval<E: Env>(env: &E) -> Outcome {
    let polled = env.xen().poll(&[EventPort::new(1 << 20)], Some(env.now_ns() + SECOND));
    refused("poll", polled, Errno::EINVAL)
}

pub(super) fn yielding_returns<E: Env>(env: &E) -> Outcome {
    env.xen().yield_now();
    Ok(())
}

pub(super) fn a_structure_nowhere_faults<E: Env>(env: &E) -> Outcome {
    let answer = own::nowhere(env, hypercall::SCHED_OP, xen_abi::sched::POLL);
    answers("a poll at no address", answer, Errno::EFAULT.to_rax())?;
    let answer = own::nowhere(env, hypercall::SCHED_OP, xen_abi::sched::SHUTDOWN);
    answers("a shutdown at no address", answer, Errno::EFAULT.to_rax())
}

pub(super) fn an_unknown_command_is_enosys<E: Env>(env: &E) -> Outcome {
    answers("command 99", own::nowhere(env, hypercall::SCHED_OP, 99), Errno::ENOSYS.to_rax())
}
