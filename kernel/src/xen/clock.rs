//! The paravirtual clock: nanoseconds of Xen's system time from the time-stamp counter.
//!
//! Xen keeps, per vCPU, a moment of system time, the TSC at that moment and a scale; the guest does the rest
//! (Xen: `xen/include/public/xen.h`, `struct vcpu_time_info`). System time counts from the start of the host,
//! not of the guest. The wall clock at that start is in the shared-info page.
//!
//! Both are guarded by a version word that is odd while Xen writes and different afterwards. The readers retry
//! without a bound: Xen updates a vCPU's record while that vCPU is not running, or from the processor that it
//! runs on, so that a retry always meets a finished one. Never blocks, takes no lock, interrupt-safe.

use super::SharedPage;
use super::events::VcpuInfo;
use crate::port::Clock;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use xen_abi::shared_info::vcpu::{
    SYSTEM_TIME, TIME_FLAGS, TIME_TSC_STABLE, TIME_VERSION, TSC_SHIFT, TSC_TIMESTAMP, TSC_TO_SYSTEM_MUL,
};
use xen_abi::shared_info::{
    WALL_CLOCK_NANOSECONDS, WALL_CLOCK_SECONDS, WALL_CLOCK_SECONDS_HIGH, WALL_CLOCK_VERSION,
};

const NS_PER_SEC: u64 = 1_000_000_000;

/// Reads the time-stamp counter.
pub trait Tsc {
    /// The counter, not read before the loads that precede it in program order.
    fn read(&self) -> u64;
}

impl<F: Fn() -> u64> Tsc for F {
    fn read(&self) -> u64 {
        self()
    }
}

/// One consistent record of a vCPU's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeInfo {
    /// The TSC when the record was made.
    pub tsc_timestamp: u64,
    /// System time at that moment.
    pub system_time_ns: u64,
    /// Nanoseconds per (shifted) tick, as a fraction of 2^32.
    pub multiplier: u32,
    /// How far a tick count is shifted before it is scaled; negative is to the right.
    pub shift: i8,
    /// Whether all vCPUs see one TSC.
    pub stable: bool,
}

impl TimeInfo {
    /// A consistent copy of the record in the vCPU's part at `offset` of `page`.
    #[must_use]
    pub fn read(page: SharedPage, offset: usize) -> Self {
        consistent(page, offset + TIME_VERSION, || Self {
            tsc_timestamp: page.u64(offset + TSC_TIMESTAMP).load(Ordering::Relaxed),
            system_time_ns: page.u64(offset + SYSTEM_TIME).load(Ordering::Relaxed),
            multiplier: page.u32(offset + TSC_TO_SYSTEM_MUL).load(Ordering::Relaxed),
            shift: page.u8(offset + TSC_SHIFT).load(Ordering::Relaxed).cast_signed(),
            stable: page.u8(offset + TIME_FLAGS).load(Ordering::Relaxed) & TIME_TSC_STABLE != 0,
        })
    }

    /// System time when the counter shows `tsc`.
    ///
    /// Ticks are counted modulo 2^64: until Xen's first calibration after the guest's counter began near zero,
    /// the record lies *before* zero, at 2^64 minus something. (Taken for a time in the future, it stops the
    /// clock for up to a second; seen on Xen 4.17.) A counter that is behind the record, because the record is
    /// another processor's, counts as no time passed. A scale that makes no sense saturates.
    #[must_use]
    pub fn at(&self, tsc: u64) -> u64 {
        let passed = tsc.wrapping_sub(self.tsc_timestamp).cast_signed();
        let ticks = u128::from(passed.max(0).cast_unsigned());
        // 64 bits of ticks by at most 31 to the left, times 32 bits: 127 bits.
        let shift = u32::from(self.shift.unsigned_abs()).min(if self.shift < 0 { 127 } else { 31 });
        let shifted = if self.shift < 0 { ticks >> shift } else { ticks << shift };
        let passed = (shifted * u128::from(self.multiplier)) >> 32;
        self.system_time_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The counter's frequency by this record, in kHz, or `None` where there is no scale.
    #[must_use]
    pub fn tsc_khz(&self) -> Option<u64> {
        let shift = u32::from(self.shift.unsigned_abs()).min(63);
        let unshifted = u128::from(1_000_000u64) << 32;
        let numerator = if self.shift < 0 { unshifted << shift } else { unshifted >> shift };
        let khz = numerator.checked_div(u128::from(self.multiplier))?;
        u64::try_from(khz).ok()
    }
}

/// Runs `copy` until the version word at `version` was even and the same before and after.
fn consistent<R>(page: SharedPage, version: usize, copy: impl Fn() -> R) -> R {
    loop {
        let before = page.u32(version).load(Ordering::Acquire);
        if before.is_multiple_of(2) {
            let record = copy();
            fence(Ordering::Acquire);
            if page.u32(version).load(Ordering::Relaxed) == before {
                return record;
            }
        }
        core::hint::spin_loop();
    }
}

/// The largest time that anybody was told: shared by the clocks of all vCPUs.
#[derive(Debug, Default)]
pub struct Latest(AtomicU64);

impl Latest {
    /// Nothing told yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// `now_ns`, or what was told before if that is later.
    fn at_least(&self, now_ns: u64) -> u64 {
        self.0.fetch_max(now_ns, Ordering::AcqRel).max(now_ns)
    }
}

/// The clock of one vCPU.
///
/// Where Xen does not promise one TSC for all, time is kept from going backwards by `latest`, at the price of a
/// shared cache line.
#[derive(Clone, Copy, Debug)]
pub struct PvClock<'l, T> {
    page: SharedPage,
    offset: usize,
    tsc: T,
    latest: &'l Latest,
}

