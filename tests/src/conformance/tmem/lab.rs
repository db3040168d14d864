//! What a case about tmem may ask of its surroundings beside hypercalls: other domains, the toolstack's controls, and
//! failures on demand. The model has it; a guest on Xen has not, and skips the cases that need it.

use ebb::port::PageKey;
use ebb::units::Gfn;
use xen_abi::Errno;

/// A control operation of the toolstack (Xen 4.12: sysctl 24).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Ends a freeze, of one client or of all that there are.
    Thaw(Option<u16>),
    /// Freezes one client, or all that there are.
    Freeze(Option<u16>),
    /// Evicts until tmem's free list holds this many KiB, and hands the list to the host.
    Flush(Option<u16>, u64),
    /// The list of statistics.
    List(u16),
    /// The weight of a client.
    SetWeight(u16, u32),
    /// Whether what a client puts is compressed.
    SetCompress(u16, bool),
    /// What tmem could give back, in MiB.
    FreeableMib,
    /// Makes a pool for a client that is being restored: its id and flags.
    SetPool(u16, usize, u32),
    /// Begins to save a client; live if so said.
    SaveBegin(u16, bool),
    /// The next page of a pool.
    SaveNextPage(u16, usize),
    /// The next page that went since the save began.
    SaveNextInvalidated(u16),
    /// Ends the save.
    SaveEnd(u16),
    /// Authorises a client for a shared pool.
    Authorise(u16, [u64; 2]),
    /// Takes that back.
    Deauthorise(u16, [u64; 2]),
    /// Makes a client, to restore it.
    RestoreBegin(u16),
    /// Restores a page of this many bytes, the first word of which is given; the others are zero.
    RestorePage(u16, usize, PageKey, u64, u64),
    /// Restores that a page is gone.
    RestoreFlush(u16, usize, PageKey),
    /// Any operation, with a field that must be 0 and is not.
    Padded,
    /// No operation.
    Unknown,
}

/// What a control operation answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The number.
    pub code: i64,
    /// The page that it is about.
    pub key: Option<PageKey>,
}

impl From<Result<i64, Errno>> for Answer {
    fn from(result: Result<i64, Errno>) -> Self {
        Self { code: result.unwrap_or_else(Errno::to_rax), key: None }
    }
}

/// A failure to come, in a put. Each happens once, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The host seems too short of memory: nothing is touched.
    PreCheck,
    /// There is no metadata: the object, the descriptor or a node.
    Metadata,
    /// There is no page for the data.
    Data,
    /// The guest's frame cannot be read.
    Copy,
}

/// The surroundings. Domains are named by number: the guest's own, and others, which exist once they are named and
/// have 16 frames of RAM from 0 up.
pub trait Lab {
    /// Whether it behaves as Xen 4.12 does, or as a service in its place should.
    fn has_defects(&self) -> bool;

    /// The number of the domain that runs the cases.
    fn own(&self) -> u16;

    /// `tmem_op` of another domain.
    ///
    /// # Safety
    ///
    /// As [`Transport::call`](ebb::xen::Transport::call).
    #[expect(unsafe_code, reason = "the contract of a hypercall")]
    unsafe fn call(&self, domid: u16, argument: u64) -> i64;

    /// A word of another domain's frame.
    fn read(&self, domid: u16, frame: Gfn, index: usize) -> u64;

    /// Writes a word of another domain's frame.
    fn write(&self, domid: u16, frame: Gfn, index: usize, value: u64);

    /// Frames that a domain is charged.
    fn charged(&self, domid: u16) -> u64;

    /// Sets the most that a domain may be charged.
    fn set_limit(&self, domid: u16, frames: u64);

    /// A domain begins to die.
    fn doom(&self, domid: u16);

    /// A domain is gone.
    fn kill(&self, domid: u16);

    /// A control operation.
    fn control(&self, control: Control) -> Answer;

    /// Something is going to fail.
    fn fail(&self, fault: Fault);

    /// Whether a frame of the own domain counts as plain RAM; not while writes to it are logged, or forbidden.
    fn set_plain(&self, frame: Gfn, plain: bool);

    /// Another domain's page appears in a hole of the own domain, as a grant would map it.
    fn map_grant(&self, hole: Gfn);

    /// Evicts one ephemeral page; whether there was one.
    fn evict(&self) -> bool;

    /// Other domains take host memory until only so many frames are free.
    fn squeeze(&self, left: u64);

    /// They give it back.
    fn relax(&self);

    /// Free frames of the host, tmem's free list not among them.
    fn host_free(&self) -> u64;

    /// The service starts again, and knows nothing any more.
    fn restart(&self);
}
