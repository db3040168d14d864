//! The hypercall: what is checked, in which order, and pools.
#![expect(unsafe_code, reason = "passes on the caller's promise about the address in the register")]

use super::{Client, Hazard, Pool, PoolNumber, SLOTS, Service, State, answer};
use ebb::port::PageKey;
use ebb::units::Gfn;
use std::collections::BTreeMap;
use std::vec::Vec;
use xen_abi::Errno;
use xen_abi::tmem::{self as abi, PageOp};

/// The second form of the structure, from the bytes of the first.
fn creation(op: PageOp) -> ([u64; 2], u32) {
    ([op.oid[0], op.oid[1]], op.oid[2] as u32)
}

impl State {
    /// The pool id that a call of the domain itself is about, before the call is made; `None` for one without.
    ///
    /// # Safety
    ///
    /// As `Transport::call`.
    pub(in crate::model) unsafe fn tmem_peek(&mut self, argument: u64) -> Option<usize> {
        if !self.tmem.is_served() {
            return None;
        }
        // SAFETY: the caller's promise.
        let op: PageOp = unsafe { self.copy_in(argument) }.ok()?;
        let pool = op.pool_id as usize;
        let about_pages =
            matches!(op.cmd, abi::PUT_PAGE | abi::GET_PAGE | abi::FLUSH_PAGE | abi::FLUSH_OBJECT);
        (about_pages && pool < SLOTS).then_some(pool)
    }

    /// A call on this pool id has begun (or, by `false`, has the lock now).
    pub(in crate::model) fn tmem_in_flight(&mut self, pool: usize, begins: bool) {
        let count = &mut self.tmem.in_flight[pool];
        *count = if begins { *count + 1 } else { *count - 1 };
    }

