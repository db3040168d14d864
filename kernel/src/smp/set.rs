//! Sets of CPUs.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use percpu::{CpuId, MAX_CPUS};

const _: () = assert!(MAX_CPUS <= u32::BITS as usize, "a set of CPUs is a word of 32 bits");

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet(u32);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self(0);

    /// This CPU alone.
    #[must_use]
    pub const fn only(cpu: CpuId) -> Self {
        Self(1 << cpu.get())
    }

    /// The set with `cpu` in it.
    #[must_use]
    pub const fn with(self, cpu: CpuId) -> Self {
        Self(self.0 | Self::only(cpu).0)
    }

    /// The set without `cpu`.
    #[must_use]
    pub const fn without(self, cpu: CpuId) -> Self {
        Self(self.0 & !Self::only(cpu).0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `cpu` is in it.
    #[must_use]
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 & Self::only(cpu).0 != 0
    }

    /// How many there are.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The CPUs, lowest first.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        CpuId::first(MAX_CPUS).filter(move |cpu| self.contains(*cpu))
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        cpus.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// The names of the CPUs, `cpu1 cpu3`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no CPU");
        }
        self.iter().enumerate().try_for_each(|(number, cpu)| {
            f.write_str(if number == 0 { "" } else { " " })?;
            write!(f, "{cpu}")
        })
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of CPUs that all of them change. Every operation is one atomic step in one order for all (sequentially
/// consistent). Interrupt-safe, never blocks.
#[derive(Debug, Default)]
pub struct SharedCpuSet(AtomicU32);

impl SharedCpuSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Adds a CPU, and answers whether it is new.
    pub fn insert(&self, cpu: CpuId) -> bool {
        let bit = CpuSet::only(cpu).0;
        self.0.fetch_or(bit, Ordering::SeqCst) & bit == 0
    }

    /// Removes a CPU, and answers whether it was there.
    pub fn remove(&self, cpu: CpuId) -> bool {
        let bit = CpuSet::only(cpu).0;
        self.0.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Replaces the whole set.
    pub fn set(&self, cpus: CpuSet) {
        self.0.store(cpus.0, Ordering::SeqCst);
    }

    /// The set as it is now.
    #[must_use]
    pub fn get(&self) -> CpuSet {
        CpuSet(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    fn cpu(number: usize) -> CpuId {
        CpuId::new(number).unwrap()
    }

    #[test]
    fn a_set_has_what_was_added_and_not_removed() {
        let set: CpuSet = CpuId::first(MAX_CPUS).collect();
        assert_eq!(set.len(), MAX_CPUS);
        assert!(set.contains(cpu(MAX_CPUS - 1)));
        let set = set.without(cpu(3)).minus(CpuSet::only(cpu(0)).with(cpu(5)));
        assert_eq!(set.len(), MAX_CPUS - 3);
        assert!(!set.contains(cpu(3)) && !set.contains(cpu(0)) && set.contains(cpu(1)));
        assert_eq!(set.iter().next(), Some(cpu(1)));
        assert!(CpuSet::EMPTY.is_empty());
    }

    #[test]
    fn a_set_names_its_cpus() {
        assert_eq!(format!("{}", CpuSet::only(cpu(1)).with(cpu(31))), "cpu1 cpu31");
        assert_eq!(format!("{:?}", CpuSet::EMPTY), "no CPU");
    }

    #[test]
    fn one_of_many_removes() {
        let set = SharedCpuSet::new();
        assert!(set.insert(cpu(7)));
        assert!(!set.insert(cpu(7)));
        let removed = std::thread::scope(|scope| {
            let tries: std::vec::Vec<_> = (0..4).map(|_| scope.spawn(|| set.remove(cpu(7)))).collect();
            tries.into_iter().filter(|_| true).map(|t| t.join().unwrap()).filter(|removed| *removed).count()
        });
        assert_eq!(removed, 1);
        assert!(set.get().is_empty());
    }
}
