//! Where the pages come from: the accounts of domains, tmem's own free list, the host, and eviction.

use super::arena::{Arena, Piece, Region};
use super::{Data, Place, PoolNumber, State};
use crate::conformance::tmem::Fault;
use crate::model::host::Mfn;
use crate::model::p2m::Slot;
use crate::model::pages::{WORDS, word_at};
use ebb::port::PageKey;
use ebb::units::Gfn;
use std::hash::{DefaultHasher, Hasher};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use xen_abi::Errno;

/// Below this many frames Xen will not try a put: 1 MiB.
const PRE_CHECK_FRAMES: u64 = 256;
/// Evictions that may find nothing, before it gives up.
const FRUITLESS: u32 = 10;
/// The part of the host's memory that is kept for orders 1 to 8.
const RESERVE_FRACTION: u64 = 128;

/// What a page holds, in a word.
fn digest(page: NonNull<u8>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (0..WORDS).for_each(|index| hasher.write_u64(word_at(page, index).load(Ordering::Relaxed)));
    hasher.finish()
}

impl State {
    /// A frame of a domain that tmem may copy from or to.
    pub(super) fn tmem_frame(&mut self, domid: u16, frame: Gfn) -> Result<NonNull<u8>, Errno> {
        if domid != self.config.domid {
            let neighbour = self.tmem.neighbours.get_mut(&domid).ok_or(Errno::EFAULT)?;
            return neighbour.page(frame).ok_or(Errno::EFAULT);
        }
        self.touch(frame);
        if self.tmem.not_plain.contains(&frame.get()) {
            return Err(Errno::EFAULT);
        }
        match self.p2m.get(frame) {
            Slot::Ram(_) | Slot::Special(_) | Slot::Pinned(_) | Slot::GrantFrame(_) => {
                let page = self.pages.address(frame);
                if self.tmem_is_clean(frame, page) { Err(Errno::EFAULT) } else { Ok(page) }
            }
            Slot::SharedInfo => Ok(self.pages.private()),
            Slot::Hole
            | Slot::PopulateOnDemand
            | Slot::GrantMapping
            | Slot::ForeignMapping
            | Slot::Device => Err(Errno::EFAULT),
        }
    }

    /// Whether writes are logged and this frame was not written to since the toolstack looked last. The model sees a
    /// write by what it changes.
    fn tmem_is_clean(&self, frame: Gfn, page: NonNull<u8>) -> bool {
        let then = self.tmem.logged.as_ref().and_then(|logged| logged.get(frame.get() as usize));
        then.is_some_and(|then| *then == digest(page))
    }

    /// The toolstack has writes to RAM logged from now on, or looks again what was written; or it has enough.
    pub(super) fn tmem_log_dirty(&mut self, on: bool) {
        let pages = (0..self.pages.ram()).map(|frame| digest(self.pages.address(Gfn::new(frame))));
        self.tmem.logged = on.then(|| pages.collect());
    }

    /// What a domain is charged, and the most that it may be.
    fn tmem_account(&mut self, domid: u16) -> (&mut u64, u64) {
        if domid == self.config.domid {
            return (&mut self.charged, self.limit);
        }
        let neighbour = self.tmem.neighbours.get_mut(&domid).expect("model: a domain that there is");
        (&mut neighbour.charged, neighbour.limit)
    }

    /// The frames that Xen keeps for orders 1 to 8, where tmem is served.
    fn midsize_reserve(&self) -> u64 {
        if self.tmem.is_served() { self.host.most_free() / RESERVE_FRACTION } else { 0 }
    }

    /// What tmem could give back.
    pub(super) fn tmem_freeable(&self) -> u64 {
        self.tmem.free.len() as u64 + self.tmem.ephemeral_data + self.tmem.arena.pages()
    }

    /// Host memory, as Xen's allocator gives it where tmem may have absorbed it.
    pub(in crate::model) fn take_from_host(&mut self, caller: u16, order: u32) -> Option<Mfn> {
        let short = self.tmem.is_served() && self.host.free_frames() <= self.midsize_reserve();
        if short && (order == 0 || order >= 9) && self.tmem_freeable() > 0 {
            return if order == 0 { self.tmem_relinquish(caller) } else { None };
        }
        self.host.allocate(order)
    }

    fn tmem_relinquish(&mut self, caller: u16) -> Option<Mfn> {
        for _ in 0..FRUITLESS {
            if !self.tmem.free.is_empty() || !self.tmem_evict(caller) {
                break;
            }
        }
        self.tmem.free.pop()
    }

    /// The check before every put: is there a MiB, or can it be made?
    ///
    /// Xen's subtraction wraps when free memory is below the reserve, and finds plenty.
    pub(super) fn tmem_has_room(&mut self, caller: u16) -> bool {
        let mut fruitless = 0;
        while fruitless < FRUITLESS {
            let (free, reserve) = (self.host.free_frames(), self.midsize_reserve());
            let beyond =
                if self.tmem.is_sound() { free.saturating_sub(reserve) } else { free.wrapping_sub(reserve) };
            if (self.tmem.free.len() as u64).wrapping_add(beyond) >= PRE_CHECK_FRAMES {
                return true;
            }
            fruitless += u32::from(!self.tmem_evict(caller));
        }
        false
    }

