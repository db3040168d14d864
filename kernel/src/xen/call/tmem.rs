//! Transcendent memory. The call has no command register: its one argument is the structure.

use crate::port::{PageKey, PoolId, PoolKind, TmemOps};
use crate::units::Gfn;
use crate::xen::{Transport, Xen};
use core::sync::atomic::{Ordering, fence};
use xen_abi::tmem::{self, NewPool, PageOp};
use xen_abi::{Errno, hypercall};

impl<T: Transport> Xen<T> {
    /// Asks whether Xen serves tmem, without making it do anything.
    ///
    /// # Errors
    ///
    /// `ENOSYS` if this Xen has no tmem (4.13 and later, and builds without it), `ENODEV` if it is switched off,
    /// whatever else Xen says.
    pub fn probe_tmem(&self) -> Result<(), Errno> {
        let mut op = PageOp { cmd: tmem::CONTROL, ..PageOp::default() };
        // SAFETY: Xen refuses this command before it looks at more than the structure.
        match unsafe { self.tmem(&mut op) } {
            Ok(_) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// # Safety
    ///
    /// `A` is one of the two forms of the structure, with the command of that form, and the frame of a command that
    /// copies is as [`TmemOps`] wants it.
    unsafe fn tmem<A>(&self, op: &mut A) -> Result<u64, Errno> {
        const { assert!(size_of::<A>() == tmem::OP_SIZE) };
        let pointer = core::ptr::from_mut(op).expose_provenance() as u64;
        // SAFETY: the structure is readable until the call returns; the rest our caller promised.
        unsafe { self.raw(hypercall::TMEM_OP, [pointer, 0, 0, 0, 0]) }
    }

    fn flush(&self, cmd: u32, pool: PoolId, key: PageKey) -> Result<u64, Errno> {
        let mut op = of_page(cmd, pool, key);
        // SAFETY: a flush copies nothing.
        unsafe { self.tmem(&mut op) }
    }
}

fn of_page(cmd: u32, pool: PoolId, key: PageKey) -> PageOp {
    PageOp { cmd, pool_id: pool.get(), oid: key.object, index: key.index, ..PageOp::default() }
}

// SAFETY: Xen copies one page from or to the frame that it is given, and touches no other memory of the guest.
unsafe impl<T: Transport> TmemOps for Xen<T> {
    fn new_pool(&self, kind: PoolKind) -> Result<PoolId, Errno> {
        let uuid = match kind {
            PoolKind::Persistent | PoolKind::Ephemeral => [0; 2],
            PoolKind::Shared { uuid } => uuid,
        };
        let mut op = NewPool { cmd: tmem::NEW_POOL, uuid, flags: kind.flags(), ..NewPool::default() };
        // SAFETY: the form of this command, which copies nothing.
        let id = unsafe { self.tmem(&mut op) }?;
        // An id beyond what an `i32` holds is not one that the other commands could name.
        i32::try_from(id).map(PoolId::new).map_err(|_| Errno::EIO)
    }

    fn destroy_pool(&self, pool: PoolId) -> Result<u64, Errno> {
        let mut op = PageOp { cmd: tmem::DESTROY_POOL, pool_id: pool.get(), ..PageOp::default() };
        // SAFETY: the form of this command, which copies nothing.
        unsafe { self.tmem(&mut op) }
    }

    unsafe fn put(&self, pool: PoolId, key: PageKey, from: Gfn) -> Result<u64, Errno> {
        let mut op = PageOp { cmfn: from.get(), ..of_page(tmem::PUT_PAGE, pool, key) };
        // What other processors wrote to the page is there before Xen reads it (Linux: a full barrier before each
        // put and none around a get; Xen has its own on both).
        fence(Ordering::SeqCst);
        // SAFETY: the form of this command; the frame is as our caller promised.
        unsafe { self.tmem(&mut op) }
    }

    unsafe fn get(&self, pool: PoolId, key: PageKey, into: Gfn) -> Result<u64, Errno> {
        let mut op = PageOp { cmfn: into.get(), ..of_page(tmem::GET_PAGE, pool, key) };
        // SAFETY: as above.
        unsafe { self.tmem(&mut op) }
    }

    fn flush_page(&self, pool: PoolId, key: PageKey) -> Result<u64, Errno> {
        self.flush(tmem::FLUSH_PAGE, pool, key)
    }

    fn flush_object(&self, pool: PoolId, object: [u64; 3]) -> Result<u64, Errno> {
        self.flush(tmem::FLUSH_OBJECT, pool, PageKey { object, index: 0 })
    }
}