    /// `tmem_op` of domain `caller`.
    ///
    /// # Safety
    ///
    /// As `Transport::call`.
    pub(in crate::model) unsafe fn tmem_op(&mut self, caller: u16, argument: u64) -> Result<i64, Errno> {
        match self.tmem.service {
            Service::Absent => return Err(Errno::ENOSYS),
            Service::Disabled => return Err(Errno::ENODEV),
            Service::Denied => return Err(Errno::EPERM),
            Service::Xen412 | Service::Sound => {}
        }
        if self.tmem.clients.contains_key(&caller) && self.tmem.dying.contains(&caller) {
            return Err(Errno::ENODEV);
        }
        // SAFETY: the caller's promise.
        let op: PageOp = unsafe { self.copy_in(argument) }?;
        *self.tmem.calls.entry(op.cmd).or_default() += 1;
        if let abi::CONTROL | abi::AUTH | abi::RESTORE_NEW = op.cmd {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.tmem.clients.contains_key(&caller) {
            if self.tmem.in_flight.iter().any(|count| *count > 0) {
                self.tmem.hazards.push(Hazard::FirstCallsAtOnce);
            }
            self.tmem_create_client(caller);
        }
        match op.cmd {
            abi::NEW_POOL => {
                let (uuid, flags) = creation(op);
                return self.tmem_new_pool(caller, uuid, flags).map(|id| id as i64);
            }
            abi::DESTROY_POOL => return Ok(i64::from(self.tmem_destroy_pool(caller, op.pool_id as usize))),
            _ => {}
        }
        let pool = self.tmem_slot(caller, op.pool_id as u32 as usize)?;
        let key = PageKey { object: op.oid, index: op.index };
        let frame = Gfn::new(op.cmfn);
        match op.cmd {
            abi::PUT_PAGE => self.tmem_put(caller, pool, key, frame),
            abi::GET_PAGE => self.tmem_get(caller, pool, key, frame),
            abi::FLUSH_PAGE => {
                self.tmem_remove(pool, key);
                self.tmem_flushed(pool)
            }
            abi::FLUSH_OBJECT => {
                self.tmem_remove_object(pool, key.object);
                self.tmem_flushed(pool)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    pub(super) fn tmem_create_client(&mut self, domid: u16) -> &mut Client {
        let compress = self.tmem.compress;
        self.tmem.clients.entry(domid).or_insert_with(|| Client { compress, ..Client::default() })
    }

    /// The pool in a slot.
    pub(super) fn tmem_slot(&mut self, domid: u16, id: usize) -> Result<PoolNumber, Errno> {
        if self.tmem.dangling.contains(&(domid, id)) {
            self.tmem.hazards.push(Hazard::DanglingPool);
        }
        let slot = self.tmem.client(domid).slots.get(id).copied();
        slot.flatten().ok_or(Errno::ENODEV)
    }

    /// Flushes answer that the client is frozen, although they have been carried out.
    fn tmem_flushed(&mut self, pool: PoolNumber) -> Result<i64, Errno> {
        if self.tmem.owner(pool).frozen { Err(abi::EFROZEN) } else { Ok(1) }
    }

    /// Makes a pool; answers its id.
    pub(super) fn tmem_new_pool(&mut self, domid: u16, uuid: [u64; 2], flags: u32) -> Result<usize, Errno> {
        let (persistent, shared) = (flags & abi::POOL_PERSISTENT != 0, flags & abi::POOL_SHARED != 0);
        let page_size = flags >> abi::POOL_PAGE_SIZE_SHIFT & 0xF;
        let possible = flags >> abi::POOL_VERSION_SHIFT == abi::VERSION
            && !(persistent && shared)
            && page_size == 0
            && flags & abi::POOL_PRECOMPRESSED == 0
            && flags & abi::POOL_RESERVED == 0;
        let id = self.tmem.client(domid).slots.iter().position(Option::is_none);
        let id = id.filter(|_| possible).ok_or(Errno::EPERM)?;
        let number = match shared {
            true => self.tmem_shared_pool(domid, uuid, id)?,
            false => self.tmem_add_pool(domid, persistent, None),
        };
        self.tmem.dangling.remove(&(domid, id));
        self.tmem.client(domid).slots[id] = Some(number);
        Ok(id)
    }

    pub(super) fn tmem_add_pool(
        &mut self,
        owner: u16,
        persistent: bool,
        uuid: Option<[u64; 2]>,
    ) -> PoolNumber {
        let number = self.tmem.next_pool;
        self.tmem.next_pool += 1;
        let pool = Pool {
            persistent,
            uuid,
            owner,
            members: Vec::from([owner]),
            dying: false,
            objects: BTreeMap::new(),
            pages: 0,
            ages: BTreeMap::new(),
            cursor: None,
        };
        self.tmem.pools.insert(number, pool);
        number
    }

    /// Takes a pool from its slot; answers whether there was one.
    pub(super) fn tmem_destroy_pool(&mut self, domid: u16, id: usize) -> bool {
        let Some(number) = self.tmem.client(domid).slots.get_mut(id).and_then(Option::take) else {
            return false;
        };
        if domid == self.config.domid && self.tmem.in_flight[id] > 0 {
            self.tmem.hazards.push(Hazard::DestroyedInUse);
        }
        if self.tmem_leave(domid, number) {
            return true;
        }
        if self.tmem.owner(number).migrating {
            self.tmem.hazards.push(Hazard::DestroyedWhileMigrating);
            if !self.tmem.is_sound() {
                // Nobody can reach it any more; its pages stay until the domain is gone.
                return true;
            }
        }
        self.tmem_drop_pool(number);
        true
    }

    /// All pages of a pool, and the pool.
    pub(super) fn tmem_drop_pool(&mut self, number: PoolNumber) {
        let objects: Vec<_> = self.tmem.pool(number).objects.keys().copied().collect();
        for object in objects {
            self.tmem_remove_object(number, object);
        }
        self.tmem.pools.remove(&number);
        for slot in self.tmem.shared.iter_mut().filter(|slot| **slot == Some(number)) {
            *slot = None;
        }
    }

    /// One call of another domain.
    ///
    /// # Safety
    ///
    /// As `Transport::call`.
    pub(super) unsafe fn tmem_of_neighbour(&mut self, domid: u16, argument: u64) -> i64 {
        // SAFETY: the caller's promise.
        answer(unsafe { self.tmem_op(domid, argument) })
    }
}
