//! One value per CPU, each on cache lines of its own.
//!
//! Access needs a proof that the code stays where it is ([`Pinned`]), and the type of the proof decides what may be
//! done: with preemption off an interrupt handler can still come in between, so the value must be `Sync`; with
//! interrupts off nobody else on this CPU can, so any `Send` value will do.
#![expect(unsafe_code, reason = "values shared between a CPU's threads under a proof of exclusion")]

use crate::platform::{CpuId, Cpus, IrqOff, MAX_CPUS, Pinned};
use core::ops::Deref;

/// A value on cache lines of its own: 128 bytes, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CachePadded<T>(T);

impl<T> CachePadded<T> {
    /// The value, padded.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, to change.
    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Deref for CachePadded<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A `T` for each of [`MAX_CPUS`] CPUs.
///
/// ```
/// # use percpu::{PerCpu, CpuId, host::Machine, CpuPin};
/// # use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// static INTERRUPTS: PerCpu<AtomicU64> = PerCpu::new([const { AtomicU64::new(0) }; percpu::MAX_CPUS]);
///
/// let machine = Machine::new(2);
/// let _cpu = machine.enter(CpuId::BOOT);
/// let pin = CpuPin::new(machine);
/// INTERRUPTS.get(&pin).fetch_add(1, Relaxed);
/// assert_eq!(INTERRUPTS.iter().map(|count| count.load(Relaxed)).sum::<u64>(), 1);
/// ```
#[derive(Debug)]
pub struct PerCpu<T> {
    slots: [CachePadded<T>; MAX_CPUS],
}

// SAFETY: sharing the whole gives others either `&T` of any slot, where `T: Sync` is demanded by the method, or
// `&T` of one CPU's slot with interrupts off there, of one machine: then the references of different threads cannot overlap in
// time, the value merely moves between the threads of a CPU, which is what `Send` allows.
unsafe impl<T: Send> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// These values, by CPU number.
    #[must_use]
    pub const fn new(values: [T; MAX_CPUS]) -> Self {
        // An array of `T` becomes an array of padded `T` element by element; there is no `const` map.
        let mut slots = [const { core::mem::MaybeUninit::<CachePadded<T>>::uninit() }; MAX_CPUS];
        let values = core::mem::ManuallyDrop::new(values);
        let from = (&raw const values).cast::<T>();
        let mut index = 0;
        while index < MAX_CPUS {
            // SAFETY: `ManuallyDrop<[T; N]>` is laid out as the array, and the index is within it.
            let element = unsafe { from.add(index) };
            // SAFETY: each element is read once, and the array never drops.
            let value = unsafe { element.read() };
            slots[index] = core::mem::MaybeUninit::new(CachePadded::new(value));
            index += 1;
        }
        // SAFETY: every slot was written, and `MaybeUninit<U>` has the layout of `U`.
        let slots = unsafe { (&raw const slots).cast::<[CachePadded<T>; MAX_CPUS]>().read() };
        Self { slots }
    }

    /// This CPU's value, shared with the interrupt handlers of this CPU and with readers elsewhere.
    #[inline]
    pub fn get(&self, pin: &impl Pinned) -> &T
    where
        T: Sync,
    {
        self.slot(pin.cpu())
    }

    /// This CPU's value, shared with nobody: interrupts are off.
    ///
    /// # Safety
    ///
    /// Every access to this `PerCpu` is by CPUs of one and the same machine (in a kernel there is only one). And
    /// interrupts have been off since `irq` was made: whatever turned them off before it lives, too. Guards dropped in
    /// another order than the reverse turn them on too early, and nothing keeps safe code from that.
    #[inline]
    pub unsafe fn get_exclusive<'a, P: Cpus>(&'a self, irq: &'a IrqOff<P>) -> &'a T {
        self.slot(irq.cpu())
    }

    /// The value of any CPU, which goes on using it.
    #[inline]
    pub fn of(&self, cpu: CpuId) -> &T
    where
        T: Sync,
    {
        self.slot(cpu)
    }

    /// The values of all CPUs, which go on using them.
    pub fn iter(&self) -> impl Iterator<Item = &T>
    where
        T: Sync,
    {
        self.slots.iter().map(Deref::deref)
    }

    #[inline]
    fn slot(&self, cpu: CpuId) -> &T {
        &self.slots[cpu.get()]
    }
}
