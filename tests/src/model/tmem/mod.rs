//! Transcendent memory, as Xen 4.12 served it: the data of pages, their order, what they cost and whom.
//!
//! | file | what it models |
//! |---|---|
//! | `dispatch` | the order of checks; pools made and destroyed |
//! | `page` | put, get, flush |
//! | `memory` | where pages come from: accounts, the free list, the pre-check, eviction |
//! | `shared` | shared pools: joining and leaving |
//! | `arena`, `radix` | what metadata costs, to the byte |
//! | `control` | what the toolstack could do |
//! | `neighbour` | other domains of the host |
//!
//! Later Xens have none of it, and that is the default ([`Service::Absent`]). [`Service::Xen412`] has the documented
//! defects; [`Service::Sound`] is what a service that takes its place must do instead. What Xen left undefined is
//! answered safely and noted as a [`Hazard`]: a client that causes one would have corrupted the hypervisor.
//!
//! Not modelled: the text of the list command, `donate_page` failures, PV guests. Compression is an estimate: words
//! that repeat count once.

mod arena;
mod control;
mod dispatch;
mod memory;
mod neighbour;
mod page;
mod radix;
mod shared;

use super::host::Mfn;
use super::state::State;
use crate::conformance::tmem::Fault;
use arena::{Arena, Piece};
use ebb::port::PageKey;
use radix::Radix;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::format;
use std::string::String;
use std::vec::Vec;
use xen_abi::Errno;

pub use neighbour::Neighbour;

/// What a page holds.
type Words = [u64; super::pages::WORDS];
/// A pool, host-wide.
type PoolNumber = u32;
/// 192 bits of name.
type ObjectId = [u64; 3];

/// Pool ids of a domain.
const SLOTS: usize = xen_abi::tmem::MAX_POOLS as usize;
/// Structures of Xen 4.12 in metadata, in bytes.
const OBJECT_BYTES: u64 = 120;
const NODE_BYTES: u64 = 528;
const DESCRIPTOR_BYTES: u64 = 72;

/// Whether and how the hypervisor serves tmem.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Service {
    /// Not compiled in: Xen 4.13 and later, and 4.12 by default.
    #[default]
    Absent,
    /// Compiled in and not switched on.
    Disabled,
    /// Refused by the security policy.
    Denied,
    /// As Xen 4.12 serves it, defects included.
    Xen412,
    /// As a service should: nothing stale, nothing lost, nothing leaked.
    Sound,
}

/// Something that Xen leaves undefined, and that a client must never cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hazard {
    /// A get from a private ephemeral pool into a frame that cannot be written: Xen's lists name freed memory.
    GetIntoBadFrame,
    /// The id of a shared pool that could not be made was used: Xen follows a stale pointer.
    DanglingPool,
    /// Two vCPUs made the domain's first call at once: Xen makes two clients and loses one.
    FirstCallsAtOnce,
    /// A pool was destroyed while it was being used: Xen frees it under the user.
    DestroyedInUse,
    /// A pool was destroyed while its client was being migrated: its pages stay charged.
    DestroyedWhileMigrating,
    /// The page at which an enumeration stood went away, or the only page was skipped: Xen reads what is not a page.
    BogusEnumeration,
}

enum Data {
    Whole {
        mfn: Mfn,
        words: Box<Words>,
    },
    Packed {
        piece: Piece,
        words: Box<Words>,
    },
    /// Between the release of old data and the arrival of new.
    Nothing,
}

struct Page {
    data: Data,
    descriptor: Piece,
    /// Its age, in the list that it is on.
    order: u64,
}

struct Object {
    pages: BTreeMap<u32, Page>,
    radix: Radix,
    piece: Piece,
    last_client: u16,
}

struct Pool {
    persistent: bool,
    uuid: Option<[u64; 2]>,
    /// The client whose flags count.
    owner: u16,
    /// Who has it; a shared pool may be joined twice.
    members: Vec<u16>,
    /// Somebody has left: Xen never evicts from it again.
    dying: bool,
    objects: BTreeMap<ObjectId, Object>,
    pages: u64,
    /// Persistent pages, oldest first.
    ages: BTreeMap<u64, (ObjectId, u32)>,
    /// The last page that was enumerated for saving.
    cursor: Option<u64>,
}

/// Where an ephemeral page is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    pool: PoolNumber,
    object: ObjectId,
    index: u32,
}

#[derive(Default)]
struct Client {
    slots: [Option<PoolNumber>; SLOTS],
    weight: u32,
    frozen: bool,
    was_frozen: bool,
    migrating: bool,
    compress: bool,
    authorised: Vec<[u64; 2]>,
    /// Ephemeral pages, oldest first.
    ephemeral: BTreeMap<u64, Place>,
    /// Metadata of persistent pages.
    arena: Arena,
    /// Persistent pages that went while the client was being migrated, in order.
    invalidated: VecDeque<(i32, PageKey)>,
}

