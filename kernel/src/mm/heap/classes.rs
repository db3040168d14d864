//! Size classes in front of the hole list: free objects of 16 to 2048 bytes, a list for each power of two.
//!
//! They exist because of a measurement: among 1024 live objects of 16 to 512 bytes the hole list takes about a
//! microsecond for a pair of calls, among 16384 about 37; with classes it is 16 and 35 nanoseconds. An object
//! is cut out of a chunk that the hole list gave, and is aligned to its size; freed, it waits in its class's list.
//! When nothing else is left, the lists are emptied into the hole list, which joins the pieces again.

use core::alloc::Layout;
use core::ptr::NonNull;

/// Classes of 16, 32, … 2048 bytes.
const CLASSES: usize = 8;
const SMALLEST: usize = 16;

/// A free object: its first word links it to the next.
struct Free {
    next: Option<NonNull<Free>>,
}

/// Free objects by class.
pub(super) struct Classes {
    free: [Option<NonNull<Free>>; CLASSES],
    /// Bytes in the lists.
    idle: usize,
}

// SAFETY: the lists own the memory of their objects; nothing about it belongs to a thread.
unsafe impl Send for Classes {}

impl Classes {
    pub(super) const fn new() -> Self {
        Self { free: [None; CLASSES], idle: 0 }
    }

    /// Bytes in the lists.
    pub(super) const fn idle(&self) -> usize {
        self.idle
    }

    /// The class that serves a layout, if it is small enough.
    pub(super) fn class_of(layout: Layout) -> Option<usize> {
        let size = layout.size().max(layout.align()).max(SMALLEST);
        let class = (size.next_power_of_two() / SMALLEST).trailing_zeros() as usize;
        (size <= SMALLEST << (CLASSES - 1)).then_some(class)
    }

    /// An object of a class.
    pub(super) const fn object(class: usize) -> Layout {
        match Layout::from_size_align(SMALLEST << class, SMALLEST << class) {
            Ok(layout) => layout,
            Err(_) => unreachable!(),
        }
    }

    /// What to cut objects of a class out of: a page, or eight objects if that is more.
    pub(super) fn chunk(class: usize) -> Layout {
        let size = (SMALLEST << class) * 8;
        let object = Self::object(class);
        Layout::from_size_align(size.max(4096), object.align()).unwrap_or(object)
    }

    /// Takes an object.
    pub(super) fn pop(&mut self, class: usize) -> Option<NonNull<u8>> {
        let object = self.free[class]?;
        // SAFETY: objects in a list are memory that the list alone uses, aligned to 16 or more, with a valid `Free`
        // at the start, which `push` wrote.
        self.free[class] = unsafe { object.as_ref() }.next;
        self.idle -= SMALLEST << class;
        Some(object.cast())
    }

    /// Puts an object into its list.
    ///
    /// # Safety
    ///
    /// `object` has the size and alignment of the class, came from the heap, and nobody uses it.
    pub(super) unsafe fn push(&mut self, class: usize, object: NonNull<u8>) {
        let object = object.cast::<Free>();
        // SAFETY: by this function's contract the memory is large and aligned enough for a `Free`, and unused.
        unsafe { object.write(Free { next: self.free[class] }) };
        self.free[class] = Some(object);
        self.idle += SMALLEST << class;
    }

    /// Takes any object: itself and its class.
    pub(super) fn pop_any(&mut self) -> Option<(NonNull<u8>, usize)> {
        (0..CLASSES).find_map(|class| Some((self.pop(class)?, class)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_find_the_class_that_fits_size_and_alignment() {
        let class = |size, align| Classes::class_of(Layout::from_size_align(size, align).unwrap());
        assert_eq!(class(1, 1), Some(0));
        assert_eq!(class(16, 8), Some(0));
        assert_eq!(class(17, 8), Some(1));
        assert_eq!(class(8, 256), Some(4));
        assert_eq!(class(2048, 8), Some(7));
        assert_eq!(class(2049, 8), None);
        assert_eq!(class(8, 4096), None);
        assert_eq!(class(isize::MAX as usize - 7, 8), None);
        for class in 0..CLASSES {
            assert_eq!(Classes::chunk(class).size() % Classes::object(class).size(), 0);
            assert_eq!(Classes::class_of(Classes::object(class)), Some(class));
        }
    }
}
