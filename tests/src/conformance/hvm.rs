//! Parameters and frame types. Source: Xen `xen/arch/x86/hvm/hvm.c`.

use super::check::{answers, done, holds, refused, same};
use super::own;
use super::{Env, Outcome};
use ebb::port::{ChannelStatus, EventOps, FrameType, HvmOps, HvmParam};
use ebb::units::{EventPort, Gfn, VcpuId};
use xen_abi::{Errno, hvm as abi, hypercall};

/// A ring's frame is RAM and its port is open.
fn ring<E: Env>(env: &E, frame: HvmParam, port: HvmParam) -> Outcome {
    let frame = done("the ring's frame", env.xen().get_param(frame))?;
    let port = done("the ring's port", env.xen().get_param(port))?;
    let of_frame = done("its type", env.xen().frame_type(Gfn::new(frame)))?;
    holds("the frame is RAM", of_frame == FrameType::ReadWrite)?;
    let port = EventPort::new(u32::try_from(port).unwrap_or(0));
    let status = done("its status", env.xen().status(port))?;
    holds(
        "the port is dom0's",
        matches!(
            status,
            ChannelStatus::Unbound { remote } | ChannelStatus::Interdomain { remote, .. } if remote.get() == 0
        ),
    )
}

pub(super) fn xenstore_has_a_ring<E: Env>(env: &E) -> Outcome {
    ring(env, HvmParam::StoreGfn, HvmParam::StorePort)
}

pub(super) fn the_console_has_a_ring<E: Env>(env: &E) -> Outcome {
    ring(env, HvmParam::ConsoleGfn, HvmParam::ConsolePort)
}

pub(super) fn the_rings_frames_are_the_toolstacks<E: Env>(env: &E) -> Outcome {
    refused("xenstore's", env.xen().set_param(HvmParam::StoreGfn, 1), Errno::EPERM)?;
    refused("the console's", env.xen().set_param(HvmParam::ConsoleGfn, 1), Errno::EPERM)
}

pub(super) fn a_port_can_be_written<E: Env>(env: &E) -> Outcome {
    let port = done("read", env.xen().get_param(HvmParam::ConsolePort))?;
    done("written", env.xen().set_param(HvmParam::ConsolePort, port))?;
    same("read again", done("read", env.xen().get_param(HvmParam::ConsolePort))?, port)
}

pub(super) fn a_device_models_parameter_is_eperm<E: Env>(env: &E) -> Outcome {
    // 5 and 6 are the device model's request pages.
    refused("read", env.xen().get_param(HvmParam::Other(5)), Errno::EPERM)?;
    refused("write", env.xen().set_param(HvmParam::Other(5), 0), Errno::EPERM)
}

pub(super) fn parameters_past_the_end_are_einval<E: Env>(env: &E) -> Outcome {
    refused("read", env.xen().get_param(HvmParam::Other(1000)), Errno::EINVAL)?;
    refused("write", env.xen().set_param(HvmParam::Other(1000), 0), Errno::EINVAL)
}

pub(super) fn an_exception_is_no_upcall_vector<E: Env>(env: &E) -> Outcome {
    // The typed call would not ask.
    let answer = own::set_upcall_vector(env, abi::LOWEST_UPCALL_VECTOR - 1);
    answers("vector 15", answer, Errno::EINVAL.to_rax())
}

pub(super) fn an_upcall_vector_of_no_vcpu_is_enoent<E: Env>(env: &E) -> Outcome {
    refused("vcpu 4095", env.xen().set_upcall_vector(VcpuId::new(4095), 0x50), Errno::ENOENT)
}

pub(super) fn devices_and_holes_look_alike<E: Env>(env: &E) -> Outcome {
    let apic = done("the local APIC", env.xen().frame_type(Gfn::new(0xF_EE00)))?;
    let hole = done("a hole", env.xen().frame_type(env.holes()))?;
    let ram = done("RAM", env.xen().frame_type(env.block()))?;
    holds("the local APIC", apic == FrameType::HoleOrDevice)?;
    holds("a hole", hole == FrameType::HoleOrDevice)?;
    holds("RAM", ram == FrameType::ReadWrite)
}

pub(super) fn a_structure_nowhere_faults<E: Env>(env: &E) -> Outcome {
    for command in [abi::GET_PARAM, abi::SET_PARAM, abi::GET_MEM_TYPE, abi::SET_EVTCHN_UPCALL_VECTOR] {
        let answer = own::nowhere(env, hypercall::HVM_OP, command);
        answers("a structure at no address", answer, Errno::EFAULT.to_rax())?;
    }
    Ok(())
}
