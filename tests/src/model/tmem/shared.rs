//! Shared pools: who may join, and what leaving does.

use super::{ObjectId, PoolNumber, State};
use std::vec::Vec;
use xen_abi::Errno;

/// The name that asks for a private pool after all.
const NOBODY: [u64; 2] = [u64::MAX; 2];

impl State {
    /// The pool of this name, joined or made; a private one for who may not have it.
    pub(super) fn tmem_shared_pool(
        &mut self,
        domid: u16,
        uuid: [u64; 2],
        id: usize,
    ) -> Result<PoolNumber, Errno> {
        if uuid == NOBODY || !self.tmem.client(domid).authorised.contains(&uuid) {
            if self.tmem.is_sound() {
                return Err(Errno::EPERM);
            }
            return Ok(self.tmem_add_pool(domid, false, None));
        }
        let existing = self.tmem.shared.iter().flatten().copied();
        if let Some(number) = existing
            .into_iter()
            .find(|number| self.tmem.pools.get(number).is_some_and(|pool| pool.uuid == Some(uuid)))
        {
            self.tmem.pool(number).members.push(domid);
            return Ok(number);
        }
        let Some(global) = self.tmem.shared.iter().position(Option::is_none) else {
            if !self.tmem.is_sound() {
                self.tmem.dangling.insert((domid, id));
            }
            return Err(Errno::EPERM);
        };
        let number = self.tmem_add_pool(domid, false, Some(uuid));
        self.tmem.shared[global] = Some(number);
        Ok(number)
    }

    /// A member leaves a pool; answers whether others are left, who keep it.
    pub(super) fn tmem_leave(&mut self, domid: u16, number: PoolNumber) -> bool {
        let sound = self.tmem.is_sound();
        let pool = self.tmem.pool(number);
        if let Some(place) = pool.members.iter().position(|member| *member == domid) {
            pool.members.remove(place);
        }
        let Some(heir) = pool.members.first().copied() else { return false };
        if !sound {
            pool.dying = true;
            let marked = pool.objects.iter().filter(|(_, object)| object.last_client == domid);
            let marked: Vec<ObjectId> = marked.map(|(name, _)| *name).collect();
            for object in marked {
                self.tmem_remove_object(number, object);
            }
        }
        let pool = self.tmem.pool(number);
        if pool.owner == domid && !pool.members.contains(&domid) {
            pool.owner = heir;
            let list = &mut self.tmem.client(domid).ephemeral;
            // Xen hands the whole list over, pages of the old owner's private pools included.
            let goes: Vec<_> = list.extract_if(.., |_, place| !sound || place.pool == number).collect();
            self.tmem.client(heir).ephemeral.extend(goes);
        }
        true
    }
}
