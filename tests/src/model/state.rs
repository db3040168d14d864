//! Everything that Xen knows of the domain, and how the toolstack builds it.

use super::event::Events;
use super::fault::Faults;
use super::host::{Host, Mfn};
use super::p2m::{self, P2m, Slot};
use super::pages::Pages;
use super::pod::Pod;
use super::time::Time;
use super::tmem::{Service, Tmem};
use ebb::units::Gfn;
use std::collections::BTreeSet;
use std::vec::Vec;
use xen_abi::memory::{self, E820Entry};
use xen_abi::{hvm, vcpu};

/// Frames in a MiB.
const MIB_FRAMES: u64 = 256;
/// What the toolstack adds to a target: 1 MiB.
const SLACK_FRAMES: u64 = 256;
/// First of the toolstack's eight special pages.
const SPECIAL: u64 = 0xFEFF8;
/// First of the pages with ACPI tables.
const ACPI: u64 = 0xFC000;
/// How many of those there are.
const ACPI_FRAMES: u64 = 4;
/// The local APIC.
const APIC: u64 = 0xFEE00;

/// The machine and the domain, as the toolstack builds them.
#[derive(Clone, Debug)]
pub struct Config {
    /// `maxmem`: what the memory map shows.
    pub maximum_mib: u64,
    /// `memory`: what the domain gets. If it is less, memory is populated on demand.
    pub memory_mib: u64,
    /// The host's memory.
    pub host_mib: u64,
    /// vCPUs; number 0 is up.
    pub vcpus: u32,
    /// The domain's number.
    pub domid: u16,
    /// The largest order that the domain may use.
    pub order_limit: u32,
    /// Page-table pages, or `None` for plenty.
    pub paging_pool: Option<u64>,
    /// Bits of a guest frame number.
    pub frame_bits: u32,
    /// The highest event-channel port.
    pub highest_port: u32,
    /// For everything that happens at random.
    pub seed: u64,
    /// Transcendent memory.
    pub tmem: Service,
    /// Whether it compresses what it can.
    pub tmem_compress: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            maximum_mib: 16,
            memory_mib: 16,
            host_mib: 64,
            vcpus: 1,
            domid: 1,
            order_limit: memory::DOMU_MAX_ORDER,
            paging_pool: None,
            frame_bits: 36,
            highest_port: 1023,
            seed: 0x9E37_79B9_7F4A_7C15,
            tmem: Service::Absent,
            tmem_compress: false,
        }
    }
}

/// Why Xen crashed the domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// A populate-on-demand frame was touched, and the cache was dry.
    OutOfPodMemory(Gfn),
    /// A page-table page was needed where failure cannot be told.
    PagingPoolEmpty(Gfn),
    /// Memory was to be populated over a device or another domain's page.
    PopulatedOver(Gfn),
}

/// Everything that Xen knows of the domain.
pub(super) struct State {
    pub(super) config: Config,
    pub(super) ram_frames: u64,
    pub(super) pages: Pages,
    pub(super) p2m: P2m,
    pub(super) host: Host,
    pub(super) pod: Pod,
    /// Frames that the domain is charged for.
    pub(super) charged: u64,
    /// The most that it may be charged.
    pub(super) limit: u64,
    /// Frames charged and mapped nowhere, for ever.
    pub(super) leaked: BTreeSet<Mfn>,
    /// Frames that other domains have.
    pub(super) taken: Vec<Mfn>,
    pub(super) e820: Vec<E820Entry>,
    pub(super) events: Events,
    pub(super) time: Time,
    pub(super) interrupts: Vec<bool>,
    pub(super) params: [u64; hvm::NR_PARAMS as usize],
    pub(super) contexts: Vec<Option<vcpu::HvmContext>>,
    pub(super) up: Vec<bool>,
    pub(super) upcall_vectors: Vec<Option<u8>>,
    pub(super) faults: Faults,
    pub(super) tmem: Tmem,
    pub(super) random: u64,
    pub(super) stale: u64,
    pub(super) hypercalls: u64,
    pub(super) shutdown: Option<u32>,
    pub(super) crash: Option<Crash>,
}

