//! What the machine turned out to be.
#![expect(unsafe_code, reason = "the window's page table")]

use crate::cpus::{self, Cpus};
use crate::domain::Domain;
use crate::frames::KernelFrames;
use crate::image;
use core::ptr::NonNull;
use ebb::arch::layout::direct_map;
use ebb::arch::paging::window::{Window, WindowFull};
use ebb::arch::paging::{AddressSpace, Mapping};
use ebb::arch::tables::{DirectTables, FrameSource};
use ebb::boot_info::BootInfo;
use ebb::smp::Flush;
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

/// The machine, as the application finds it: the final page tables in use, interrupts on where there is a carrier
/// for them, all CPUs up.
#[derive(Debug)]
pub struct Machine {
    boot_info: BootInfo,
    hypervisor: Option<OnXen>,
    frames: &'static KernelFrames,
    root: Gfn,
    window: SpinMutex<Window<DirectTables<Nothing>>>,
    domain: Once<Domain>,
}

/// The window's table exists already, so it never asks.
#[derive(Debug)]
struct Nothing;

// SAFETY: a source that never gives a frame gives none that is not free, and none twice.
unsafe impl FrameSource for Nothing {
    fn frame(&mut self) -> Option<Gfn> {
        None
    }
}

impl Machine {
    /// # Safety
    ///
    /// `root` is the root of the address space in use. Called once.
    pub(crate) unsafe fn new(
        boot_info: BootInfo,
        hypervisor: Option<OnXen>,
        frames: &'static KernelFrames,
        root: Gfn,
    ) -> Self {
        // SAFETY: the direct map covers the tables. Only the window's is changed through this view, under the lock; the
        // others are looked at, with interrupts off (`with_window`). The view is this module's alone.
        let tables = unsafe { DirectTables::new(Nothing) };
        let window = SpinMutex::new(Window::new(AddressSpace::from_root(root, tables)));
        Self { boot_info, hypervisor, frames, root, window, domain: Once::new() }
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

    /// The CPUs.
    #[must_use]
    pub fn cpus(&self) -> Cpus {
        Cpus(())
    }

    /// Adds the services, once they are up.
    pub(crate) fn set_domain(&self, domain: Domain) {
        self.domain.call_once(|| domain);
    }

    /// The frame allocator, which has all RAM that boot left.
    #[must_use]
    pub fn frames(&self) -> &'static KernelFrames {
        self.frames
    }

    /// The content of the module that the loader brought as number `index`, if there is one and all of it is RAM that the
    /// direct map shows and the image does not have.
    #[must_use]
    pub fn module(&self, index: usize) -> Option<&'static [u8]> {
        let module = self.boot_info.modules().nth(index)?;
        let (ram, image) = (self.boot_info.ram(), image::frames());
        let sound =
            |frame: Gfn| ram.contains(frame) && !image.contains(frame) && direct_map(frame.start()).is_some();
        let start = direct_map(module.start).filter(|_| module.frames.iter().all(sound))?;
        let start = core::ptr::with_exposed_provenance::<u8>(start as usize);
        let size = usize::try_from(module.size).ok()?;
        // SAFETY: RAM that the direct map shows. Its frames were left out of what is free, and are not the image's, so
        // nobody ever writes to them, and they never leave the machine.
        Some(unsafe { core::slice::from_raw_parts(start, size) })
    }

    /// Uses the window. Whoever has it may wait for all CPUs to forget a translation, so who waits for it answers.
    fn with_window<R>(&self, change: impl FnOnce(&mut Window<DirectTables<Nothing>>) -> R) -> R {
        without_interrupts(|| {
            loop {
                if let Some(mut window) = self.window.try_lock() {
                    return change(&mut window);
                }
                cpus::answer_flush();
                core::hint::spin_loop();
            }
        })
    }

    /// The root of the page tables.
    #[must_use]
    pub fn page_table_root(&self) -> Gfn {
        self.root
    }

    /// What a virtual address is mapped to.
    #[must_use]
    pub fn look_up(&self, address: u64) -> Option<Mapping> {
        self.with_window(|window| window.space().look_up(address))
    }

    /// Maps a frame outside of RAM, such as a ring or `shared_info`, for reading and writing.
    ///
    /// Interrupt-safe, never blocks.
    ///
    /// # Errors
    ///
    /// If the window has no room.
    pub fn map_special(&self, frame: Gfn) -> Result<NonNull<u8>, WindowFull> {
        let address = self.with_window(|window| window.map(frame))?;
        // Never null: the window is in the upper half.
        NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)).ok_or(WindowFull)
    }

    /// Takes a mapping of [`map_special`](Self::map_special) away and answers its frame, or `None` if there is
    /// no such mapping. No CPU has a translation of it afterwards. Any context; waits for the other CPUs, but not
    /// for interrupts.
    ///
    /// # Safety
    ///
    /// Nobody uses the mapping any more.
    ///
    /// # Panics
    ///
    /// If a CPU does not answer.
    pub unsafe fn unmap_special(&self, page: NonNull<u8>) -> Option<Gfn> {
        let address = page.addr().get() as u64;
        self.with_window(|window| {
            let frame = window.unmap(address)?;
            // With the window held: nothing else is mapped there before everyone has forgotten this.
            cpus::flush(Flush::pages(address, 1));
            Some(frame)
        })
    }
}
