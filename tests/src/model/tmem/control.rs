//! What the toolstack could do to tmem, and what tests do to it.

use super::neighbour::{self, Neighbour, RAM_FRAMES};
use super::{Client, Data, Hazard, Place, PoolNumber, SLOTS, State};
use crate::conformance::tmem::{Answer, Control, Fault};
use crate::model::Model;
use ebb::port::PageKey;
use ebb::units::Frames;
use std::boxed::Box;
use std::vec::Vec;
use xen_abi::Errno;
use xen_abi::tmem as abi;

/// What a control operation answers where it knows no better error.
const NO: Errno = Errno::EPERM;

impl Model {
    /// Another domain of the host, made when it is first named.
    ///
    /// # Panics
    ///
    /// If it is the domain itself.
    #[must_use]
    pub fn neighbour(&self, domid: u16) -> Neighbour<'_> {
        let mut state = self.state();
        assert_ne!(domid, state.config.domid, "model: a neighbour is another domain");
        state.tmem_neighbour(domid);
        Neighbour::new(self, domid)
    }

    /// A control operation of the toolstack.
    pub fn tmem_control(&self, control: Control) -> Answer {
        self.state().tmem_control(control)
    }

    /// Something is going to fail in the next put that comes so far.
    pub fn tmem_fail(&self, fault: Fault) {
        self.state().tmem.faults.push_back(fault);
    }

    /// Whether a frame counts as plain RAM; not while writes to it are logged, or forbidden.
    pub fn tmem_set_plain(&self, frame: ebb::units::Gfn, plain: bool) {
        let set = &mut self.state().tmem.not_plain;
        let _ = if plain { set.remove(&frame.get()) } else { set.insert(frame.get()) };
    }

    /// The toolstack has the domain's writes logged, and looks what was written so far, as for a live migration; or it has
    /// enough. Frames that were not written to since are none that tmem may use.
    pub fn tmem_log_dirty(&self, on: bool) {
        self.state().tmem_log_dirty(on);
    }

    /// Evicts one ephemeral page; answers whether there was one.
    pub fn tmem_evict(&self) -> bool {
        let mut state = self.state();
        let own = state.config.domid;
        state.tmem_evict(own)
    }

    /// A domain begins to die: its calls are refused.
    pub fn tmem_doom(&self, domid: u16) {
        self.state().tmem.dying.insert(domid);
    }

    /// A domain is gone, as far as tmem is concerned.
    pub fn tmem_kill(&self, domid: u16) {
        self.state().tmem_kill(domid);
    }

    /// The service forgets everything, and starts again.
    pub fn tmem_restart(&self) {
        let mut state = self.state();
        let clients: Vec<_> = state.tmem.clients.keys().copied().collect();
        clients.into_iter().for_each(|domid| state.tmem_kill(domid));
        let free = std::mem::take(&mut state.tmem.free);
        free.into_iter().for_each(|mfn| state.host.free(mfn));
    }

    /// What a client did that would have corrupted Xen.
    #[must_use]
    pub fn tmem_hazards(&self) -> Vec<Hazard> {
        self.state().tmem.hazards.clone()
    }

    /// Pages that the domain has in tmem.
    #[must_use]
    pub fn tmem_pages(&self) -> u64 {
        let state = self.state();
        let own = state.config.domid;
        state.tmem.pools.values().filter(|pool| pool.members.contains(&own)).map(|pool| pool.pages).sum()
    }

    /// Those of them that may not vanish: in persistent pools.
    #[must_use]
    pub fn tmem_persistent_pages(&self) -> u64 {
        let state = self.state();
        let own = state.config.domid;
        let persistent = state.tmem.pools.values().filter(|pool| pool.persistent && pool.owner == own);
        persistent.map(|pool| pool.pages).sum()
    }

    /// Frames that the domain is charged for what it has in tmem, metadata included.
    #[must_use]
    pub fn tmem_charged(&self) -> Frames {
        let state = self.state();
        let own = state.config.domid;
        Frames::new(state.tmem.frames().filter(|(_, charged)| *charged == Some(own)).count() as u64)
    }

    /// How often a command was given, by any domain.
    #[must_use]
    pub fn tmem_calls(&self, command: u32) -> u64 {
        self.state().tmem.calls.get(&command).copied().unwrap_or(0)
    }
}

