//! The store daemon: xenstored's answers over a guest's ring.
//!
//! Semantics are those of the C daemon of Xen 4.17: relative paths, watches that fire at once, transactions that
//! conflict by node, permissions and quotas. [`Behaviour`] and the `inject` calls make it slow, silent or wrong.

use super::tree::{Change, Tree, is_within};
use core::sync::atomic::Ordering;
use ebb::units::DomId;
use ebb::xen::SharedPage;
use ebb::xen::store::wire::{HEADER_SIZE, Header, Kind, PAYLOAD_MAX};
use std::collections::{BTreeMap, VecDeque};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;
use xen_abi::Errno;

/// The page (Xen: `xen/include/public/io/xs_wire.h`).
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

/// Watches and transactions that a domain may have.
const WATCHES: usize = 128;
const TRANSACTIONS: usize = 10;

/// How the daemon treats a guest.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// How many bytes one step moves in each direction.
    pub chunk: usize,
    /// Steps between the arrival of a request and its answer.
    pub delay: u32,
    /// Does nothing at all.
    pub silent: bool,
}

#[derive(Debug)]
struct Transaction {
    tree: Tree,
    /// What was read or written, with its version at that time.
    seen: BTreeMap<String, Option<u64>>,
    operations: Vec<Operation>,
}

#[derive(Debug)]
enum Operation {
    Write(String, Option<Vec<u8>>),
    Remove(String),
    Permissions(String, Vec<(char, u16)>),
}

#[derive(Debug)]
struct Watch {
    /// As the guest named it, and in full.
    given: String,
    path: String,
    token: String,
}

#[derive(Debug)]
struct Connection {
    page: SharedPage,
    behaviour: Behaviour,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Steps until the request in `input` is answered.
    due: Option<u32>,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    /// Takes the place of the next answers: their raw bytes.
    instead: VecDeque<Vec<u8>>,
    ignored: bool,
    requests: u64,
}

/// The daemon and its tree.
#[derive(Debug)]
pub struct Xenstored {
    tree: Tree,
    connections: BTreeMap<u16, Connection>,
}

impl Default for Xenstored {
    fn default() -> Self {
        Self::new()
    }
}