    fn ephemeral_page(&mut self, caller: u16) -> Option<Mfn> {
        self.tmem.free.pop().or_else(|| self.take_from_host(caller, 0))
    }

    /// A page on a domain's account.
    fn persistent_page(&mut self, domid: u16) -> Option<Mfn> {
        let (charged, limit) = self.tmem_account(domid);
        if *charged >= limit {
            return None;
        }
        let mfn = self.ephemeral_page(domid)?;
        *self.tmem_account(domid).0 += 1;
        Some(mfn)
    }

    fn give_persistent_page(&mut self, domid: u16, mfn: Mfn) {
        *self.tmem_account(domid).0 -= 1;
        self.host.free(mfn);
    }

    pub(super) fn tmem_data_page(&mut self, pool: PoolNumber, caller: u16) -> Option<Mfn> {
        if self.tmem.take_fault(Fault::Data) {
            return None;
        }
        if self.tmem.pool(pool).persistent {
            let owner = self.tmem.pool(pool).owner;
            return self.persistent_page(owner);
        }
        let mfn = self.ephemeral_page(caller)?;
        self.tmem.ephemeral_data += 1;
        Some(mfn)
    }

    pub(super) fn tmem_give_data_page(&mut self, pool: PoolNumber, mfn: Mfn) {
        if self.tmem.pool(pool).persistent {
            let owner = self.tmem.pool(pool).owner;
            return self.give_persistent_page(owner, mfn);
        }
        self.tmem.ephemeral_data -= 1;
        self.tmem.free.push(mfn);
    }

    pub(super) fn tmem_give_data(&mut self, pool: PoolNumber, data: Data) {
        match data {
            Data::Whole { mfn, .. } => self.tmem_give_data_page(pool, mfn),
            Data::Packed { piece, .. } => self.tmem_give_piece(pool, piece),
            Data::Nothing => {}
        }
    }

    /// Where the metadata of a pool is.
    fn tmem_arena(&mut self, pool: PoolNumber) -> &mut Arena {
        if self.tmem.pool(pool).persistent { &mut self.tmem.owner(pool).arena } else { &mut self.tmem.arena }
    }

    /// Metadata, on the account of the caller if the pool is persistent.
    pub(super) fn tmem_piece(&mut self, pool: PoolNumber, caller: u16, bytes: u64) -> Option<Piece> {
        if self.tmem.take_fault(Fault::Metadata) {
            return None;
        }
        if let Some(piece) = self.tmem_arena(pool).take(bytes) {
            return Some(piece);
        }
        if Arena::is_too_large(bytes) {
            return None;
        }
        let charged = self.tmem.pool(pool).persistent.then_some(caller);
        let mfn = match charged {
            Some(domid) => self.persistent_page(domid)?,
            None => self.ephemeral_page(caller)?,
        };
        let arena = self.tmem_arena(pool);
        arena.add(Region { mfn, charged });
        arena.take(bytes)
    }

    pub(super) fn tmem_give_piece(&mut self, pool: PoolNumber, piece: Piece) {
        match self.tmem_arena(pool).give(piece) {
            Some(Region { mfn, charged: Some(domid) }) => self.give_persistent_page(domid, mfn),
            Some(Region { mfn, charged: None }) => self.tmem.free.push(mfn),
            None => {}
        }
    }

    /// Whether a client pays for itself. Xen's rule is the wrong way round: it is true of who has *less* than its share.
    fn is_over_quota(&self, domid: u16) -> bool {
        let Some(client) = self.tmem.clients.get(&domid) else { return false };
        let (own, weight) = (client.ephemeral.len() as u64, u64::from(client.weight));
        if self.tmem.total_weight == 0 || weight == 0 || own == 0 {
            return false;
        }
        self.tmem.ephemeral.len() as u64 * 100 / own > self.tmem.total_weight * 100 / weight
    }

    /// The client that is furthest above its share, where weights say what that is.
    fn most_over_share(&self) -> Option<u16> {
        let share = |(domid, client): (&u16, &super::Client)| {
            let own = client.ephemeral.len() as u64;
            (own > 0 && client.weight > 0).then(|| (own * 1000 / u64::from(client.weight), *domid))
        };
        self.tmem.clients.iter().filter_map(share).max().map(|(_, domid)| domid)
    }

    /// Takes the oldest ephemeral page away; answers whether there was one.
    pub(super) fn tmem_evict(&mut self, caller: u16) -> bool {
        let victim = match self.tmem.is_sound() {
            true => self.most_over_share(),
            false => self.is_over_quota(caller).then_some(caller),
        };
        let list = match victim.and_then(|domid| self.tmem.clients.get(&domid)) {
            Some(client) => &client.ephemeral,
            None => &self.tmem.ephemeral,
        };
        let free = |place: &&Place| {
            let spared = self.tmem.locked == Some((place.pool, place.object));
            let never =
                !self.tmem.is_sound() && self.tmem.pools.get(&place.pool).is_some_and(|pool| pool.dying);
            !spared && !never
        };
        let Some(Place { pool, object, index }) = list.values().find(free).copied() else { return false };
        self.tmem_remove(pool, PageKey { object, index });
        true
    }
}
