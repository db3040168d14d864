//! A guest on the model hypervisor with tmem: frames as pages, patterns, the client.
#![expect(unsafe_code, reason = "lends the model's frames")]

use ebb::mm::page::Page;
use ebb::mm::paged::Words;
use ebb::port::{PageKey, PoolKind};
use ebb::tmem::tier::{Slot, SwapType};
use ebb::tmem::{Open, Pool, Tmem};
use ebb::units::{Frames, Gfn};
use ebb::xen::Xen;
use ebb_tests::conformance::tmem::Control;
use ebb_tests::model::{Config, Model, Service};
use percpu::CpuId;
use percpu::host::{Host, Machine};
use std::sync::atomic::Ordering;

/// What makes the guest's hypercalls.
pub(crate) type Ops<'m> = Xen<&'m Model>;
/// A pool of the guest.
pub(crate) type GuestPool<'m> = Pool<Host, Ops<'m>>;

/// A guest and its CPUs.
pub(crate) struct Rig {
    pub(crate) model: Model,
    pub(crate) host: Host,
}

impl Rig {
    /// A guest of a hypervisor that serves tmem so.
    pub(crate) fn new(tmem: Service) -> Self {
        Self { model: Model::new(Config { tmem, ..Config::default() }), host: Machine::new(6) }
    }

    /// Xen 4.12.
    pub(crate) fn xen412() -> Self {
        Self::new(Service::Xen412)
    }

    /// The client, which must be there.
    pub(crate) fn tmem(&self) -> Tmem<Ops<'_>> {
        let xen = self.model.xen();
        Tmem::start(xen, xen.probe_tmem()).expect("the model serves tmem")
    }

    /// A closed pool.
    pub(crate) fn pool(&self) -> GuestPool<'_> {
        Pool::new(self.host.rcu(), self.tmem()).expect("the host has words")
    }

    /// One of the guest's frames, lent. Whoever calls this uses each number once at a time.
    pub(crate) fn page(&self, nth: u64) -> Page<'_> {
        let frame = Gfn::new(nth);
        assert!(frame < Gfn::new(0) + self.model.ram_frames(), "the guest has no such frame");
        // SAFETY: inside the model's RAM, which is one allocation.
        let at = unsafe { self.model.ram().add(nth as usize * 4096) };
        // SAFETY: a frame of atomics, aligned, which lives as long as the model.
        let words: &Words = unsafe { at.cast().as_ref() };
        // SAFETY: RAM of the guest, at this address, used by the test that names it and by nobody else.
        unsafe { Page::new(frame, words) }
    }

    /// What the guest is charged.
    pub(crate) fn charged(&self) -> u64 {
        self.model.charged().get()
    }

    /// Room for so many persistent pages, metadata included.
    pub(crate) fn set_headroom(&self, frames: u64) {
        self.model.set_limit(self.model.charged() + Frames::new(frames));
    }

    /// Freezes the guest, or thaws it.
    pub(crate) fn freeze(&self, frozen: bool) {
        let own = Some(Config::default().domid);
        let control = if frozen { Control::Freeze(own) } else { Control::Thaw(own) };
        assert_eq!(self.model.tmem_control(control).code, 0, "{control:?}");
    }

    /// Nothing is left, nothing was lost, and nothing was done that would have hurt Xen.
    pub(crate) fn is_clean(&self, charged: u64) {
        self.model.validate().expect("the model's books balance");
        assert_eq!(self.model.tmem_hazards(), []);
        assert_eq!((self.model.tmem_pages(), self.charged()), (0, charged), "pages in tmem, and charged");
    }
}

/// The first CPU of a machine, which the calling thread becomes.
pub(crate) fn boot_cpu(host: Host) -> percpu::host::OnCpu {
    host.enter(CpuId::BOOT)
}

/// A persistent pool, opened.
pub(crate) fn persistent<'p, 'm>(pool: &'p GuestPool<'m>) -> Open<'p, Host, Ops<'m>> {
    pool.open(PoolKind::Persistent).expect("the model makes pools")
}

/// A slot of swap type 1.
pub(crate) fn slot(offset: u64) -> Slot {
    Slot { swap: swap(1), offset }
}

/// A swap type.
pub(crate) fn swap(number: u8) -> SwapType {
    SwapType::new(number).expect("a swap type")
}

/// A name.
pub(crate) fn key(object: u64, index: u32) -> PageKey {
    PageKey { object: [object, 0, 0], index }
}

/// Fills a page with a pattern: every word differs.
pub(crate) fn fill(page: &mut Page<'_>, pattern: u64) {
    for (index, word) in page.words_mut().iter().enumerate() {
        word.store(word_of(pattern, index), Ordering::Relaxed);
    }
}

/// The pattern that a page holds, if all of it is of one.
pub(crate) fn pattern(page: &Page<'_>) -> Option<u64> {
    let (words, _) = page.bytes().as_chunks::<8>();
    let pattern = u64::from_ne_bytes(*words.first()?).wrapping_mul(INVERSE);
    let whole =
        words.iter().enumerate().all(|(index, word)| u64::from_ne_bytes(*word) == word_of(pattern, index));
    whole.then_some(pattern)
}

const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
/// `FACTOR * INVERSE` is 1.
const INVERSE: u64 = 0xF1DE_83E1_9937_733D;
const _: () = assert!(FACTOR.wrapping_mul(INVERSE) == 1);

fn word_of(pattern: u64, index: usize) -> u64 {
    pattern.wrapping_mul(FACTOR) ^ (index as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}
