//! Put, get and flush.

use super::arena::{Arena, Piece};
use super::{DESCRIPTOR_BYTES, NODE_BYTES, Words};
use super::{Data, Hazard, OBJECT_BYTES, Object, ObjectId, Page, Place, PoolNumber, Radix, State};
use crate::conformance::tmem::Fault;
use crate::model::pages::{WORDS, word_at};
use ebb::port::PageKey;
use ebb::units::Gfn;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::vec::Vec;
use xen_abi::Errno;
use xen_abi::tmem as abi;

/// What a page would be compressed to, if that is less than it is: words that repeat count once.
fn packed(words: &Words) -> Option<u64> {
    let runs = 1 + words.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
    let bytes = 16 * runs;
    (bytes < 4096 && !Arena::is_too_large(bytes)).then_some(bytes)
}

/// Why a put of a new key ended: there is nothing of it.
struct Unmade(Errno);

/// What is put.
enum Source {
    Frame(Gfn),
    Words(Box<Words>),
}

impl State {
    pub(super) fn tmem_put(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        from: Gfn,
    ) -> Result<i64, Errno> {
        self.tmem_put_from(caller, pool, key, &Source::Frame(from))
    }

    /// A put of data that came otherwise.
    pub(super) fn tmem_put_words(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        words: Box<Words>,
    ) -> Result<i64, Errno> {
        self.tmem_put_from(caller, pool, key, &Source::Words(words))
    }

    fn tmem_put_from(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        from: &Source,
    ) -> Result<i64, Errno> {
        let exists =
            self.tmem.object(pool, key.object).is_some_and(|object| object.pages.contains_key(&key.index));
        if self.tmem.take_fault(Fault::PreCheck) || !self.tmem_has_room(caller) {
            if self.tmem.is_sound() {
                self.tmem_remove(pool, key);
            }
            return Err(Errno::ENOMEM);
        }
        // Room may have been made with this very page.
        let exists = exists
            && self.tmem.object(pool, key.object).is_some_and(|object| object.pages.contains_key(&key.index));
        if exists {
            return self.tmem_put_again(caller, pool, key, from);
        }
        if self.tmem.owner(pool).frozen {
            return Err(abi::EFROZEN);
        }
        self.tmem_put_new(caller, pool, key, from).map_err(|Unmade(error)| error)
    }

    fn tmem_put_new(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        from: &Source,
    ) -> Result<i64, Unmade> {
        let new_object = self.tmem.object(pool, key.object).is_none();
        if new_object {
            let piece = self.tmem_piece(pool, caller, OBJECT_BYTES).ok_or(Unmade(Errno::ENOMEM))?;
            let (pages, radix) = (BTreeMap::new(), Radix::default());
            let object = Object { pages, radix, piece, last_client: caller };
            self.tmem.pool(pool).objects.insert(key.object, object);
        }
        self.tmem.locked = Some((pool, key.object));
        let made = self.tmem_make_page(caller, pool, key, from);
        self.tmem.locked = None;
        if made.is_err() {
            self.tmem_drop_if_empty(pool, key.object);
        }
        made.map(|()| 1)
    }

    fn tmem_make_page(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        from: &Source,
    ) -> Result<(), Unmade> {
        let no_memory = || Unmade(Errno::ENOMEM);
        let descriptor = self.tmem_piece(pool, caller, DESCRIPTOR_BYTES).ok_or_else(no_memory)?;
        // The index is taken out of the object meanwhile, because what it needs comes from the same state.
        let object = self.tmem.object(pool, key.object).expect("model: the object of the put");
        let mut radix = core::mem::take(&mut object.radix);
        let inserted = radix.insert(key.index, || self.tmem_piece(pool, caller, NODE_BYTES));
        self.tmem.object(pool, key.object).expect("model: the object of the put").radix = radix;
        if inserted.is_err() {
            self.tmem_give_piece(pool, descriptor);
            return Err(no_memory());
        }
        match self.tmem_data(caller, pool, from) {
            Ok(data) => {
                let order = self.tmem.order();
                self.tmem_list(pool, Place { pool, object: key.object, index: key.index }, order);
                let owner = self.tmem.pool(pool).owner;
                let object = self.tmem.object(pool, key.object).expect("model: the object of the put");
                object.last_client = owner;
                object.pages.insert(key.index, Page { data, descriptor, order });
                self.tmem.pool(pool).pages += 1;
                Ok(())
            }
            Err(error) => {
                self.tmem_unindex(pool, key);
                self.tmem_give_piece(pool, descriptor);
                Err(Unmade(error))
            }
        }
    }

