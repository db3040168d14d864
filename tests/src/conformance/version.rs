//! What the hypervisor says of itself. Source: Xen `xen/common/kernel.c`.
#![expect(unsafe_code, reason = "makes a call that no typed call makes")]

use super::check::{answers, done, holds, refused};
use super::own;
use super::{Env, Outcome};
use ebb::port::VersionOps;
use ebb::xen::Transport;
use xen_abi::{Errno, hypercall, version as abi};

pub(super) fn it_is_xen_4_or_later<E: Env>(env: &E) -> Outcome {
    let (major, _) = done("version", env.xen().version())?;
    holds("major version", major >= 4)
}

pub(super) fn the_extra_version_is_text<E: Env>(env: &E) -> Outcome {
    let mut buffer = [0xFF; 16];
    let text = done("extra_version", env.xen().extra_version(&mut buffer))?;
    holds("printable", text.iter().all(|byte| byte.is_ascii_graphic()))
}

pub(super) fn frames_are_translated<E: Env>(env: &E) -> Outcome {
    let features = done("features", env.xen().features(0))?;
    for bit in [
        abi::FEATURE_AUTO_TRANSLATED_PHYSMAP,
        abi::FEATURE_HVM_CALLBACK_VECTOR,
        abi::FEATURE_HVM_SAFE_PVCLOCK,
        abi::FEATURE_MEMORY_OP_VNODE_SUPPORTED,
    ] {
        holds("feature bits of PVH", features & 1 << bit != 0)?;
    }
    Ok(())
}

pub(super) fn unknown_features_are_einval<E: Env>(env: &E) -> Outcome {
    refused("submap 99", env.xen().features(99), Errno::EINVAL)
}

pub(super) fn pages_have_4096_bytes<E: Env>(env: &E) -> Outcome {
    let arguments = [u64::from(abi::PAGESIZE), 0, 0, 0, 0];
    // SAFETY: the command takes no structure and changes nothing.
    answers("page size", unsafe { env.xen().transport().call(hypercall::XEN_VERSION, arguments) }, 4096)
}

pub(super) fn a_structure_nowhere_faults<E: Env>(env: &E) -> Outcome {
    for command in [abi::EXTRAVERSION, abi::GET_FEATURES] {
        let answer = own::nowhere(env, hypercall::XEN_VERSION, command);
        answers("a structure at no address", answer, Errno::EFAULT.to_rax())?;
    }
    Ok(())
}

pub(super) fn an_unknown_command_is_enosys<E: Env>(env: &E) -> Outcome {
    answers("command 99", own::nowhere(env, hypercall::XEN_VERSION, 99), Errno::ENOSYS.to_rax())
}
