//! Memory: the frame table and its allocator, the kernel heap, and paged memory.
//!
//! Lowest first: [`frame`] owns every page frame that the guest may ever have; [`heap`] turns pinned frames into
//! bytes for the kernel's own structures; [`paged`] holds the application's bulk data in frames that can be moved. All
//! are values over memory that the caller supplies, so a test can make ten of them. [`exchange`] trades frames for
//! holes with the hypervisor and back; [`direct_map`] is what it asks of the page tables. A [`page`] is a frame
//! lent to who copies it away or fills it; [`pool_frames`] gives frames with their bytes to who stores things in them.
//! [`sparse`] is for books that grow with what is in use.

pub mod direct_map;
pub mod exchange;
pub mod frame;
pub mod heap;
pub mod page;
pub mod paged;
pub mod pool_frames;
pub mod sparse;
