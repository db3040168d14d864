//! What the machine turned out to be.
#![expect(unsafe_code, reason = "the window's page table")]

use crate::domain::Domain;
use core::ptr::NonNull;
use ebb::arch::paging::window::{Window, WindowFull};
use ebb::arch::paging::{AddressSpace, Mapping};
use ebb::arch::tables::{self, DirectTables, FrameSource};
use ebb::boot_info::{BootInfo, RamMap};
use ebb::units::Gfn;
use ebb::xen::Xen;
use ebb::xen::cpuid::Detected;
use ebb::xen::transport::Instruction;
use spin::mutex::SpinMutex;
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

/// Xen, as found.
#[derive(Clone, Copy, Debug)]
pub struct OnXen {
    /// What CPUID says of it.
    pub detected: Detected,
    /// Hypercalls.
    pub xen: Xen<Instruction>,
}

/// The machine, as the application finds it: the final page tables in use, interrupts off, one processor.
#[derive(Debug)]
pub struct Machine {
    boot_info: BootInfo,
    hypervisor: Option<OnXen>,
    free: RamMap,
    root: Gfn,
    window: SpinMutex<Window<DirectTables<Nothing>>>,
    domain: Once<Domain>,
}

/// The window's table exists already, so it never asks.
#[derive(Debug)]
struct Nothing;

// SAFETY: gives nothing.
unsafe impl FrameSource for Nothing {
    fn frame(&mut self) -> Option<Gfn> {
        None
    }
}

impl Machine {
    /// # Safety
    ///
    /// `root` is the root of the address space in use, and `free` is RAM that nobody uses. Called once.
    pub(crate) unsafe fn new(
        boot_info: BootInfo,
        hypervisor: Option<OnXen>,
        free: RamMap,
        root: Gfn,
    ) -> Self {
        // SAFETY: the direct map covers the tables, and of them only the window's is changed, under the lock.
        let tables = unsafe { DirectTables::new(Nothing) };
        let window = SpinMutex::new(Window::new(AddressSpace::from_root(root, tables)));
        Self { boot_info, hypervisor, free, root, window, domain: Once::new() }
    }

    /// What the loader said.
    #[must_use]
    pub fn boot_info(&self) -> &BootInfo {
        &self.boot_info
    }

    /// Xen, if that is what runs us.
    #[must_use]
    pub fn hypervisor(&self) -> Option<&OnXen> {
        self.hypervisor.as_ref()
    }

    /// The services of a domU, if this is one.
    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        self.domain.get()
    }

    /// Adds the services, once they are up.
    pub(crate) fn set_domain(&self, domain: Domain) {
        self.domain.call_once(|| domain);
    }

    /// RAM that boot left free, for the frame allocator to own: not the image, the modules, frame 0, the page
    /// tables, the heap.
    #[must_use]
    pub fn free_ram(&self) -> &RamMap {
        &self.free
    }

    /// The root of the page tables.
    #[must_use]
    pub fn page_table_root(&self) -> Gfn {
        self.root
    }

    /// What a virtual address is mapped to.
    #[must_use]
    pub fn look_up(&self, address: u64) -> Option<Mapping> {
        without_interrupts(|| self.window.lock().space().look_up(address))
    }

    /// Maps a frame outside of RAM, such as a ring or `shared_info`, for reading and writing.
    ///
    /// Interrupt-safe, never blocks.
    ///
    /// # Errors
    ///
    /// If the window has no room.
    pub fn map_special(&self, frame: Gfn) -> Result<NonNull<u8>, WindowFull> {
        let address = without_interrupts(|| self.window.lock().map(frame))?;
        // Never null: the window is in the upper half.
        NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)).ok_or(WindowFull)
    }

    /// Takes a mapping of [`map_special`](Self::map_special) away and answers its frame, or `None` if there is
    /// no such mapping.
    ///
    /// # Safety
    ///
    /// Nobody uses the mapping any more, and no other processor has ever used it: only this one's translation
    /// is invalidated.
    pub unsafe fn unmap_special(&self, page: NonNull<u8>) -> Option<Gfn> {
        let address = page.addr().get() as u64;
        let frame = without_interrupts(|| self.window.lock().unmap(address))?;
        tables::invalidate(address);
        Some(frame)
    }
}