impl State {
    pub(super) fn tmem_neighbour(&mut self, domid: u16) {
        if self.tmem.neighbours.contains_key(&domid) {
            return;
        }
        let frame = |_| self.host.allocate(0).expect("model: the host has memory for a neighbour");
        let ram = (0..RAM_FRAMES).map(frame).collect();
        self.tmem.neighbours.insert(domid, neighbour::Domain::new(ram));
    }

    pub(super) fn tmem_kill(&mut self, domid: u16) {
        if !self.tmem.clients.contains_key(&domid) {
            return;
        }
        for id in 0..SLOTS {
            if let Some(number) = self.tmem.client(domid).slots[id].take()
                && !self.tmem_leave(domid, number)
            {
                self.tmem_drop_pool(number);
            }
        }
        // What was destroyed while it was being migrated.
        let lost: Vec<PoolNumber> = self
            .tmem
            .pools
            .iter()
            .filter(|(_, pool)| pool.owner == domid && pool.members.iter().all(|member| *member == domid))
            .map(|(number, _)| *number)
            .collect();
        lost.into_iter().for_each(|number| self.tmem_drop_pool(number));
        if let Some(client) = self.tmem.clients.remove(&domid)
            && self.tmem.is_sound()
        {
            // Xen forgets to.
            self.tmem.total_weight -= u64::from(client.weight);
        }
    }

    fn each_client(&mut self, which: Option<u16>, change: impl Fn(&mut Client)) -> Result<i64, Errno> {
        match which {
            Some(domid) => change(self.tmem.clients.get_mut(&domid).ok_or(NO)?),
            None => self.tmem.clients.values_mut().for_each(change),
        }
        Ok(0)
    }

    fn tmem_control(&mut self, control: Control) -> Answer {
        let client = |state: &Self, domid| state.tmem.clients.contains_key(&domid);
        Answer::from(match control {
            Control::Thaw(which) => self.each_client(which, |client| client.frozen = false),
            Control::Freeze(which) => self.each_client(which, |client| client.frozen = true),
            Control::Flush(Some(_), _) | Control::Unknown => Err(NO),
            Control::Flush(None, kib) => Ok(self.tmem_flush_to_host(kib)),
            Control::List(domid) => {
                if client(self, domid) {
                    Ok(0)
                } else {
                    Err(NO)
                }
            }
            Control::SetWeight(domid, weight) => self.tmem_set_weight(domid, weight),
            Control::SetCompress(domid, compress) => {
                self.each_client(Some(domid), |client| client.compress = compress).map_err(|_| Errno::ENOENT)
            }
            Control::FreeableMib => Ok((self.tmem_freeable() >> 8).cast_signed()),
            Control::SetPool(domid, id, flags) => self.tmem_set_pool(domid, id, flags),
            Control::SaveBegin(domid, migrating) => self.tmem_save_begin(domid, migrating),
            Control::SaveNextPage(domid, id) => return self.tmem_save_next(domid, id),
            Control::SaveNextInvalidated(domid) => {
                let next =
                    self.tmem.clients.get_mut(&domid).and_then(|client| client.invalidated.pop_front());
                return Answer { code: i64::from(next.is_some()), key: next.map(|(_, key)| key) };
            }
            Control::SaveEnd(domid) => self.each_client(Some(domid), |client| {
                client.migrating = false;
                client.invalidated.clear();
                client.frozen = client.was_frozen;
            }),
            Control::Authorise(domid, uuid) => self.tmem_authorise(domid, uuid),
            Control::Deauthorise(domid, uuid) => self
                .each_client(Some(domid), |client| client.authorised.retain(|other| *other != uuid))
                .map(|_| 1),
            Control::RestoreBegin(domid) if client(self, domid) => Err(Errno::EEXIST),
            Control::RestoreBegin(domid) if !self.tmem.neighbours.contains_key(&domid) => Err(Errno::ENOMEM),
            Control::RestoreBegin(domid) => {
                self.tmem_create_client(domid);
                Ok(0)
            }
            Control::RestorePage(domid, id, key, bytes, word) => {
                self.tmem_restore(domid, id, key, bytes, word)
            }
            Control::RestoreFlush(domid, id, key) => self.tmem_restored_pool(domid, id).map(|pool| {
                self.tmem_remove(pool, key);
                1
            }),
            Control::Padded => Err(Errno::EINVAL),
        })
    }

    fn tmem_flush_to_host(&mut self, kib: u64) -> i64 {
        let wanted = kib.div_ceil(4);
        let own = self.config.domid;
        while (self.tmem.free.len() as u64) < wanted && self.tmem_evict(own) {}
        let list = std::mem::take(&mut self.tmem.free);
        let frames = list.len() as i64;
        list.into_iter().for_each(|mfn| self.host.free(mfn));
        frames * 4
    }

