//! Ports: how they come, what they say, how they go. Source: Xen `xen/common/event_channel.c`.

use super::check::{answers, done, holds, refused, same};
use super::delivery::{Loop, is_pending, set_mask};
use super::own;
use super::{Env, Outcome, Stop};
use ebb::port::{ChannelStatus, EventOps};
use ebb::units::{DomId, EventPort, VcpuId};
use xen_abi::{Errno, event as abi, hypercall};

/// No domain has this number.
const NOBODY: DomId = DomId::new(0x7FE0);
/// No domain has this many vCPUs.
const NO_VCPU: VcpuId = VcpuId::new(4095);
/// Port 0, which never exists.
const PORT_0: EventPort = EventPort::new(0);
/// Beyond every port table.
const NO_PORT: EventPort = EventPort::new(1 << 20);
/// The highest port that the toolstack allows by default.
const HIGHEST: usize = 1023;

fn unbound<E: Env>(env: &E) -> Result<EventPort, Stop> {
    let port = done("alloc_unbound", env.xen().alloc_unbound(DomId::SELF))?;
    set_mask(env, port);
    Ok(port)
}

fn close<E: Env>(env: &E, port: EventPort) -> Outcome {
    done("close", env.xen().close(port))
}

fn status<E: Env>(env: &E, port: EventPort) -> Result<ChannelStatus, Stop> {
    done("status", env.xen().status(port))
}

pub(super) fn a_new_port_waits_for_its_remote<E: Env>(env: &E) -> Outcome {
    let port = unbound(env)?;
    let state = status(env, port);
    close(env, port)?;
    holds("not port 0", port != PORT_0)?;
    holds("unbound", matches!(state?, ChannelStatus::Unbound { .. }))
}

pub(super) fn a_port_for_dom0_says_so<E: Env>(env: &E) -> Outcome {
    let port = done("alloc_unbound", env.xen().alloc_unbound(DomId::new(0)))?;
    let state = status(env, port);
    close(env, port)?;
    holds("unbound for dom0", state? == ChannelStatus::Unbound { remote: DomId::new(0) })
}

pub(super) fn ports_of_a_loop_name_each_other<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    let states = (status(env, ends.near), status(env, ends.far));
    ends.close(env)?;
    let peer = |state| match state {
        ChannelStatus::Interdomain { port, .. } => u64::from(port.get()),
        _ => 0,
    };
    same("the far end of the near one", peer(states.0?), u64::from(ends.far.get()))?;
    same("the near end of the far one", peer(states.1?), u64::from(ends.near.get()))
}

pub(super) fn the_binding_end_is_pending_once<E: Env>(env: &E) -> Outcome {
    let near = unbound(env)?;
    let far = done("bind_interdomain", env.xen().bind_interdomain(DomId::SELF, near))?;
    let pending = (is_pending(env, near), is_pending(env, far));
    close(env, far)?;
    close(env, near)?;
    holds("the end that bound is pending", pending.1)?;
    holds("the end that waited is not", !pending.0)
}

pub(super) fn binding_to_nobody_is_esrch<E: Env>(env: &E) -> Outcome {
    refused("bind_interdomain", env.xen().bind_interdomain(NOBODY, EventPort::new(1)), Errno::ESRCH)
}

pub(super) fn binding_to_a_port_that_does_not_wait_is_einval<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    let bound = env.xen().bind_interdomain(DomId::SELF, ends.near);
    let zero = env.xen().bind_interdomain(DomId::SELF, PORT_0);
    ends.close(env)?;
    refused("a bound port", bound, Errno::EINVAL)?;
    refused("port 0", zero, Errno::EINVAL)
}

pub(super) fn binding_to_a_port_for_another_is_einval<E: Env>(env: &E) -> Outcome {
    let port = done("alloc_unbound", env.xen().alloc_unbound(DomId::new(0)))?;
    let bound = env.xen().bind_interdomain(DomId::SELF, port);
    close(env, port)?;
    refused("a port that waits for dom0", bound, Errno::EINVAL)
}

pub(super) fn a_closed_port_is_closed<E: Env>(env: &E) -> Outcome {
    let port = unbound(env)?;
    close(env, port)?;
    holds("status", status(env, port)? == ChannelStatus::Closed)?;
    refused("close again", env.xen().close(port), Errno::EINVAL)?;
    refused("send", env.xen().send(port), Errno::EINVAL)
}

pub(super) fn the_lowest_free_port_is_next<E: Env>(env: &E) -> Outcome {
    let (first, second) = (unbound(env)?, unbound(env)?);
    close(env, first)?;
    let again = unbound(env)?;
    close(env, again)?;
    close(env, second)?;
    same("the number that was free", u64::from(again.get()), u64::from(first.get()))
}

pub(super) fn closing_clears_pending<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    done("send", env.xen().send(ends.far))?;
    let before = is_pending(env, ends.near);
    ends.close(env)?;
    holds("pending before", before)?;
    holds("not pending after", !is_pending(env, ends.near))
}