impl<'l, T: Tsc> PvClock<'l, T> {
    /// The clock of the vCPU whose part is `vcpu`. To be read on that vCPU.
    #[must_use]
    pub fn new(vcpu: &VcpuInfo, tsc: T, latest: &'l Latest) -> Self {
        let (page, offset) = vcpu.place();
        Self { page, offset, tsc, latest }
    }

    /// Xen's record as it is now.
    #[must_use]
    pub fn time_info(&self) -> TimeInfo {
        TimeInfo::read(self.page, self.offset)
    }
}

impl<T: Tsc> Clock for PvClock<'_, T> {
    fn now_ns(&self) -> u64 {
        // The counter is read inside the version check: a record that is replaced after it was copied, but
        // before the counter is read (a migration), belongs to another counter.
        let (info, tsc) = consistent(self.page, self.offset + TIME_VERSION, || {
            (TimeInfo::read(self.page, self.offset), self.tsc.read())
        });
        let now_ns = info.at(tsc);
        if info.stable { now_ns } else { self.latest.at_least(now_ns) }
    }
}

/// Nanoseconds since 1970 at system time 0, from the shared-info page; add the system time of now.
#[must_use]
pub fn wall_clock_base_ns(shared_info: SharedPage) -> u64 {
    let load = |offset| u64::from(shared_info.u32(offset).load(Ordering::Relaxed));
    let (seconds, nanoseconds) = consistent(shared_info, WALL_CLOCK_VERSION, || {
        (load(WALL_CLOCK_SECONDS_HIGH) << 32 | load(WALL_CLOCK_SECONDS), load(WALL_CLOCK_NANOSECONDS))
    });
    seconds.saturating_mul(NS_PER_SEC).saturating_add(nanoseconds)
}

