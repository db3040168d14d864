//! `memory_op`: the reservation, extent by extent, and the frame map.
#![expect(unsafe_code, reason = "passes on the caller's promise about the addresses in the registers")]

use super::fault::Stop;
use super::p2m::{BLOCK, Slot};
use super::pages::ALL_ONES;
use super::state::{Crash, State};
use ebb::units::Gfn;
use xen_abi::memory as abi;
use xen_abi::{DOMID_SELF, Errno};

/// Grant-table frames that a domain may have.
const MAX_GRANT_FRAMES: u64 = 64;

/// The extent could not be processed; the call ends there.
struct Short;

impl State {
    /// # Safety
    ///
    /// As `Transport::call`: the argument is valid for the command.
    pub(super) unsafe fn memory_op(&mut self, register: u64, argument: u64) -> Result<i64, Errno> {
        let command = (register & ((1 << abi::COMMAND_BITS) - 1)) as u32;
        let start = register >> abi::COMMAND_BITS;
        if let abi::INCREASE_RESERVATION | abi::DECREASE_RESERVATION | abi::POPULATE_PHYSMAP = command {
            // SAFETY: the caller's promise.
            return Ok(unsafe { self.reserve(command, start, argument) });
        }
        if start != 0 {
            return Err(Errno::EINVAL);
        }
        match command {
            abi::CURRENT_RESERVATION | abi::MAXIMUM_RESERVATION | abi::MAXIMUM_GPFN => {
                // SAFETY: the caller's promise.
                let domid = unsafe { self.copy_in(argument) }?;
                self.check_domain(domid)?;
                Ok(match command {
                    abi::CURRENT_RESERVATION => self.charged,
                    abi::MAXIMUM_RESERVATION => self.limit,
                    _ => self.p2m.highest().get(),
                }
                .cast_signed())
            }
            abi::MAXIMUM_RAM_PAGE => Ok(self.config.host_mib.cast_signed() << 8),
            abi::ADD_TO_PHYSMAP => {
                // SAFETY: the caller's promise.
                let add: abi::AddToPhysmap = unsafe { self.copy_in(argument) }?;
                self.check_domain(add.domid)?;
                self.add_to_physmap(add).map(|()| 0)
            }
            abi::REMOVE_FROM_PHYSMAP => {
                // SAFETY: the caller's promise.
                let remove: abi::RemoveFromPhysmap = unsafe { self.copy_in(argument) }?;
                self.check_domain(remove.domid)?;
                self.remove_from_physmap(Gfn::new(remove.gpfn)).map(|()| 0)
            }
            // SAFETY: the caller's promise.
            abi::MEMORY_MAP => unsafe { self.memory_map(argument) }.map(|()| 0),
            abi::EXCHANGE => {
                // SAFETY: the caller's promise.
                let exchange: abi::Exchange = unsafe { self.copy_in(argument) }?;
                let order = exchange.input.extent_order.max(exchange.output.extent_order);
                match exchange.input.nr_extents {
                    _ if order > self.config.order_limit => Err(Errno::EPERM),
                    0 => Ok(0),
                    _ => Err(Errno::EOPNOTSUPP),
                }
            }
            abi::SET_POD_TARGET | abi::GET_POD_TARGET => Err(Errno::EPERM),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// The domain that a call is about must be the caller.
    pub(super) fn check_domain(&self, domid: u16) -> Result<(), Errno> {
        match domid {
            DOMID_SELF => Ok(()),
            own if own == self.config.domid => Ok(()),
            0 => Err(Errno::EPERM),
            _ => Err(Errno::ESRCH),
        }
    }

    /// The three reservation commands. Whatever goes wrong, the answer is how many extents were done.
    ///
    /// # Safety
    ///
    /// As [`memory_op`](Self::memory_op).
    unsafe fn reserve(&mut self, command: u32, start: u64, argument: u64) -> i64 {
        let call = self.faults.begin(command);
        let mut done = start;
        // A call that was put aside begins again from its argument, with its progress.
        // SAFETY: the caller's promise.
        while let Ok(reservation) = unsafe { self.copy_in::<abi::Reservation>(argument) } {
            let total = reservation.nr_extents;
            if total > abi::MAX_EXTENTS || done >= total || self.check_domain(reservation.domid).is_err() {
                break;
            }
            let list = reservation.extent_start;
            if reservation.extent_order > self.config.order_limit || !self.flags_allow(&reservation) {
                break;
            }
            let before = done;
            let mut stopped = false;
            while done < total {
                if done != before && self.preempted() {
                    break;
                }
                let stop = self.faults.at(call, done);
                // SAFETY: the caller's promise.
                let extent = unsafe { self.extent(command, list, done, reservation.extent_order, stop) };
                if extent.is_err() || self.crash.is_some() {
                    stopped = true;
                    break;
                }
                done += 1;
            }
            if stopped || done == total {
                break;
            }
        }
        done.cast_signed()
    }

    /// Constraints that make Xen do nothing. Every other bit is ignored for an ordinary domain.
    fn flags_allow(&self, reservation: &abi::Reservation) -> bool {
        let width = reservation.mem_flags & 0xFF;
        let narrow = (1..=12).contains(&width);
        let on_demand = reservation.mem_flags & abi::MEMF_POPULATE_ON_DEMAND != 0;
        let node = reservation.mem_flags >> 8 & 0xFF;
        let exact = reservation.mem_flags & abi::MEMF_EXACT_NODE_REQUEST != 0;
        !(on_demand || narrow || (exact && node != 0))
    }

    /// One extent.
    ///
    /// # Safety
    ///
    /// As [`memory_op`](Self::memory_op).
    unsafe fn extent(
        &mut self,
        command: u32,
        list: u64,
        index: u64,
        order: u32,
        stop: Option<Stop>,
    ) -> Result<(), Short> {
        if command == abi::INCREASE_RESERVATION {
            return if stop.is_some() { Err(Short) } else { self.increase(order) };
        }
        // SAFETY: the caller's promise.
        let first = unsafe { self.frame_of_list(list, index) }.map_err(|_| Short)?;
        match command {
            abi::DECREASE_RESERVATION => self.release(first, order, stop),
            _ if stop.is_some() => Err(Short),
            _ => self.populate(first, order),
        }
    }

    /// Charges frames that are mapped nowhere, for as long as the domain lives.
    fn increase(&mut self, order: u32) -> Result<(), Short> {
        let first = self.charge(order)?;
        self.leaked.extend(first..first + (1 << order));
        Ok(())
    }

    /// Takes frames from the host for the domain.
    fn charge(&mut self, order: u32) -> Result<super::host::Mfn, Short> {
        if self.charged + (1 << order) > self.limit {
            return Err(Short);
        }
        let first = self.take_from_host(self.config.domid, order).ok_or(Short)?;
        self.charged += 1 << order;
        Ok(first)
    }

    /// Gives an extent back, frame by frame; those before a failure are gone.
    fn release(&mut self, first: Gfn, order: u32, stop: Option<Stop>) -> Result<(), Short> {
        if let Some(stop) = stop {
            for index in 0..stop.after_frames.min((1 << order) - 1) {
                self.remove_page(Gfn::new(first.get().wrapping_add(index)))?;
            }
            return Err(Short);
        }
        let frames = 1 << order;
        let mut dealt_with = self.pod_release(first, order);
        let mut index = 0;
        while index + dealt_with < frames {
            let frame = Gfn::new(first.get().wrapping_add(index));
            match self.p2m.get(frame) {
                Slot::Hole if dealt_with > 0 => dealt_with -= 1,
                _ => self.remove_page(frame)?,
            }
            index += 1;
        }
        Ok(())
    }

    /// Gives one frame back.
    fn remove_page(&mut self, frame: Gfn) -> Result<(), Short> {
        let slot = self.p2m.get(frame);
        match slot {
            Slot::Ram(_) | Slot::Special(_) | Slot::Pinned(_) | Slot::SharedInfo | Slot::GrantFrame(_) => {
                self.p2m.set(frame, Slot::Hole).map_err(|_| Short)?;
            }
            Slot::Hole
            | Slot::PopulateOnDemand
            | Slot::GrantMapping
            | Slot::ForeignMapping
            | Slot::Device => {
                return Err(Short);
            }
        }
        match slot {
            Slot::Ram(mfn) | Slot::Special(mfn) => {
                self.pages.fill(frame, ALL_ONES);
                self.host.free(mfn);
                self.charged -= 1;
            }
            // The outside reference keeps the frame, and the charge.
            Slot::Pinned(mfn) => {
                self.pages.fill(frame, ALL_ONES);
                self.leaked.insert(mfn);
            }
            _ => {}
        }
        Ok(())
    }

    /// Allocates an extent, then maps it. What cannot be mapped stays charged.
    fn populate(&mut self, first: Gfn, order: u32) -> Result<(), Short> {
        let base = self.charge(order)?;
        let frames = 1 << order;
        let leak = |state: &mut Self, from: u64| {
            state.leaked.extend(base + from as u32..base + (1 << order));
        };
        let beyond = |frame: Option<u64>| frame.is_none_or(|frame| frame > 1 << self.config.frame_bits);
        if beyond(first.get().checked_add(frames)) {
            leak(self, 0);
            return Err(Short);
        }
        let extent = || (0..frames).map(|index| Gfn::new(first.get() + index));
        let foreign = |slot| matches!(slot, Slot::GrantMapping | Slot::ForeignMapping | Slot::Device);
        if let Some(frame) = extent().find(|frame| foreign(self.p2m.get(*frame))) {
            leak(self, 0);
            self.crash(Crash::PopulatedOver(frame));
            return Err(Short);
        }
        let large = frames == BLOCK && first.get().is_multiple_of(BLOCK);
        for (index, frame) in extent().enumerate() {
            let old = self.p2m.get(frame);
            if !large && self.p2m.set(frame, Slot::Ram(base + index as u32)).is_err() {
                leak(self, index as u64);
                return Err(Short);
            }
            // The old frame has lost its mapping and nobody can ever give it back.
            self.leaked.extend(old.charged());
            if old == Slot::PopulateOnDemand {
                self.pod.entries -= 1;
            }
            let stale = self.stale();
            self.pages.fill(frame, stale);
        }
        if large {
            self.p2m.set_large(first, |index| Slot::Ram(base + index as u32));
        }
        Ok(())
    }

    fn add_to_physmap(&mut self, add: abi::AddToPhysmap) -> Result<(), Errno> {
        let at = Gfn::new(add.gpfn);
        let slot = match add.space {
            abi::SPACE_SHARED_INFO if add.index == 0 => Slot::SharedInfo,
            abi::SPACE_GRANT_TABLE if add.index < MAX_GRANT_FRAMES => Slot::GrantFrame(add.index as u32),
            abi::SPACE_GMFN => match self.p2m.get(Gfn::new(add.index)) {
                ram @ Slot::Ram(_) => ram,
                _ => return Err(Errno::EINVAL),
            },
            abi::SPACE_SHARED_INFO | abi::SPACE_GRANT_TABLE => return Err(Errno::EINVAL),
            abi::SPACE_DEV_MMIO => return Err(Errno::EACCES),
            _ => return Err(Errno::ENOSYS),
        };
        self.touch(at);
        match self.p2m.get(at) {
            Slot::Device => return Err(Errno::EPERM),
            Slot::GrantMapping | Slot::ForeignMapping => return Err(Errno::ENXIO),
            Slot::Ram(_) => self.remove_page(at).map_err(|_| Errno::ENOMEM)?,
            old => self.leaked.extend(old.charged()),
        }
        // A page is mapped once: it moves.
        if let Some(source) = self.p2m.find(slot) {
            self.p2m.set(source, Slot::Hole).map_err(|_| Errno::ENOMEM)?;
            if let Slot::Ram(_) = slot {
                self.pages.copy(source, at);
                self.pages.fill(source, ALL_ONES);
            }
        }
        self.p2m.set(at, slot).map_err(|_| Errno::ENOMEM)
    }

    fn remove_from_physmap(&mut self, at: Gfn) -> Result<(), Errno> {
        self.touch(at);
        let slot = self.p2m.get(at);
        if let Slot::Hole | Slot::Device | Slot::GrantMapping = slot {
            return Err(Errno::ENOENT);
        }
        self.p2m.set(at, Slot::Hole).map_err(|_| Errno::ENOMEM)?;
        if let Some(mfn) = slot.charged() {
            self.leaked.insert(mfn);
            self.pages.fill(at, ALL_ONES);
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As [`memory_op`](Self::memory_op).
    unsafe fn memory_map(&mut self, argument: u64) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        let mut map: abi::MemoryMap = unsafe { self.copy_in(argument) }?;
        let entries = self.e820.clone();
        map.nr_entries = map.nr_entries.min(entries.len() as u32);
        for (index, entry) in entries.iter().take(map.nr_entries as usize).enumerate() {
            let at = map.buffer.checked_add((index * size_of::<abi::E820Entry>()) as u64);
            // SAFETY: the caller's promise: the buffer has room for the entries that it said.
            unsafe { self.copy_out(at.ok_or(Errno::EFAULT)?, *entry) }?;
        }
        // SAFETY: the caller's promise.
        unsafe { self.copy_out(argument, map) }
    }
}
