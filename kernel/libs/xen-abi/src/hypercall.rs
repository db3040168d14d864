//! Hypercall numbers (`rax`). Those that a PVH domU may call; any other answers `-ENOSYS` or `-EPERM`.
//!
//! Source: Xen `xen/include/public/xen.h`.

/// Reservation, guest frame map, memory map: [`crate::memory`].
pub const MEMORY_OP: u32 = xen_sys::__HYPERVISOR_memory_op;
/// Several calls in one: [`MulticallEntry`].
pub const MULTICALL: u32 = xen_sys::__HYPERVISOR_multicall;
/// The one-shot timer of the calling vCPU, in a register; 0 stops it.
pub const SET_TIMER_OP: u32 = xen_sys::__HYPERVISOR_set_timer_op;
/// Version and features: [`crate::version`].
pub const XEN_VERSION: u32 = xen_sys::__HYPERVISOR_xen_version;
/// Xen's own console; refused to a domU of a release build.
pub const CONSOLE_IO: u32 = xen_sys::__HYPERVISOR_console_io;
/// Grant tables.
pub const GRANT_TABLE_OP: u32 = xen_sys::__HYPERVISOR_grant_table_op;
/// vCPUs and their timers: [`crate::vcpu`].
pub const VCPU_OP: u32 = xen_sys::__HYPERVISOR_vcpu_op;
/// Scheduling and shutdown: [`crate::sched`].
pub const SCHED_OP: u32 = xen_sys::__HYPERVISOR_sched_op;
/// Event channels: [`crate::event`].
pub const EVENT_CHANNEL_OP: u32 = xen_sys::__HYPERVISOR_event_channel_op;
/// HVM parameters and services: [`crate::hvm`].
pub const HVM_OP: u32 = xen_sys::__HYPERVISOR_hvm_op;
/// Control of the host; `-EPERM` for a domU.
pub const SYSCTL: u32 = xen_sys::__HYPERVISOR_sysctl;
/// Control of domains; `-EPERM` for a domU.
pub const DOMCTL: u32 = xen_sys::__HYPERVISOR_domctl;
/// Transcendent memory: [`crate::tmem`]. Gone since Xen 4.13, where it answers `-ENOSYS`.
pub const TMEM_OP: u32 = xen_sys::__HYPERVISOR_tmem_op;

/// One call of a multicall list. Of what it held, only `result` means anything afterwards.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MulticallEntry {
    /// Hypercall number.
    pub op: u64,
    /// Out: what `rax` would have held.
    pub result: i64,
    /// The arguments.
    pub args: [u64; 6],
}

crate::layout!(MulticallEntry: 64 { op @ 0, result @ 8, args @ 16 });
crate::same_layout!(MulticallEntry, xen_sys::multicall_entry { op = op, result = result, args = args });
