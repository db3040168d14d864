//! What the memory is for: pages whose contents can be told, and a file whose clean pages go to cleancache.

use super::guest::CPU;
use super::mangle::Mangled;
use super::world::World;
use ebb::mm::frame::{Contents, Extent, Request, Use};
use ebb::mm::page::Page;
use ebb::mm::paged::{Charge, FaultError, Region, Words};
use ebb::tmem::cleancache::{Cleancache, FileKey, FileSystem};
use ebb::units::Frames;
use percpu::host::Host;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use workload::random::Rng;

/// How often a page that seems lost is asked for before it is. Of a hypervisor that mangles one call in four, one answer
/// in 10^38 would do that.
const TRIES: u32 = 64;
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// A word of a page with this value: 0 is a page of zeros; of others one in five is one word, two compress, and two do
/// not.
pub(crate) fn word_of(value: u64, index: usize) -> u64 {
    let (seed, index) = (value.wrapping_mul(FACTOR), index as u64);
    match value % 5 {
        _ if value == 0 => 0,
        0 => seed,
        1 | 2 if index >= 64 => seed ^ (index / 16),
        _ => (seed ^ index).wrapping_mul(0xD134_2543_DE82_EF95).rotate_left(29),
    }
}

pub(crate) fn fill(words: &Words, value: u64) {
    for (index, word) in words.iter().enumerate() {
        word.store(word_of(value, index), Ordering::Relaxed);
    }
}

pub(crate) fn holds(words: &Words, value: u64) -> bool {
    words.iter().enumerate().all(|(index, word)| word.load(Ordering::Relaxed) == word_of(value, index))
}

/// The pages: by number, with what was written there last.
pub(crate) struct Application {
    world: &'static World,
    region: Region,
    pages: Vec<Option<u64>>,
    pub(crate) live: u64,
    value: u64,
    /// Pages that were read and found right.
    pub(crate) verified: u64,
    /// Accesses for which there was no memory.
    pub(crate) refused: u64,
    /// Accesses that found the page lost, and tried again.
    pub(crate) retried: u64,
}

impl Application {
    pub(crate) fn new(world: &'static World, pages: u64) -> Self {
        let region = world.paged.reserve(Frames::new(pages), Charge::ByCaller).expect("addresses are plenty");
        let pages = vec![None; pages as usize];
        Self { world, region, pages, live: 0, value: 0, verified: 0, refused: 0, retried: 0 }
    }