    /// A copy of the guest's frame, in memory of the pool's.
    fn tmem_data(&mut self, caller: u16, pool: PoolNumber, from: &Source) -> Result<Data, Errno> {
        if self.tmem.owner(pool).compress {
            let words = self.tmem_read(caller, from)?;
            if let Some(bytes) = packed(&words) {
                let piece = self.tmem_piece(pool, caller, bytes).ok_or(Errno::ENOMEM)?;
                return Ok(Data::Packed { piece, words });
            }
        }
        let mfn = self.tmem_data_page(pool, caller).ok_or(Errno::ENOMEM)?;
        match self.tmem_read(caller, from) {
            Ok(words) => Ok(Data::Whole { mfn, words }),
            Err(error) => {
                self.tmem_give_data_page(pool, mfn);
                Err(error)
            }
        }
    }

    /// A put over a page that is there: the old data goes first, whatever comes of the new.
    fn tmem_put_again(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        from: &Source,
    ) -> Result<i64, Errno> {
        if self.tmem.owner(pool).migrating {
            self.tmem_remove(pool, key);
            return Err(Errno::ENOSPC);
        }
        self.tmem.locked = Some((pool, key.object));
        let replaced = match self.tmem.is_sound() {
            true => self.tmem_replace_in_place(caller, pool, key, from),
            false => self.tmem_replace(caller, pool, key, from),
        };
        self.tmem.locked = None;
        match replaced {
            Ok(()) => {
                let owner = self.tmem.pool(pool).owner;
                if let Some(object) = self.tmem.object(pool, key.object) {
                    object.last_client = owner;
                }
                Ok(1)
            }
            Err(error) => {
                self.tmem_remove(pool, key);
                Err(if error == Errno::ENOMEM { Errno::ENOSPC } else { error })
            }
        }
    }

    fn tmem_page(&mut self, pool: PoolNumber, key: PageKey) -> &mut Page {
        let object = self.tmem.object(pool, key.object).expect("model: the object of the page");
        object.pages.get_mut(&key.index).expect("model: a page that there is")
    }

    fn tmem_replace(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        from: &Source,
    ) -> Result<(), Errno> {
        let old = core::mem::replace(&mut self.tmem_page(pool, key).data, Data::Nothing);
        // A page that was stored whole is never compressed again.
        let whole = matches!(old, Data::Whole { .. });
        self.tmem_give_data(pool, old);
        let data = if whole {
            let mfn = self.tmem_data_page(pool, caller).ok_or(Errno::ENOMEM)?;
            match self.tmem_read(caller, from) {
                Ok(words) => Data::Whole { mfn, words },
                Err(error) => {
                    self.tmem_give_data_page(pool, mfn);
                    return Err(error);
                }
            }
        } else {
            self.tmem_data(caller, pool, from)?
        };
        self.tmem_page(pool, key).data = data;
        Ok(())
    }

    /// As [`tmem_replace`](Self::tmem_replace), into the memory that the page has: needs no room.
    fn tmem_replace_in_place(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        from: &Source,
    ) -> Result<(), Errno> {
        let new = self.tmem_read(caller, from)?;
        match &mut self.tmem_page(pool, key).data {
            Data::Whole { words, .. } => *words = new,
            Data::Packed { .. } | Data::Nothing => return self.tmem_replace(caller, pool, key, from),
        }
        Ok(())
    }

    pub(super) fn tmem_get(
        &mut self,
        caller: u16,
        pool: PoolNumber,
        key: PageKey,
        into: Gfn,
    ) -> Result<i64, Errno> {
        let sound = self.tmem.is_sound();
        if self.tmem.pool(pool).pages == 0 {
            return Err(abi::EEMPTY);
        }
        let (persistent, shared) = (self.tmem.pool(pool).persistent, self.tmem.pool(pool).uuid.is_some());
        let Some(object) = self.tmem.object(pool, key.object) else { return Ok(0) };
        let Some(page) = object.pages.get(&key.index) else { return Ok(0) };
        let words = match &page.data {
            Data::Whole { words, .. } | Data::Packed { words, .. } => words.clone(),
            Data::Nothing => unreachable!("model: a page without data outside a put"),
        };
        if let Err(error) = self.tmem_write(caller, into, &words) {
            if !persistent && !shared {
                self.tmem.hazards.push(Hazard::GetIntoBadFrame);
                if !sound {
                    self.tmem_remove(pool, key);
                }
            }
            return Err(error);
        }
        if shared {
            let order = self.tmem.order();
            let old = core::mem::replace(&mut self.tmem_page(pool, key).order, order);
            self.tmem_unlist(pool, old);
            self.tmem_list(pool, Place { pool, object: key.object, index: key.index }, order);
            if let Some(object) = self.tmem.object(pool, key.object) {
                object.last_client = caller;
            }
        } else if !persistent {
            self.tmem_remove(pool, key);
        }
        Ok(1)
    }

