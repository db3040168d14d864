//! Memory: the frame table and its allocator, and the kernel heap.
//!
//! Lowest first: [`frame`] owns every page frame that the guest may ever have; [`heap`] turns pinned frames into
//! bytes for the kernel's own structures. Both are values over memory that the caller supplies, so a test can
//! make ten of them.

pub mod frame;
pub mod heap;