/// Everything that tmem knows.
#[derive(Default)]
pub(super) struct Tmem {
    service: Service,
    compress: bool,
    clients: BTreeMap<u16, Client>,
    pools: BTreeMap<PoolNumber, Pool>,
    next_pool: PoolNumber,
    shared: [Option<PoolNumber>; xen_abi::tmem::MAX_SHARED_POOLS as usize],
    /// Ephemeral pages of all clients, oldest first.
    ephemeral: BTreeMap<u64, Place>,
    next_order: u64,
    /// Whole pages that hold ephemeral data.
    ephemeral_data: u64,
    /// Metadata of ephemeral pages.
    arena: Arena,
    /// Pages that tmem keeps for itself.
    free: Vec<Mfn>,
    total_weight: u64,
    neighbours: BTreeMap<u16, neighbour::Domain>,
    /// Domains that are dying.
    dying: BTreeSet<u16>,
    /// Frames of the domain that are RAM but not of the plain type: read-only, or clean while writes are logged.
    not_plain: BTreeSet<u64>,
    /// While the toolstack has writes logged: a digest of what each frame of RAM held when it looked last.
    logged: Option<Vec<u64>>,
    /// The object that is locked by the call in progress.
    locked: Option<(PoolNumber, ObjectId)>,
    faults: VecDeque<Fault>,
    hazards: Vec<Hazard>,
    dangling: BTreeSet<(u16, usize)>,
    /// Calls on each pool id that have begun and not taken the lock yet.
    in_flight: [u32; SLOTS],
    /// Calls by the name of their command.
    calls: BTreeMap<u32, u64>,
}

impl Tmem {
    pub(super) fn new(service: Service, compress: bool) -> Self {
        Self { service, compress, ..Self::default() }
    }

    fn is_served(&self) -> bool {
        matches!(self.service, Service::Xen412 | Service::Sound)
    }

    fn is_sound(&self) -> bool {
        self.service == Service::Sound
    }

    fn pool(&mut self, number: PoolNumber) -> &mut Pool {
        self.pools.get_mut(&number).expect("model: a pool that there is")
    }

    fn client(&mut self, domid: u16) -> &mut Client {
        self.clients.get_mut(&domid).expect("model: a client that there is")
    }

    fn object(&mut self, number: PoolNumber, object: ObjectId) -> Option<&mut Object> {
        self.pools.get_mut(&number)?.objects.get_mut(&object)
    }

    fn owner(&mut self, number: PoolNumber) -> &mut Client {
        let owner = self.pool(number).owner;
        self.client(owner)
    }

    fn take_fault(&mut self, fault: Fault) -> bool {
        let hit = self.faults.front() == Some(&fault);
        if hit {
            self.faults.pop_front();
        }
        hit
    }

    fn order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    /// Every host frame that tmem has, and the domain that is charged for it.
    fn frames(&self) -> impl Iterator<Item = (Mfn, Option<u16>)> {
        let data = self.pools.values().flat_map(|pool| {
            let charged = pool.persistent.then_some(pool.owner);
            pool.objects.values().flat_map(|object| object.pages.values()).filter_map(move |page| {
                if let Data::Whole { mfn, .. } = page.data { Some((mfn, charged)) } else { None }
            })
        });
        let arenas = self.clients.values().map(|client| &client.arena).chain([&self.arena]);
        let metadata = arenas.flat_map(Arena::regions).map(|region| (region.mfn, region.charged));
        let free = self.free.iter().map(|mfn| (*mfn, None));
        let neighbours = self
            .neighbours
            .iter()
            .flat_map(|(domid, neighbour)| neighbour.ram.iter().map(move |mfn| (*mfn, Some(*domid))));
        data.chain(metadata).chain(free).chain(neighbours)
    }
}

impl State {
    /// The frames of tmem, for the books of the host: with the domain's own marked.
    pub(super) fn tmem_frames(&self) -> impl Iterator<Item = (Mfn, bool)> {
        let own = self.config.domid;
        self.tmem.frames().map(move |(mfn, charged)| (mfn, charged == Some(own)))
    }

    /// Whether tmem's own counters are what they count.
    pub(super) fn validate_tmem(&self) -> Result<(), String> {
        let tmem = &self.tmem;
        for (domid, neighbour) in &tmem.neighbours {
            let owned = tmem.frames().filter(|(_, charged)| *charged == Some(*domid)).count() as u64;
            if owned != neighbour.charged {
                return Err(format!("domain {domid} is charged {}, and owns {owned}", neighbour.charged));
            }
        }
        let (mut data, mut ephemeral) = (0, 0);
        for (number, pool) in &tmem.pools {
            let pages: usize = pool.objects.values().map(|object| object.pages.len()).sum();
            if pages as u64 != pool.pages || pool.objects.values().any(|object| object.pages.is_empty()) {
                return Err(format!("pool {number} counts {} pages and has {pages}", pool.pages));
            }
            if pool.persistent && pool.ages.len() != pages {
                return Err(format!("pool {number} lists {} pages and has {pages}", pool.ages.len()));
            }
            if !pool.persistent {
                ephemeral += pages;
                data += pool
                    .objects
                    .values()
                    .flat_map(|object| object.pages.values())
                    .filter(|page| matches!(page.data, Data::Whole { .. }))
                    .count() as u64;
            }
        }
        let listed: usize = tmem.clients.values().map(|client| client.ephemeral.len()).sum();
        if (tmem.ephemeral.len(), listed) != (ephemeral, ephemeral) || data != tmem.ephemeral_data {
            return Err(format!("{ephemeral} ephemeral pages, {} and {listed} listed", tmem.ephemeral.len()));
        }
        Ok(())
    }
}

/// The number that a call answers.
fn answer(result: Result<i64, Errno>) -> i64 {
    result.unwrap_or_else(Errno::to_rax)
}