    /// Takes a page out, if it is there.
    pub(super) fn tmem_remove(&mut self, pool: PoolNumber, key: PageKey) {
        let Some(page) =
            self.tmem.object(pool, key.object).and_then(|object| object.pages.remove(&key.index))
        else {
            return;
        };
        self.tmem_unindex(pool, key);
        self.tmem_unlist(pool, page.order);
        self.tmem.pool(pool).pages -= 1;
        self.tmem_log_invalidation(pool, key);
        self.tmem_give_data(pool, page.data);
        self.tmem_give_piece(pool, page.descriptor);
        self.tmem_drop_if_empty(pool, key.object);
    }

    /// Takes all pages of an object out.
    pub(super) fn tmem_remove_object(&mut self, pool: PoolNumber, object: ObjectId) {
        let Some(found) = self.tmem.object(pool, object) else { return };
        let indices: Vec<_> = found.pages.keys().copied().collect();
        for index in indices {
            self.tmem_remove(pool, PageKey { object, index });
        }
    }

    fn tmem_unindex(&mut self, pool: PoolNumber, key: PageKey) {
        let object = self.tmem.object(pool, key.object).expect("model: the object of the page");
        let first = object.pages.contains_key(&0);
        for piece in object.radix.remove(key.index, first) {
            self.tmem_give_piece(pool, piece);
        }
    }

    fn tmem_drop_if_empty(&mut self, pool: PoolNumber, object: ObjectId) {
        if !self.tmem.object(pool, object).is_some_and(|object| object.pages.is_empty()) {
            return;
        }
        if let Some(object) = self.tmem.pool(pool).objects.remove(&object) {
            let pieces: Vec<Piece> = object.radix.into_pieces().chain([object.piece]).collect();
            for piece in pieces {
                self.tmem_give_piece(pool, piece);
            }
        }
    }

    fn tmem_list(&mut self, pool: PoolNumber, place: Place, order: u64) {
        if self.tmem.pool(pool).persistent {
            self.tmem.pool(pool).ages.insert(order, (place.object, place.index));
        } else {
            self.tmem.ephemeral.insert(order, place);
            self.tmem.owner(pool).ephemeral.insert(order, place);
        }
    }

    fn tmem_unlist(&mut self, pool: PoolNumber, order: u64) {
        let sound = self.tmem.is_sound();
        if self.tmem.pool(pool).persistent {
            let pool = self.tmem.pool(pool);
            pool.ages.remove(&order);
            if pool.cursor == Some(order) {
                // The enumeration goes on after the one before: Xen would follow a stale pointer instead.
                pool.cursor = pool.ages.range(..order).next_back().map(|(order, _)| *order);
                if !sound {
                    self.tmem.hazards.push(Hazard::BogusEnumeration);
                }
            }
        } else {
            self.tmem.ephemeral.remove(&order);
            // A list that went over to another client with its pool has pages of the old one, too.
            for client in self.tmem.clients.values_mut() {
                client.ephemeral.remove(&order);
            }
        }
    }

    fn tmem_log_invalidation(&mut self, pool: PoolNumber, key: PageKey) {
        let (owner, persistent) = (self.tmem.pool(pool).owner, self.tmem.pool(pool).persistent);
        let Some(client) = self.tmem.clients.get_mut(&owner).filter(|client| client.migrating && persistent)
        else {
            return;
        };
        let id = client.slots.iter().position(|slot| *slot == Some(pool)).map_or(-1, |id| id as i32);
        client.invalidated.push_back((id, key));
    }

    /// The contents of a frame of a domain.
    fn tmem_read(&mut self, domid: u16, from: &Source) -> Result<Box<Words>, Errno> {
        if self.tmem.take_fault(Fault::Copy) {
            return Err(Errno::EFAULT);
        }
        let frame = match from {
            Source::Frame(frame) => *frame,
            Source::Words(words) => return Ok(words.clone()),
        };
        let page = self.tmem_frame(domid, frame)?;
        let mut words = Box::new([0; WORDS]);
        for (index, word) in words.iter_mut().enumerate() {
            *word = word_at(page, index).load(Ordering::Relaxed);
        }
        Ok(words)
    }

    fn tmem_write(&mut self, domid: u16, frame: Gfn, words: &Words) -> Result<(), Errno> {
        let page = self.tmem_frame(domid, frame)?;
        for (index, word) in words.iter().enumerate() {
            word_at(page, index).store(*word, Ordering::Relaxed);
        }
        Ok(())
    }
}
