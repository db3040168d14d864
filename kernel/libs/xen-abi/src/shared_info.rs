//! Offsets in the shared info page, and in each vCPU's part of it, for a 64-bit guest.
//!
//! Offsets, not structures: Xen writes the page while the guest reads it, so it is only ever accessed word by
//! word, atomically.
//!
//! Source: Xen `xen/include/public/xen.h`.

use core::mem::offset_of;
use xen_sys::{shared_info, vcpu_info, vcpu_time_info};

/// Bytes of the structure; the page beyond is unused.
pub const SIZE: usize = size_of::<shared_info>();

/// vCPUs whose [`vcpu`] part is in this page. Others must register a page of their own.
pub const LEGACY_VCPUS: u32 = xen_sys::XEN_LEGACY_MAX_VCPUS;

/// 64 words of pending bits, one bit per port.
pub const PENDING: usize = offset_of!(shared_info, evtchn_pending);
/// 64 words of mask bits, one bit per port.
pub const MASK: usize = offset_of!(shared_info, evtchn_mask);
/// Words in each of the two arrays.
pub const PORT_WORDS: usize = 64;

/// `u32`, odd while Xen writes the wall clock.
pub const WALL_CLOCK_VERSION: usize = offset_of!(shared_info, wc_version);
/// `u32`, low half of the Unix time at which system time began, in seconds.
pub const WALL_CLOCK_SECONDS: usize = offset_of!(shared_info, wc_sec);
/// `u32`, the nanoseconds of it.
pub const WALL_CLOCK_NANOSECONDS: usize = offset_of!(shared_info, wc_nsec);
/// `u32`, high half of the seconds.
pub const WALL_CLOCK_SECONDS_HIGH: usize = offset_of!(shared_info, wc_sec_hi);

/// Offsets in one vCPU's part, which is 64 bytes.
pub mod vcpu {
    use super::{offset_of, vcpu_info, vcpu_time_info};

    /// Bytes of one part; vCPU `n` has its own at `n * SIZE`.
    pub const SIZE: usize = size_of::<vcpu_info>();
    /// `u8`, not 0 while an upcall is due.
    pub const UPCALL_PENDING: usize = offset_of!(vcpu_info, evtchn_upcall_pending);
    /// `u8`, ignored for HVM guests, PVH included.
    pub const UPCALL_MASK: usize = offset_of!(vcpu_info, evtchn_upcall_mask);
    /// `u64`, which words of the pending array to look at.
    pub const PENDING_SELECTOR: usize = offset_of!(vcpu_info, evtchn_pending_sel);
    /// `u32`, odd while Xen writes the clock.
    pub const TIME_VERSION: usize = TIME + offset_of!(vcpu_time_info, version);
    /// `u64`, the TSC at the last update.
    pub const TSC_TIMESTAMP: usize = TIME + offset_of!(vcpu_time_info, tsc_timestamp);
    /// `u64`, system time in nanoseconds at the last update.
    pub const SYSTEM_TIME: usize = TIME + offset_of!(vcpu_time_info, system_time);
    /// `u32`, multiplier of TSC ticks, a fraction of 2^32.
    pub const TSC_TO_SYSTEM_MUL: usize = TIME + offset_of!(vcpu_time_info, tsc_to_system_mul);
    /// `i8`, shift of TSC ticks before the multiplication.
    pub const TSC_SHIFT: usize = TIME + offset_of!(vcpu_time_info, tsc_shift);
    /// `u8`, bit 0: the TSC is the same on every vCPU. Padding in the older header that `xen-sys` binds.
    pub const TIME_FLAGS: usize = TIME + offset_of!(vcpu_time_info, pad1);

    /// The clock.
    const TIME: usize = offset_of!(vcpu_info, time);

    /// Bit of [`TIME_FLAGS`]: the TSC is the same on every vCPU.
    pub const TIME_TSC_STABLE: u8 = 1;

    const _: () = {
        assert!(SIZE == 64, "size of vcpu_info");
        assert!(UPCALL_PENDING == 0 && UPCALL_MASK == 1 && PENDING_SELECTOR == 8, "event words");
        assert!(TIME_VERSION == 32 && TSC_TIMESTAMP == 40 && SYSTEM_TIME == 48, "clock, first half");
        assert!(TSC_TO_SYSTEM_MUL == 56 && TSC_SHIFT == 60 && TIME_FLAGS == 61, "clock, second half");
    };
}

const _: () = {
    assert!(SIZE == 3136, "size of shared_info");
    assert!(PENDING == 0x800 && MASK == 0xA00, "port bits");
    assert!(WALL_CLOCK_VERSION == 0xC00 && WALL_CLOCK_SECONDS == 0xC04, "wall clock");
    assert!(WALL_CLOCK_NANOSECONDS == 0xC08 && WALL_CLOCK_SECONDS_HIGH == 0xC0C, "wall clock");
    assert!(LEGACY_VCPUS as usize * vcpu::SIZE == PENDING, "the vCPU parts end where the port bits begin");
};