    pub(crate) fn size(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Whether a page was written, and not given up since.
    pub(crate) fn has(&self, page: u64) -> bool {
        self.pages[page as usize].is_some()
    }

    /// An access that insists: a page that cannot be had now, because the hypervisor answers nonsense, is not lost.
    fn access<R>(&mut self, page: u64, access: impl Fn(&Words) -> R) -> Option<R> {
        for _ in 0..TRIES {
            match self.world.access(&self.region, page, &access) {
                Ok(result) => return Some(result),
                Err(FaultError::Lost(..)) => self.retried += 1,
                Err(FaultError::NoFrame(_)) => {
                    self.refused += 1;
                    return None;
                }
                Err(error) => unreachable!("page {page}: {error}"),
            }
        }
        unreachable!("page {page} is lost for good")
    }

    /// Writes a whole page, which is there afterwards if there is memory for it.
    pub(crate) fn write(&mut self, page: u64) {
        self.value += 1;
        let value = self.value;
        if self.pages[page as usize].is_none() && self.world.paged.charge(Frames::new(1)).is_err() {
            self.refused += 1;
            return;
        }
        let wrote = self.access(page, |words| fill(words, value)).is_some();
        match (wrote, self.pages[page as usize]) {
            (true, before) => {
                self.pages[page as usize] = Some(value);
                self.live += u64::from(before.is_none());
            }
            (false, Some(_)) => {}
            (false, None) => self.world.paged.uncharge(Frames::new(1)),
        }
    }

    /// Reads a whole page, and looks whether it is what was written last. A page that was never written, or was
    /// discarded, is zeros, and is there from then on.
    pub(crate) fn read(&mut self, page: u64) {
        let Some(value) = self.pages[page as usize] else { return };
        if let Some(right) = self.access(page, |words| holds(words, value)) {
            assert!(right, "page {page} does not hold value {value}");
            self.verified += 1;
        }
    }

    /// Gives a page up, and looks at times whether it is gone.
    pub(crate) fn discard(&mut self, page: u64, look: bool) {
        self.world.paged.discard(&self.region, page..page + 1).expect("a page of the region");
        if self.pages[page as usize].take().is_some() {
            self.live -= 1;
            self.world.paged.uncharge(Frames::new(1));
        }
        if look && let Some(zeros) = self.access(page, |words| holds(words, 0)) {
            assert!(zeros, "page {page} was given up, and still holds something");
            self.world.paged.discard(&self.region, page..page + 1).expect("a page of the region");
        }
    }

    /// Looks at every page.
    pub(crate) fn verify(&mut self) {
        (0..self.size()).for_each(|page| self.read(page));
    }

    /// Ends. Every page is looked at once more, and gone afterwards.
    pub(crate) fn end(mut self) {
        self.verify();
        self.world.paged.uncharge(Frames::new(self.live));
        self.world.paged.release(self.region);
    }
}

const FILE: FileKey = [7, 7, 7];

/// A file of a file system over cleancache, and a page cache of one page.
pub(crate) struct File {
    world: &'static World,
    cache: &'static Cleancache<Host, &'static Mangled>,
    fs: Option<FileSystem<'static, Host, &'static Mangled>>,
    truth: HashMap<u64, u64>,
    value: u64,
    /// An old page may be cached: the file is not, until it is forgotten as a whole.
    banned: bool,
    frame: Option<Extent>,
    pub(crate) hits: u64,
}

impl File {
    pub(crate) fn new(world: &'static World) -> Self {
        let cache = Cleancache::new(world.host.rcu(), Some(world.tmem)).expect("the host has words");
        let cache: &'static Cleancache<_, _> = Box::leak(Box::new(cache));
        let frame = world.frames.alloc(Request::new(Use::Kernel, CPU)).expect("a frame for the page cache");
        let (truth, frame) = (HashMap::new(), Some(frame));
        Self { world, cache, fs: Some(cache.init_fs()), truth, value: 1 << 40, banned: false, frame, hits: 0 }
    }

    pub(crate) fn counters(&self) -> ebb::tmem::cleancache::CleanCounters {
        self.cache.counters()
    }

    /// Something happens to page `index`.
    pub(crate) fn act(&mut self, index: u64, random: &mut Rng) {
        let Some(fs) = &self.fs else { return };
        let extent = self.frame.as_mut().expect("the page cache has its frame");
        let mut page = Page::of(extent, &self.world.soft).expect("one frame");
        match random.below(10) {
            // It leaves the page cache.
            0..=4 if !self.banned => {
                self.value += 1;
                let value = *self.truth.entry(index).or_insert(self.value);
                fill(page.words_mut(), value);
                self.banned = !fs.put_page(FILE, index, &page);
            }
            // It is wanted again.
            5..=7 if !self.banned => {
                let hit = fs.get_page(FILE, index, &mut page);
                if hit {
                    let value = self.truth.get(&index).copied().expect("a hit of a page that was put");
                    assert!(holds(page.words_mut(), value), "page {index} of the file is an old one");
                    self.hits += 1;
                }
            }
            // It changes.
            8 => {
                self.banned |= !fs.invalidate_page(FILE, index);
                self.value += 1;
                self.truth.insert(index, self.value);
            }
            9 if self.banned || random.one_in(50) => {
                self.banned = !fs.invalidate_inode(FILE);
                self.truth.clear();
            }
            _ => {}
        }
    }

    /// The file system is unmounted.
    pub(crate) fn end(mut self) {
        if let Some(fs) = self.fs.take() {
            fs.invalidate_fs().expect("an honest hypervisor destroys a pool");
        }
        let frame = self.frame.take().expect("the page cache has its frame");
        self.world.frames.free(frame, Contents::Unknown, CPU).expect("a frame of ours");
    }
}
