//! Numbers that mean nothing, and calls of calls. Source: Xen `xen/arch/x86/hvm/hypercall.c`,
//! `xen/common/multicall.c`.
#![expect(unsafe_code, reason = "makes calls that no typed call makes")]

use super::check::{answers, refused, same};
use super::{Env, Outcome};
use ebb::xen::Transport;
use xen_abi::hypercall::{self as abi, MulticallEntry};
use xen_abi::{Errno, version};

fn call<E: Env>(env: &E, number: u32) -> i64 {
    // SAFETY: these numbers are unassigned, or for PV guests only; Xen answers before it looks at an argument.
    unsafe { env.xen().transport().call(number, [0; 5]) }
}

pub(super) fn an_unknown_number_is_enosys<E: Env>(env: &E) -> Outcome {
    for number in [63, 64, 1000, u32::MAX] {
        answers("a number that nobody has", call(env, number), Errno::ENOSYS.to_rax())?;
    }
    Ok(())
}

pub(super) fn a_pv_call_is_enosys<E: Env>(env: &E) -> Outcome {
    // set_gdt, the old sched_op, update_va_mapping, iret.
    for number in [2, 6, 14, 23] {
        answers("a call for PV guests", call(env, number), Errno::ENOSYS.to_rax())?;
    }
    Ok(())
}

pub(super) fn tmem_is_gone<E: Env>(env: &E) -> Outcome {
    refused("tmem_op", env.xen().probe_tmem(), Errno::ENOSYS)
}

pub(super) fn a_multicall_answers_each<E: Env>(env: &E) -> Outcome {
    let entry = |op: u32, command: u32| MulticallEntry {
        op: u64::from(op),
        result: 1,
        args: [u64::from(command), 0, 0, 0, 0, 0],
    };
    let mut list = [
        entry(abi::XEN_VERSION, version::PAGESIZE),
        entry(abi::TMEM_OP, 0),
        entry(abi::XEN_VERSION, version::PAGESIZE),
    ];
    let pointer = list.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: a list of three entries, two of which take no structure; the one between is answered before its
    // argument is looked at.
    let answer = unsafe { env.xen().transport().call(abi::MULTICALL, [pointer, 3, 0, 0, 0]) };
    answers("the list", answer, 0)?;
    same("the first", list[0].result.cast_unsigned(), 4096)?;
    answers("the second", list[1].result, Errno::ENOSYS.to_rax())?;
    same("the third", list[2].result.cast_unsigned(), 4096)
}