/// Nanoseconds since 1970, by the host.
#[must_use]
pub fn wall_clock_ns(shared_info: SharedPage, clock: &impl Clock) -> u64 {
    wall_clock_base_ns(shared_info).saturating_add(clock.now_ns())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::VcpuId;
    use crate::xen::events::Channels;
    use core::cell::Cell;

    /// The part of vCPU 2, and its record by the fact that it begins 32 bytes in.
    const PART: usize = 64 * 2;
    const AT: usize = PART + 32;

    fn record(page: SharedPage, info: TimeInfo) {
        let version = page.u32(AT).load(Ordering::Relaxed);
        page.u32(AT).store(version + 1, Ordering::Release);
        page.u64(AT + 8).store(info.tsc_timestamp, Ordering::Release);
        page.u64(AT + 16).store(info.system_time_ns, Ordering::Release);
        page.u32(AT + 24).store(info.multiplier, Ordering::Release);
        page.u8(AT + 28).store(info.shift.cast_unsigned(), Ordering::Release);
        page.u8(AT + 29).store(u8::from(info.stable), Ordering::Release);
        page.u32(AT).store(version + 2, Ordering::Release);
    }

    /// 1 ns per tick.
    const PLAIN: TimeInfo =
        TimeInfo { tsc_timestamp: 1000, system_time_ns: 5_000, multiplier: 1 << 31, shift: 1, stable: true };

    fn vcpu(page: SharedPage) -> VcpuInfo {
        Channels::new(page).vcpu(VcpuId::new(2)).unwrap()
    }

    #[test]
    fn vectors() {
        // (tsc - timestamp) << 1 >> 1
        assert_eq!(PLAIN.at(1000), 5_000);
        assert_eq!(PLAIN.at(1123), 5_123);
        // A 3 GHz counter: 1/3 ns per tick.
        let fast = TimeInfo { multiplier: 0xAAAA_AAAB, shift: -1, ..PLAIN };
        assert_eq!(fast.at(1000 + 3_000_000_000), 5_000 + 1_000_000_000);
        // A 100 MHz counter: 10 ns per tick.
        let slow = TimeInfo { multiplier: 0xA000_0000, shift: 4, ..PLAIN };
        assert_eq!(slow.at(1000 + 7), 5_070);
        // The product of a year of ticks needs more than 64 bits.
        let year = 365 * 24 * 3600 * 3_000_000_000;
        assert_eq!(fast.at(1000 + year) / NS_PER_SEC, 365 * 24 * 3600);
        assert_eq!(fast.tsc_khz(), Some(2_999_999));
        assert_eq!(slow.tsc_khz(), Some(100_000));
        assert_eq!(TimeInfo { multiplier: 0, ..PLAIN }.tsc_khz(), None);
    }

    #[test]
    fn a_record_from_before_the_counters_zero_counts_on() {
        let info = TimeInfo { tsc_timestamp: 0_u64.wrapping_sub(400), ..PLAIN };
        assert_eq!(info.at(0), 5_400);
        assert_eq!(info.at(1_000), 6_400);
    }

    #[test]
    fn nonsense_saturates() {
        for shift in [i8::MIN, -65, -1, 0, 1, 32, 64, i8::MAX] {
            let info = TimeInfo { multiplier: u32::MAX, shift, ..PLAIN };
            assert!(info.at(u64::MAX >> 1) >= PLAIN.system_time_ns);
            assert_eq!(info.at(0), PLAIN.system_time_ns, "a counter behind the record");
        }
    }

    #[test]
    fn the_clock_reads_its_own_vcpu() {
        let page = SharedPage::leaked();
        record(page, PLAIN);
        let latest = Latest::new();
        let clock = PvClock::new(&vcpu(page), || 1_500, &latest);
        assert_eq!(clock.now_ns(), 5_500);
        assert_eq!(clock.time_info(), PLAIN);
    }

    #[test]
    fn an_unstable_clock_does_not_go_backwards() {
        let page = SharedPage::leaked();
        record(page, TimeInfo { stable: false, ..PLAIN });
        let latest = Latest::new();
        let tsc = Cell::new(2_000);
        let clock = PvClock::new(&vcpu(page), || tsc.get(), &latest);
        assert_eq!(clock.now_ns(), 6_000);
        tsc.set(1_400);
        assert_eq!(clock.now_ns(), 6_000);
        tsc.set(2_001);
        assert_eq!(clock.now_ns(), 6_001);
    }

    #[test]
    fn a_record_replaced_while_it_is_read_is_read_again() {
        let page = SharedPage::leaked();
        record(page, PLAIN);
        let latest = Latest::new();
        let reads = Cell::new(0);
        let tsc = || {
            reads.set(reads.get() + 1);
            if reads.get() == 1 {
                record(page, TimeInfo { tsc_timestamp: 10, system_time_ns: 9_000, ..PLAIN });
            }
            15
        };
        // The first record with the second counter would give 5000.
        assert_eq!(PvClock::new(&vcpu(page), tsc, &latest).now_ns(), 9_005);
        assert_eq!(reads.get(), 2);
    }

    #[test]
    fn a_reader_never_sees_half_a_record() {
        // As `record`, with time to look in between.
        let slowly = |page: SharedPage, info: TimeInfo| {
            let version = page.u32(AT).load(Ordering::Relaxed);
            page.u32(AT).store(version + 1, Ordering::Release);
            page.u64(AT + 8).store(info.tsc_timestamp, Ordering::Release);
            std::thread::yield_now();
            page.u64(AT + 16).store(info.system_time_ns, Ordering::Release);
            page.u32(AT).store(version + 2, Ordering::Release);
        };
        let page = SharedPage::leaked();
        record(page, PLAIN);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..400u64 {
                    slowly(page, TimeInfo { tsc_timestamp: n, system_time_ns: n * 3, ..PLAIN });
                }
            });
            while !writer.is_finished() {
                let info = TimeInfo::read(page, PART);
                assert!(info == PLAIN || info.system_time_ns == info.tsc_timestamp * 3);
            }
        });
    }

    #[test]
    fn the_wall_clock_is_its_base_and_system_time() {
        let page = SharedPage::leaked();
        page.u32(WALL_CLOCK_VERSION).store(2, Ordering::Relaxed);
        page.u32(WALL_CLOCK_SECONDS).store(1_700_000_000, Ordering::Relaxed);
        page.u32(WALL_CLOCK_NANOSECONDS).store(250, Ordering::Relaxed);
        record(page, PLAIN);
        let latest = Latest::new();
        let clock = PvClock::new(&vcpu(page), || 1_000, &latest);
        assert_eq!(wall_clock_ns(page, &clock), 1_700_000_000_000_005_250);
        page.u32(WALL_CLOCK_SECONDS_HIGH).store(1, Ordering::Relaxed);
        assert_eq!(wall_clock_base_ns(page), 5_994_967_296_000_000_250);
        page.u32(WALL_CLOCK_SECONDS_HIGH).store(u32::MAX, Ordering::Relaxed);
        assert_eq!(wall_clock_base_ns(page), u64::MAX, "saturates");
    }
}
