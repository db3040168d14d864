//! One guest's connection to the store daemon: its ring, its watches and its transactions.

use super::tree::{Change, Tree};
use core::sync::atomic::Ordering;
use ebb::xen::SharedPage;
use ebb::xen::store::wire::{Header, Kind, PAYLOAD_MAX};
use std::collections::{BTreeMap, VecDeque};
use std::format;
use std::string::String;
use std::vec::Vec;
use xen_abi::Errno;

/// The page (Xen: `xen/include/public/io/xs_wire.h`), by numbers: a second source beside the kernel's.
const SIZE: u32 = 1024;
const REQ: usize = 0;
const RSP: usize = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;
const SERVER_FEATURES: usize = 2064;
const CONNECTION: usize = 2068;
const ERROR: usize = 2072;

/// How the daemon treats a guest.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// How many bytes one step moves in each direction.
    pub chunk: usize,
    /// Steps between the arrival of a request and its answer.
    pub delay: u32,
    /// Does nothing at all.
    pub silent: bool,
    /// Works, and tells the guest nothing of it.
    pub mute: bool,
}

#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) tree: Tree,
    /// What was read or written, with its version at that time.
    pub(super) seen: BTreeMap<String, Option<u64>>,
    pub(super) operations: Vec<Operation>,
}

#[derive(Debug)]
pub(super) enum Operation {
    Write(String, Option<Vec<u8>>),
    Remove(String),
    Permissions(String, Vec<(char, u16)>),
}

#[derive(Debug)]
pub(super) struct Watch {
    /// As the guest named it, and in full.
    pub(super) given: String,
    pub(super) path: String,
    pub(super) token: String,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) page: SharedPage,
    pub(super) behaviour: Behaviour,
    pub(super) input: Vec<u8>,
    pub(super) output: VecDeque<u8>,
    /// Steps until the request in `input` is answered.
    pub(super) due: Option<u32>,
    pub(super) watches: Vec<Watch>,
    pub(super) transactions: BTreeMap<u32, Transaction>,
    pub(super) next_transaction: u32,
    /// Takes the place of the next answers: their raw bytes.
    pub(super) instead: VecDeque<Vec<u8>>,
    pub(super) ignored: bool,
    pub(super) requests: u64,
    /// There is something to do: the guest sent an event, or nothing has been tried since there was output.
    pub(super) awake: bool,
}

impl Connection {
    pub(super) fn new(page: SharedPage) -> Self {
        page.u32(SERVER_FEATURES).store(3, Ordering::Release);
        Self {
            page,
            behaviour: Behaviour { chunk: usize::MAX, delay: 0, silent: false, mute: false },
            input: Vec::new(),
            output: VecDeque::new(),
            due: None,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            instead: VecDeque::new(),
            ignored: false,
            requests: 0,
            // Binding to the guest's port leaves it pending.
            awake: true,
        }
    }

    fn index(&self, offset: usize) -> u32 {
        self.page.u32(offset).load(Ordering::Acquire)
    }

    /// The daemon stops serving the domain and leaves the reason.
    fn ignore(&mut self, reason: u32) {
        self.ignored = true;
        self.page.u32(ERROR).store(reason, Ordering::Release);
    }

    /// The guest asks for a reconnection.
    pub(super) fn is_to_start_over(&self) -> bool {
        self.index(CONNECTION) == 1
    }

    pub(super) fn start_over(&mut self) {
        self.input.clear();
        self.output.clear();
        self.due = None;
        self.watches.clear();
        self.transactions.clear();
        self.ignored = false;
        for offset in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, ERROR] {
            self.page.u32(offset).store(0, Ordering::Release);
        }
        self.page.u32(CONNECTION).store(0, Ordering::Release);
    }

    pub(super) fn read(&mut self) -> bool {
        let (prod, mut cons) = (self.index(REQ_PROD), self.index(REQ_CONS));
        if prod.wrapping_sub(cons) > SIZE {
            self.ignore(2);
            return true;
        }
        let mut left = self.behaviour.chunk;
        while cons != prod && left > 0 {
            self.input.push(self.page.u8(REQ + (cons % SIZE) as usize).load(Ordering::Relaxed));
            cons = cons.wrapping_add(1);
            left -= 1;
        }
        self.page.u32(REQ_CONS).store(cons, Ordering::Release);
        left != self.behaviour.chunk
    }

    pub(super) fn write(&mut self) -> bool {
        let (mut prod, cons) = (self.index(RSP_PROD), self.index(RSP_CONS));
        let mut left = self.behaviour.chunk;
        while prod.wrapping_sub(cons) < SIZE && left > 0 {
            let Some(byte) = self.output.pop_front() else { break };
            self.page.u8(RSP + (prod % SIZE) as usize).store(byte, Ordering::Relaxed);
            prod = prod.wrapping_add(1);
            left -= 1;
        }
        self.page.u32(RSP_PROD).store(prod, Ordering::Release);
        left != self.behaviour.chunk
    }

    /// The next request, if it is whole and its delay is over.
    pub(super) fn due_request(&mut self) -> Option<(Header, Vec<u8>)> {
        let header = Header::from_bytes(self.input.first_chunk::<{ Header::SIZE }>()?);
        let length = header.len as usize;
        if length > PAYLOAD_MAX {
            self.ignore(3);
            return None;
        }
        if self.input.len() < Header::SIZE + length {
            return None;
        }
        let left = self.due.get_or_insert(self.behaviour.delay);
        if *left > 0 {
            *left -= 1;
            return None;
        }
        self.due = None;
        let rest = self.input.split_off(Header::SIZE + length);
        let payload = self.input.split_off(Header::SIZE);
        self.input = rest;
        Some((header, payload))
    }

    pub(super) fn answer(&mut self, header: Header, payload: &[u8]) {
        // An answer is never longer than the largest payload: longer lists are refused before.
        #[expect(clippy::cast_possible_truncation, reason = "at most PAYLOAD_MAX")]
        let length = payload.len() as u32;
        self.output.extend(Header { len: length, ..header }.to_bytes());
        self.output.extend(payload);
        self.awake = true;
    }

    pub(super) fn event(&mut self, path: &str, token: &str) {
        let header = Header { kind: Kind::WATCH_EVENT.0, ..Header::default() };
        self.answer(header, format!("{path}\0{token}\0").as_bytes());
    }
}

impl Operation {
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Write(path, _) | Self::Remove(path) | Self::Permissions(path, _) => path,
        }
    }

    pub(super) fn apply(&self, domain: u16, tree: &mut Tree) -> Result<Vec<Change>, Errno> {
        match self {
            Self::Write(path, value) => tree.write(domain, path, value.as_deref()),
            Self::Remove(path) => tree.remove(domain, path),
            Self::Permissions(path, permissions) => tree.set_permissions(domain, path, permissions.clone()),
        }
    }
}