impl State {
    /// A host and a freshly built domain.
    pub(super) fn new(config: Config) -> Self {
        assert!(
            config.maximum_mib.is_multiple_of(2) && config.memory_mib.is_multiple_of(2),
            "model: whole blocks"
        );
        assert!(config.memory_mib <= config.maximum_mib && config.vcpus > 0, "model: a possible domain");
        let ram_frames = config.maximum_mib * MIB_FRAMES;
        let pages = Pages::new(ram_frames);
        let vcpus = config.vcpus as usize;
        let mut state = Self {
            ram_frames,
            events: Events::new(pages.private(), config.highest_port),
            pages,
            p2m: P2m::new(ram_frames, config.paging_pool),
            host: Host::new(config.host_mib * MIB_FRAMES),
            pod: Pod::default(),
            charged: 0,
            limit: limit_of(config.memory_mib),
            leaked: BTreeSet::new(),
            taken: Vec::new(),
            e820: Vec::new(),
            time: Time::new(config.vcpus),
            interrupts: std::vec![false; vcpus],
            params: [0; hvm::NR_PARAMS as usize],
            contexts: std::vec![None; vcpus],
            up: (0..vcpus).map(|vcpu| vcpu == 0).collect(),
            upcall_vectors: std::vec![None; vcpus],
            faults: Faults::default(),
            tmem: Tmem::new(config.tmem, config.tmem_compress),
            random: config.seed | 1,
            stale: 0,
            hypercalls: 0,
            shutdown: None,
            crash: None,
            config,
        };
        state.contexts[0] = Some(vcpu::HvmContext::default());
        state.construct();
        state
    }

    pub(super) fn crash(&mut self, crash: Crash) {
        self.crash.get_or_insert(crash);
    }

    /// Whether Xen puts a long call aside between two extents.
    pub(super) fn preempted(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.is_multiple_of(4)
    }

    /// What a populated frame happens to hold: never zeros, never all ones.
    pub(super) fn stale(&mut self) -> u64 {
        self.stale += 1;
        0x57A1_E000_0000_0000 | self.stale
    }

    /// Host memory for the domain's construction.
    fn build(&mut self, order: u32) -> Mfn {
        let first = self.host.allocate(order).expect("model: the host has memory for the domain");
        self.charged += 1 << order;
        first
    }

    /// What the toolstack does.
    fn construct(&mut self) {
        let on_demand = self.config.memory_mib < self.config.maximum_mib;
        for block in 0..self.ram_frames / p2m::BLOCK {
            let first = Gfn::new(block * p2m::BLOCK);
            if on_demand {
                self.p2m.set_large(first, |_| Slot::PopulateOnDemand);
            } else {
                let base = self.build(9);
                self.p2m.set_large(first, |index| Slot::Ram(base + index as Mfn));
            }
        }
        if on_demand {
            self.pod.entries = self.ram_frames;
            for _ in 0..self.config.memory_mib * MIB_FRAMES / p2m::BLOCK {
                let base = self.build(9);
                self.pod.cache.extend(base..base + p2m::BLOCK as Mfn);
            }
        }
        for page in (ACPI..ACPI + ACPI_FRAMES).chain(SPECIAL..SPECIAL + 8) {
            let slot = Slot::Special(self.build(0));
            self.p2m.set(Gfn::new(page), slot).expect("model: the paging pool is enough to build the domain");
        }
        self.p2m
            .set(Gfn::new(APIC), Slot::Device)
            .expect("model: the paging pool is enough to build the domain");
        let frame = 4096;
        self.e820 = std::vec![
            E820Entry { start: 0, size: self.ram_frames * frame, kind: memory::E820_RAM },
            E820Entry { start: SPECIAL * frame, size: 8 * frame, kind: memory::E820_RESERVED },
            E820Entry { start: ACPI * frame, size: ACPI_FRAMES * frame, kind: memory::E820_ACPI },
        ];
        self.params[hvm::PARAM_STORE_PFN as usize] = SPECIAL + 4;
        self.params[hvm::PARAM_STORE_EVTCHN as usize] = 1;
        self.params[hvm::PARAM_CONSOLE_PFN as usize] = SPECIAL + 7;
        self.params[hvm::PARAM_CONSOLE_EVTCHN as usize] = 2;
    }
}

/// The limit that the toolstack sets for a target.
pub(super) const fn limit_of(target_mib: u64) -> u64 {
    target_mib * MIB_FRAMES + SLACK_FRAMES
}
