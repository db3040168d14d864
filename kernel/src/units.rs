//! Frames, addresses, sizes and identifiers, each a type of its own.
//!
//! A balloon's classic bug is a count of frames taken for a count of KiB, or a frame number for an address.
//! Here the compiler refuses both. Arithmetic that can overflow on hostile input is checked and returns
//! `Option`; the operators panic on overflow, because then an invariant of ours is broken.

mod range;

pub(crate) use range::ADDRESS_LIMIT;
pub use range::FrameRange;

use core::fmt;
use core::ops::{Add, AddAssign, Sub, SubAssign};

/// log2 of [`FRAME_SIZE`].
pub const FRAME_SHIFT: u32 = 12;
/// Bytes in a frame.
pub const FRAME_SIZE: usize = 1 << FRAME_SHIFT;
/// Frames in a 2 MiB block.
pub const BLOCK_FRAMES: u64 = Order::BLOCK.frames().get();
/// Bytes in a 2 MiB block.
pub const BLOCK_SIZE: usize = FRAME_SIZE << Order::BLOCK.get();

/// A guest frame number: a guest-physical address divided by 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Gfn(u64);

impl Gfn {
    /// The frame with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame that holds `address`.
    #[must_use]
    pub const fn containing(address: PhysAddr) -> Self {
        Self(address.get() >> FRAME_SHIFT)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Where the frame begins.
    ///
    /// # Panics
    ///
    /// For a number of 2^52 or more, which no x86 machine can address.
    #[must_use]
    pub const fn start(self) -> PhysAddr {
        assert!(self.0 < 1 << (64 - FRAME_SHIFT), "frame number beyond the address space");
        PhysAddr::new(self.0 << FRAME_SHIFT)
    }

    /// Whether the frame is the first of an aligned extent of `order`.
    #[must_use]
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0.is_multiple_of(order.frames().get())
    }

    /// The frame `count` further on, or `None` past the end of the number space.
    #[must_use]
    pub const fn checked_add(self, count: Frames) -> Option<Self> {
        match self.0.checked_add(count.get()) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl Add<Frames> for Gfn {
    type Output = Self;
    fn add(self, count: Frames) -> Self {
        Self(self.0 + count.get())
    }
}

impl Sub for Gfn {
    type Output = Frames;
    fn sub(self, from: Self) -> Frames {
        Frames::new(self.0 - from.0)
    }
}

impl fmt::Debug for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gfn {:#x}", self.0)
    }
}

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A guest-physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// The address with this value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on, or `None` past 2^64.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys {:#x}", self.0)
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A number of 4 KiB frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Frames(u64);

impl Frames {
    /// None at all.
    pub const ZERO: Self = Self(0);

    /// This many frames.
    #[must_use]
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// How many whole frames fit in `size`.
    #[must_use]
    pub const fn from_kib_floor(size: Kib) -> Self {
        Self(size.get() / 4)
    }

    /// The count.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The same amount in KiB.
    #[must_use]
    pub const fn to_kib(self) -> Kib {
        Kib::new(self.0 * 4)
    }

    /// The difference, or zero where `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Frames {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Frames {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Frames {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl SubAssign for Frames {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames", self.0)
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A size in KiB, the unit of the toolstack's memory nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Kib(u64);

impl Kib {
    /// This many KiB.
    #[must_use]
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// The count.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Kib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.0)
    }
}

impl fmt::Display for Kib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// log2 of an extent's size in frames: 0 is a frame, 9 a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Order(u8);

impl Order {
    /// One 4 KiB frame.
    pub const FRAME: Self = Self(0);
    /// One 2 MiB block, the largest extent that Xen takes from an ordinary domU.
    pub const BLOCK: Self = Self(9);
    /// The largest order that this type holds: 1 GiB, far above what Xen takes from a domU.
    pub const MAX: Self = Self(18);

    /// The order, or `None` above [`Order::MAX`].
    #[must_use]
    pub const fn new(order: u8) -> Option<Self> {
        if order <= Self::MAX.0 { Some(Self(order)) } else { None }
    }

    /// The exponent.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Frames in one extent.
    #[must_use]
    pub const fn frames(self) -> Frames {
        Frames::new(1 << self.0)
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($inner:ty), $shown:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name($inner);

        impl $name {
            /// The identifier with this number.
            #[must_use]
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($shown, " {}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

identifier!(
    /// A domain.
    DomId(u16),
    "domain"
);
identifier!(
    /// An event-channel port of this domain. Port 0 is never valid.
    EventPort(u32),
    "port"
);
identifier!(
    /// A virtual CPU of this domain.
    VcpuId(u32),
    "vcpu"
);

impl DomId {
    /// The calling domain, whatever its number.
    pub const SELF: Self = Self(0x7FF0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_two_mebibytes() {
        assert_eq!(Order::BLOCK.frames().to_kib(), Kib::new(2048));
        assert_eq!(BLOCK_SIZE, 2 << 20);
        assert!(Gfn::new(1024).is_aligned(Order::BLOCK));
        assert!(!Gfn::new(1025).is_aligned(Order::BLOCK));
    }

    #[test]
    fn orders_are_bounded() {
        assert_eq!(Order::new(18), Some(Order::MAX));
        assert_eq!(Order::new(19), None);
    }

    #[test]
    #[should_panic(expected = "overflow")]
    fn an_underflow_is_not_a_count() {
        let _ = Frames::new(1) - Frames::new(2);
    }

    #[test]
    fn kib_round_down_to_frames() {
        assert_eq!(Frames::from_kib_floor(Kib::new(7)), Frames::new(1));
        assert_eq!(Frames::new(3).to_kib(), Kib::new(12));
    }
}
