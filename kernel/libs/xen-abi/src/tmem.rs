//! `tmem_op`: transcendent memory, in Xen 4.0 to 4.12. Since 4.13 the number is reserved and answers `-ENOSYS`.
//!
//! One argument: the linear address of a structure of 56 bytes, read once and never written. It has two forms, one for
//! making a pool and one for everything else, which share the first two fields.
//!
//! Source: Xen 4.12 `xen/include/public/tmem.h`.

use crate::Errno;

/// Bytes of the argument structure of a 64-bit guest.
pub const OP_SIZE: usize = 56;

/// Command: once the privileged controls. Xen refuses it before it does anything else with it, with
/// `-EOPNOTSUPP` where tmem is served and `-ENODEV` where it is switched off: a probe without side effects.
pub const CONTROL: u32 = 0;
/// Command: makes a pool. Answers its id, which may be 0.
pub const NEW_POOL: u32 = 1;
/// Command: destroys a pool. Answers 1, or 0 if there is none of this id.
pub const DESTROY_POOL: u32 = 2;
/// Command: stores a page. Answers 1.
pub const PUT_PAGE: u32 = 4;
/// Command: fetches a page. Answers 1, or 0 if it is not there.
pub const GET_PAGE: u32 = 5;
/// Command: forgets a page. Answers 1, also if it is not there.
pub const FLUSH_PAGE: u32 = 6;
/// Command: forgets all pages of an object. Answers 1, also if there are none.
pub const FLUSH_OBJECT: u32 = 7;
/// Command: once authorisation; refused as [`CONTROL`] is.
pub const AUTH: u32 = 101;
/// Command: once restoring; refused as [`CONTROL`] is.
pub const RESTORE_NEW: u32 = 102;

/// Flag of a pool: its pages stay until they are flushed.
pub const POOL_PERSISTENT: u32 = 1 << 0;
/// Flag of a pool: other domains may have it too.
pub const POOL_SHARED: u32 = 1 << 1;
/// Flag of a pool: pages are compressed already. Always refused.
pub const POOL_PRECOMPRESSED: u32 = 1 << 2;
/// Where log2 of the page size, less 12, is in the flags. Must be 0.
pub const POOL_PAGE_SIZE_SHIFT: u32 = 4;
/// Bits of the flags that are not assigned, and must be 0.
pub const POOL_RESERVED: u32 = 0x00FF_FF00;
/// Where the version is in the flags.
pub const POOL_VERSION_SHIFT: u32 = 24;
/// The version: object ids of 192 bits.
pub const VERSION: u32 = 1;

/// Pools that a domain can have.
pub const MAX_POOLS: u32 = 16;
/// Shared pools that a host can have, and uuids that a domain can be authorised for.
pub const MAX_SHARED_POOLS: u32 = 16;

/// The client is frozen. A flush that answers this has been carried out.
pub const EFROZEN: Errno = Errno::new(1000);
/// The pool has no pages at all.
pub const EEMPTY: Errno = Errno::new(1001);

/// The argument of [`NEW_POOL`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct NewPool {
    /// [`NEW_POOL`].
    pub cmd: u32,
    /// Ignored.
    pub pool_id: i32,
    /// Low and high half of a shared pool's name.
    pub uuid: [u64; 2],
    /// What kind of pool.
    pub flags: u32,
    /// Ignored.
    pub arg1: u32,
    /// The rest of the structure; not read.
    pub rest: [u64; 3],
}

crate::layout!(NewPool: 56 { cmd @ 0, pool_id @ 4, uuid @ 8, flags @ 24, arg1 @ 28, rest @ 32 });

/// The argument of the other commands.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PageOp {
    /// Which.
    pub cmd: u32,
    /// In which pool.
    pub pool_id: i32,
    /// The object's name.
    pub oid: [u64; 3],
    /// Which page of the object.
    pub index: u32,
    /// Ignored since Xen 4.4, as the two that follow.
    pub tmem_offset: u32,
    /// See `tmem_offset`.
    pub pfn_offset: u32,
    /// See `tmem_offset`.
    pub len: u32,
    /// The guest's frame to copy from or to.
    pub cmfn: u64,
}

crate::layout!(PageOp: 56 {
    cmd @ 0, pool_id @ 4, oid @ 8, index @ 32, tmem_offset @ 36, pfn_offset @ 40, len @ 44, cmfn @ 48
});

const _: () = assert!(size_of::<NewPool>() == OP_SIZE && size_of::<PageOp>() == OP_SIZE);