impl Xenstored {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self { tree: Tree::new(), connections: BTreeMap::new() }
    }

    /// Begins to serve a domain, with the nodes that the toolstack makes for it.
    pub fn introduce(&mut self, domain: DomId, page: SharedPage) {
        let number = domain.get();
        let home = format!("/local/domain/{number}");
        let read_only = [('n', 0), ('r', number)];
        let owned = [('n', number)];
        for (name, value, permissions) in [
            ("", "", &read_only[..]),
            ("/domid", &number.to_string(), &read_only),
            ("/memory", "", &read_only),
            ("/control", "", &read_only),
            ("/control/platform-feature-xs_reset_watches", "1", &read_only),
            ("/control/shutdown", "", &owned),
            ("/control/feature-poweroff", "", &owned),
            ("/control/feature-reboot", "", &owned),
            ("/control/feature-suspend", "", &owned),
            ("/control/sysrq", "", &owned),
            ("/data", "", &owned),
            ("/drivers", "", &owned),
            ("/feature", "", &owned),
            ("/attr", "", &owned),
            ("/error", "", &owned),
            ("/device", "", &read_only),
        ] {
            let path = format!("{home}{name}");
            let made = self.tree.write(0, &path, Some(value.as_bytes()));
            let given = self.tree.set_permissions(0, &path, permissions.to_vec());
            assert!(made.is_ok() && given.is_ok(), "dom0 may do everything");
        }
        page.u32(SERVER_FEATURES).store(3, Ordering::Release);
        let connection = Connection {
            page,
            behaviour: Behaviour { chunk: usize::MAX, delay: 0, silent: false },
            input: Vec::new(),
            output: VecDeque::new(),
            due: None,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            instead: VecDeque::new(),
            ignored: false,
            requests: 0,
        };
        self.connections.insert(number, connection);
    }

    fn connection(&mut self, domain: DomId) -> &mut Connection {
        match self.connections.get_mut(&domain.get()) {
            Some(connection) => connection,
            None => unreachable!("{domain:?} was never introduced"),
        }
    }

    /// How the daemon treats `domain`.
    pub fn behaviour(&mut self, domain: DomId) -> &mut Behaviour {
        &mut self.connection(domain).behaviour
    }

    /// Sends `bytes` to the guest, whatever they are.
    pub fn inject(&mut self, domain: DomId, bytes: &[u8]) {
        self.connection(domain).output.extend(bytes);
    }

    /// Answers the next request with these bytes. If they are a header's worth or more, the request's own number
    /// goes where an answer has it.
    pub fn inject_answer(&mut self, domain: DomId, bytes: &[u8]) {
        self.connection(domain).instead.push_back(bytes.to_vec());
    }

    /// How many requests of `domain` were carried out.
    #[must_use]
    pub fn requests(&mut self, domain: DomId) -> u64 {
        self.connection(domain).requests
    }

    /// How many transactions `domain` has open.
    #[must_use]
    pub fn open_transactions(&mut self, domain: DomId) -> usize {
        self.connection(domain).transactions.len()
    }

    /// How many watches `domain` has.
    #[must_use]
    pub fn watches(&mut self, domain: DomId) -> usize {
        self.connection(domain).watches.len()
    }

    /// The value of an absolute path, as dom0 reads it.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<String> {
        self.tree.get(path).map(|node| String::from_utf8_lossy(&node.value).into_owned())
    }

    /// Writes as dom0, which may.
    pub fn set(&mut self, path: &str, value: &str) {
        match self.tree.write(0, path, Some(value.as_bytes())) {
            Ok(changes) => self.fire(&changes),
            Err(error) => unreachable!("dom0 may write {path}: {error}"),
        }
    }

    /// Removes as dom0, which may.
    pub fn remove(&mut self, path: &str) {
        match self.tree.remove(0, path) {
            Ok(changes) => self.fire(&changes),
            Err(error) => unreachable!("dom0 may remove {path}: {error}"),
        }
    }

    /// Moves bytes of one guest's ring and carries out what is whole and due; answers whether the guest gets an
    /// event.
    pub fn step(&mut self, domain: DomId) -> bool {
        let connection = self.connection(domain);
        if connection.behaviour.silent {
            return false;
        }
        if connection.page.u32(CONNECTION).load(Ordering::Acquire) == 1 {
            connection.start_over();
            return true;
        }
        if connection.ignored {
            return false;
        }
        let read = connection.read();
        if let Some((header, payload)) = connection.due_request() {
            connection.requests += 1;
            let instead = connection.instead.pop_front();
            let answer = self.carry_out(domain.get(), header, &payload);
            let connection = self.connection(domain);
            match (instead, answer) {
                (Some(mut bytes), _) => {
                    if let Some(number) = bytes.get_mut(4..8) {
                        number.copy_from_slice(&header.request.to_le_bytes());
                    }
                    connection.output.extend(bytes);
                }
                (None, Ok((payload, changes))) => {
                    connection.answer(header, &payload);
                    // The answer to a watch comes before the event that it causes at once.
                    if header.kind == Kind::WATCH
                        && let Some(watch) = connection.watches.last()
                    {
                        let (given, token) = (watch.given.clone(), watch.token.clone());
                        connection.event(&given, &token);
                    }
                    self.fire(&changes);
                }
                (None, Err(error)) => {
                    let name = format!("{error}\0");
                    connection.answer(Header { kind: Kind::ERROR, ..header }, name.as_bytes());
                }
            }
        }
        self.connection(domain).write() || read
    }

    /// Tells watches of changes.
    fn fire(&mut self, changes: &[Change]) {
        for (number, connection) in &mut self.connections {
            let home = format!("/local/domain/{number}/");
            for change in changes {
                if !self.tree.allows(*number, &change.path, 'r') {
                    continue;
                }
                let told: Vec<(String, String)> = connection
                    .watches
                    .iter()
                    .filter(|watch| {
                        watch.path == change.path || (!change.exact && is_within(&change.path, &watch.path))
                    })
                    .map(|watch| {
                        let path = match change.path.strip_prefix(&home) {
                            Some(relative) if !watch.given.starts_with('/') => relative,
                            _ => &change.path,
                        };
                        (path.to_string(), watch.token.clone())
                    })
                    .collect();
                told.iter().for_each(|(path, token)| connection.event(path, token));
            }
        }
    }

    fn carry_out(&mut self, domain: u16, header: Header, payload: &[u8]) -> Outcome {
        let strings = || -> Result<Vec<&str>, Errno> {
            let ended = payload.strip_suffix(&[0]).ok_or(Errno::EINVAL)?;
            ended
                .split(|byte| *byte == 0)
                .map(|one| core::str::from_utf8(one).map_err(|_| Errno::EINVAL))
                .collect()
        };
        match header.kind {
            Kind::WATCH | Kind::UNWATCH => {
                let [path, token] = <[&str; 2]>::try_from(strings()?).map_err(|_| Errno::EINVAL)?;
                self.watch(domain, header.kind == Kind::WATCH, path, token)
            }
            Kind::RESET_WATCHES => {
                let connection = self.connection(DomId::new(domain));
                connection.watches.clear();
                connection.transactions.clear();
                ok()
            }
            Kind::GET_DOMAIN_PATH => {
                let number: u16 = strings()?.first().and_then(|one| one.parse().ok()).ok_or(Errno::EINVAL)?;
                Ok((format!("/local/domain/{number}\0").into_bytes(), Vec::new()))
            }
            Kind::TRANSACTION_START if header.transaction != 0 => Err(Errno::EBUSY),
            Kind::TRANSACTION_START => self.start(domain),
            Kind::TRANSACTION_END => {
                let commit = match strings()?[..] {
                    ["T"] => true,
                    ["F"] => false,
                    _ => return Err(Errno::EINVAL),
                };
                self.end(domain, header.transaction, commit)
            }
            Kind::DIRECTORY
            | Kind::DIRECTORY_PART
            | Kind::READ
            | Kind::GET_PERMS
            | Kind::WRITE
            | Kind::MKDIR
            | Kind::RM
            | Kind::SET_PERMS => self.node_request(domain, header, payload, strings),
            Kind(0 | 8 | 9 | 18 | 19) => Err(Errno::EACCES),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn watch(&mut self, domain: u16, add: bool, given: &str, token: &str) -> Outcome {
        let path = if given.starts_with('@') { given.to_string() } else { full_path(domain, given)? };
        let watches = &mut self.connection(DomId::new(domain)).watches;
        let at = watches.iter().position(|watch| watch.path == path && watch.token == token);
        match (add, at) {
            (true, Some(_)) => return Err(Errno::EEXIST),
            (true, None) if watches.len() >= WATCHES => return Err(Errno::E2BIG),
            (true, None) => {
                watches.push(Watch { given: given.to_string(), path, token: token.to_string() });
            }
            (false, Some(index)) => {
                watches.remove(index);
            }
            (false, None) => return Err(Errno::ENOENT),
        }
        ok()
    }

    fn start(&mut self, domain: u16) -> Outcome {
        let tree = self.tree.clone();
        let connection = self.connection(DomId::new(domain));
        if connection.transactions.len() >= TRANSACTIONS {
            return Err(Errno::ENOSPC);
        }
        let id = connection.next_transaction;
        connection.next_transaction += 1;
        connection
            .transactions
            .insert(id, Transaction { tree, seen: BTreeMap::new(), operations: Vec::new() });
        Ok((format!("{id}\0").into_bytes(), Vec::new()))
    }

    fn end(&mut self, domain: u16, id: u32, commit: bool) -> Outcome {
        let transactions = &mut self.connection(DomId::new(domain)).transactions;
        let transaction = transactions.remove(&id).ok_or(Errno::ENOENT)?;
        if !commit {
            return ok();
        }
        if transaction.seen.iter().any(|(path, version)| self.tree.version(path) != *version) {
            return Err(Errno::EAGAIN);
        }
        let mut changes = Vec::new();
        for operation in &transaction.operations {
            changes.extend(operation.apply(domain, &mut self.tree)?);
        }
        Ok((b"OK\0".to_vec(), changes))
    }

    /// A request about one node, in a transaction or not.
    fn node_request<'p>(
        &mut self,
        domain: u16,
        header: Header,
        payload: &'p [u8],
        strings: impl Fn() -> Result<Vec<&'p str>, Errno>,
    ) -> Outcome {
        let end = payload.iter().position(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
        let given = core::str::from_utf8(&payload[..end]).map_err(|_| Errno::EINVAL)?;
        let path = full_path(domain, given)?;
        let operation = match header.kind {
            Kind::WRITE => Some(Operation::Write(path.clone(), Some(payload[end + 1..].to_vec()))),
            Kind::MKDIR => Some(Operation::Write(path.clone(), None)),
            Kind::RM => Some(Operation::Remove(path.clone())),
            Kind::SET_PERMS => {
                let permissions: Option<Vec<(char, u16)>> = strings()?[1..]
                    .iter()
                    .map(|one| {
                        let (may, whose) = one.split_at_checked(1)?;
                        Some((may.chars().next().filter(|may| "nrwb".contains(*may))?, whose.parse().ok()?))
                    })
                    .collect();
                let permissions = permissions.filter(|list| !list.is_empty()).ok_or(Errno::EINVAL)?;
                Some(Operation::Permissions(path.clone(), permissions))
            }
            _ => None,
        };
        let tree = if header.transaction == 0 {
            &mut self.tree
        } else {
            let transactions = match self.connections.get_mut(&domain) {
                Some(connection) => &mut connection.transactions,
                None => return Err(Errno::ENOENT),
            };
            let transaction = transactions.get_mut(&header.transaction).ok_or(Errno::ENOENT)?;
            let version = transaction.tree.version(&path);
            if transaction.operations.iter().all(|operation| operation.path() != path) {
                transaction.seen.entry(path.clone()).or_insert(version);
            }
            if let Some(operation) = operation {
                operation.apply(domain, &mut transaction.tree)?;
                transaction.operations.push(operation);
                return ok();
            }
            &mut transaction.tree
        };
        if let Some(operation) = operation {
            return Ok((b"OK\0".to_vec(), operation.apply(domain, tree)?));
        }
        if !tree.allows(domain, &path, 'r') {
            return Err(Errno::EACCES);
        }
        let node = tree.get(&path).ok_or(Errno::ENOENT)?;
        let names =
            || -> Vec<u8> { tree.children(&path).iter().flat_map(|name| name.bytes().chain([0])).collect() };
        let answer = match header.kind {
            Kind::READ => node.value.clone(),
            Kind::GET_PERMS => node
                .permissions
                .iter()
                .flat_map(|(may, whose)| format!("{may}{whose}\0").into_bytes())
                .collect(),
            Kind::DIRECTORY if names().len() > PAYLOAD_MAX => return Err(Errno::E2BIG),
            Kind::DIRECTORY => names(),
            _ => {
                let offset = strings()?.get(1).and_then(|one| one.parse().ok()).ok_or(Errno::EINVAL)?;
                part(node.generation, &names(), offset)
            }
        };
        Ok((answer, Vec::new()))
    }
}

/// An answer's payload and the changes to tell, or an error's name.
type Outcome = Result<(Vec<u8>, Vec<Change>), Errno>;

fn ok() -> Outcome {
    Ok((b"OK\0".to_vec(), Vec::new()))
}

/// What is left of a list of names from `offset`, as far as it fits, whole names only.
fn part(generation: u64, names: &[u8], offset: usize) -> Vec<u8> {
    let mut answer = format!("{generation}\0").into_bytes();
    let rest = names.get(offset..).unwrap_or(&[]);
    let room = PAYLOAD_MAX - answer.len() - 1;
    if rest.len() <= room {
        answer.extend_from_slice(rest);
        answer.push(0);
    } else {
        let end = rest[..room].iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
        answer.extend_from_slice(&rest[..end]);
    }
    answer
}

/// A path in full, if it is one.
fn full_path(domain: u16, path: &str) -> Result<String, Errno> {
    let full =
        if path.starts_with('/') { path.to_string() } else { format!("/local/domain/{domain}/{path}") };
    let legal = |c: char| c.is_ascii_alphanumeric() || "-/_@".contains(c);
    let fits = !path.is_empty() && path.len() <= 2048 && full.len() <= 3072;
    let shaped = full == "/" || !(full.ends_with('/') || full.contains("//"));
    if fits && shaped && full.chars().all(legal) { Ok(full) } else { Err(Errno::EINVAL) }
}

impl Operation {
    fn path(&self) -> &str {
        match self {
            Self::Write(path, _) | Self::Remove(path) | Self::Permissions(path, _) => path,
        }
    }

    fn apply(&self, domain: u16, tree: &mut Tree) -> Result<Vec<Change>, Errno> {
        match self {
            Self::Write(path, value) => tree.write(domain, path, value.as_deref()),
            Self::Remove(path) => tree.remove(domain, path),
            Self::Permissions(path, permissions) => tree.set_permissions(domain, path, permissions.clone()),
        }
    }
}

impl Connection {
    fn index(&self, offset: usize) -> u32 {
        self.page.u32(offset).load(Ordering::Acquire)
    }

    /// The daemon stops serving the domain and leaves the reason.
    fn ignore(&mut self, reason: u32) {
        self.ignored = true;
        self.page.u32(ERROR).store(reason, Ordering::Release);
    }

    fn start_over(&mut self) {
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

    fn read(&mut self) -> bool {
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

    fn write(&mut self) -> bool {
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
    fn due_request(&mut self) -> Option<(Header, Vec<u8>)> {
        let header = Header::decode(self.input.first_chunk::<HEADER_SIZE>()?);
        let length = header.length as usize;
        if length > PAYLOAD_MAX {
            self.ignore(3);
            return None;
        }
        if self.input.len() < HEADER_SIZE + length {
            return None;
        }
        let left = self.due.get_or_insert(self.behaviour.delay);
        if *left > 0 {
            *left -= 1;
            return None;
        }
        self.due = None;
        let rest = self.input.split_off(HEADER_SIZE + length);
        let payload = self.input.split_off(HEADER_SIZE);
        self.input = rest;
        Some((header, payload))
    }

    fn answer(&mut self, header: Header, payload: &[u8]) {
        // An answer is never longer than the largest payload: longer lists are refused before.
        #[expect(clippy::cast_possible_truncation, reason = "at most PAYLOAD_MAX")]
        let length = payload.len() as u32;
        self.output.extend(Header { length, ..header }.encode());
        self.output.extend(payload);
    }

    fn event(&mut self, path: &str, token: &str) {
        let header = Header { kind: Kind::WATCH_EVENT, request: 0, transaction: 0, length: 0 };
        self.answer(header, format!("{path}\0{token}\0").as_bytes());
    }
}