    fn tmem_set_weight(&mut self, domid: u16, weight: u32) -> Result<i64, Errno> {
        let client = self.tmem.clients.get_mut(&domid).ok_or(Errno::ENOENT)?;
        let old = std::mem::replace(&mut client.weight, weight);
        self.tmem.total_weight = self.tmem.total_weight - u64::from(old) + u64::from(weight);
        Ok(0)
    }

    fn tmem_authorise(&mut self, domid: u16, uuid: [u64; 2]) -> Result<i64, Errno> {
        let authorised = &mut self.tmem_create_client(domid).authorised;
        if authorised.len() == abi::MAX_SHARED_POOLS as usize {
            return Err(Errno::ENOMEM);
        }
        authorised.push(uuid);
        Ok(1)
    }

    fn tmem_set_pool(&mut self, domid: u16, id: usize, flags: u32) -> Result<i64, Errno> {
        if self.tmem_create_client(domid).slots.get(id).is_none_or(Option::is_some) {
            return Err(NO);
        }
        let number = self.tmem_add_pool(domid, flags & abi::POOL_PERSISTENT != 0, None);
        self.tmem.client(domid).slots[id] = Some(number);
        Ok(if id == 0 { 1 } else { id as i64 })
    }

    fn tmem_save_begin(&mut self, domid: u16, migrating: bool) -> Result<i64, Errno> {
        let client = self.tmem.clients.get_mut(&domid).ok_or(Errno::ENOENT)?;
        if client.slots.iter().all(Option::is_none) {
            return Err(Errno::ENOENT);
        }
        client.was_frozen = std::mem::replace(&mut client.frozen, true);
        client.migrating = migrating;
        let pools: Vec<_> = client.slots.iter().flatten().copied().collect();
        pools.into_iter().for_each(|number| self.tmem.pool(number).cursor = None);
        Ok(0)
    }

    fn tmem_save_next(&mut self, domid: u16, id: usize) -> Answer {
        let none = Answer { code: NO.to_rax(), key: None };
        let Ok(number) = self.tmem_restored_pool(domid, id) else { return none };
        let sound = self.tmem.is_sound();
        let pool = self.tmem.pool(number);
        if !pool.persistent || pool.pages == 0 {
            return none;
        }
        let from = match pool.cursor {
            Some(order) => order + 1,
            None if sound => 0,
            // Xen begins after the first.
            None => pool.ages.keys().next().map_or(0, |first| first + 1),
        };
        let Some((order, (object, index))) =
            pool.ages.range(from..).next().map(|(order, key)| (*order, *key))
        else {
            if pool.cursor.is_none() {
                // One page, which it skips; then it reads what is behind the list.
                self.tmem.hazards.push(Hazard::BogusEnumeration);
            }
            return none;
        };
        pool.cursor = Some(order);
        let page = pool.objects.get(&object).and_then(|object| object.pages.get(&index));
        let whole = page.is_some_and(|page| matches!(page.data, Data::Whole { .. }));
        // Since Xen 4.4 nothing copies a page that is not compressed.
        let code = if whole && !sound { Errno::EINVAL.to_rax() } else { 4096 };
        Answer { code, key: Some(PageKey { object, index }) }
    }

    fn tmem_restored_pool(&mut self, domid: u16, id: usize) -> Result<PoolNumber, Errno> {
        let client = self.tmem.clients.get(&domid).ok_or(NO)?;
        client.slots.get(id).copied().flatten().ok_or(NO)
    }

    fn tmem_restore(
        &mut self,
        domid: u16,
        id: usize,
        key: PageKey,
        bytes: u64,
        word: u64,
    ) -> Result<i64, Errno> {
        let pool = self.tmem_restored_pool(domid, id)?;
        if bytes != 4096 {
            return Err(Errno::EINVAL);
        }
        if !self.tmem.owner(pool).compress && !self.tmem.is_sound() {
            return Err(Errno::EINVAL);
        }
        let mut words = Box::new([0; crate::model::WORDS]);
        words[0] = word;
        // The toolstack's domain makes the call, and pays for the metadata.
        self.tmem_neighbour(0);
        self.tmem_put_words(0, pool, key, words)
    }
}

/// A place compares by what it names.
impl core::fmt::Debug for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "page {} of {:x?} in pool {}", self.index, self.object, self.pool)
    }
}