pub(super) fn closing_one_end_frees_the_other<E: Env>(env: &E) -> Outcome {
    let ends = Loop::open(env)?;
    close(env, ends.far)?;
    let state = status(env, ends.near);
    let sent = env.xen().send(ends.near);
    close(env, ends.near)?;
    holds("waiting again", matches!(state?, ChannelStatus::Unbound { .. }))?;
    done("an event for nobody is dropped", sent)
}

pub(super) fn an_event_for_nobody_is_dropped<E: Env>(env: &E) -> Outcome {
    let port = unbound(env)?;
    let sent = env.xen().send(port);
    let pending = is_pending(env, port);
    close(env, port)?;
    done("send", sent)?;
    holds("nothing is pending", !pending)
}

pub(super) fn ports_0_and_beyond_are_einval<E: Env>(env: &E) -> Outcome {
    refused("close port 0", env.xen().close(PORT_0), Errno::EINVAL)?;
    refused("send to port 0", env.xen().send(PORT_0), Errno::EINVAL)?;
    refused("close no port", env.xen().close(NO_PORT), Errno::EINVAL)?;
    refused("send to no port", env.xen().send(NO_PORT), Errno::EINVAL)?;
    refused("unmask no port", env.xen().unmask(NO_PORT), Errno::EINVAL)?;
    refused("status of no port", env.xen().status(NO_PORT), Errno::EINVAL)
}

pub(super) fn a_virq_binds_once<E: Env>(env: &E) -> Outcome {
    let bind = || env.xen().bind_virq(abi::VIRQ_DEBUG, env.vcpu());
    let Ok(port) = bind() else { return Err(Stop::Skip("the debug interrupt is bound already")) };
    set_mask(env, port);
    let (twice, state) = (bind(), status(env, port));
    let sent = env.xen().send(port);
    close(env, port)?;
    refused("bound twice", twice, Errno::EEXIST)?;
    holds("status", state? == ChannelStatus::Virq(abi::VIRQ_DEBUG))?;
    refused("nobody sends a virtual interrupt", sent, Errno::EINVAL)?;
    let again = done("bound after closing", bind())?;
    set_mask(env, again);
    close(env, again)
}

pub(super) fn the_timer_is_bound_already<E: Env>(env: &E) -> Outcome {
    refused("bind_virq", env.xen().bind_virq(abi::VIRQ_TIMER, env.vcpu()), Errno::EEXIST)?;
    holds("status", status(env, env.timer_port())? == ChannelStatus::Virq(abi::VIRQ_TIMER))
}

pub(super) fn a_virq_of_no_vcpu_is_enoent<E: Env>(env: &E) -> Outcome {
    refused("bind_virq", env.xen().bind_virq(abi::VIRQ_DEBUG, NO_VCPU), Errno::ENOENT)
}

pub(super) fn an_unknown_virq_is_einval<E: Env>(env: &E) -> Outcome {
    refused("the first", env.xen().bind_virq(abi::NR_VIRQS, env.vcpu()), Errno::EINVAL)?;
    refused("the last", env.xen().bind_virq(u32::MAX, env.vcpu()), Errno::EINVAL)
}

pub(super) fn an_ipi_interrupts_its_vcpu<E: Env>(env: &E) -> Outcome {
    let port = done("bind_ipi", env.xen().bind_ipi(env.vcpu()))?;
    set_mask(env, port);
    let state = status(env, port);
    let sent = env.xen().send(port);
    let pending = is_pending(env, port);
    close(env, port)?;
    holds("status", state? == ChannelStatus::Ipi)?;
    done("send", sent)?;
    holds("pending", pending)
}

pub(super) fn an_ipi_to_no_vcpu_is_enoent<E: Env>(env: &E) -> Outcome {
    refused("bind_ipi", env.xen().bind_ipi(NO_VCPU), Errno::ENOENT)
}

pub(super) fn ports_run_out_with_enospc<E: Env>(env: &E) -> Outcome {
    let mut ports = [PORT_0; HIGHEST + 1];
    let mut count = 0;
    let end = loop {
        match env.xen().alloc_unbound(DomId::SELF) {
            Ok(port) if count < ports.len() => {
                set_mask(env, port);
                ports[count] = port;
                count += 1;
            }
            Ok(port) => break Ok(port),
            Err(error) => break Err(error),
        }
    };
    let highest = ports[..count].iter().map(|port| port.get()).max().unwrap_or(0);
    for port in ports[..count].iter().chain(end.iter()) {
        close(env, *port)?;
    }
    refused("one more", end, Errno::ENOSPC)?;
    same("the highest port", u64::from(highest), HIGHEST as u64)
}

pub(super) fn an_unknown_command_is_enosys<E: Env>(env: &E) -> Outcome {
    let answer = own::nowhere(env, hypercall::EVENT_CHANNEL_OP, 99);
    answers("command 99", answer, Errno::ENOSYS.to_rax())
}

pub(super) fn a_structure_nowhere_faults<E: Env>(env: &E) -> Outcome {
    for command in [abi::ALLOC_UNBOUND, abi::BIND_INTERDOMAIN, abi::BIND_VIRQ, abi::BIND_IPI, abi::STATUS] {
        let answer = own::nowhere(env, hypercall::EVENT_CHANNEL_OP, command);
        answers("a structure at no address", answer, Errno::EFAULT.to_rax())?;
    }
    Ok(())
}
