//! The store daemon: xenstored's answers over a guest's ring.
//!
//! Semantics are those of the C daemon of Xen 4.17: relative paths, watches that fire at once, transactions that
//! conflict by node, permissions and quotas. [`Behaviour`] and the `inject` calls make it slow, silent or wrong.

use super::connection::{Behaviour, Connection, Operation, Transaction, Watch};
use super::tree::{Change, Tree, is_within};
use ebb::units::DomId;
use ebb::xen::SharedPage;
use ebb::xen::store::wire::{Header, Kind, PAYLOAD_MAX};
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;
use xen_abi::Errno;

/// Watches and transactions that a domain may have.
const WATCHES: usize = 128;
const TRANSACTIONS: usize = 10;

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
        self.connections.insert(number, Connection::new(page));
    }

    fn connection(&mut self, domain: DomId) -> &mut Connection {
        match self.connections.get_mut(&domain.get()) {
            Some(connection) => connection,
            None => unreachable!("{domain:?} was never introduced"),
        }
    }

    /// The guest sent an event. Without one, the daemon does not look at the ring again once there was nothing
    /// more to do: a guest that forgets to send it is found out.
    pub fn signal(&mut self, domain: DomId) {
        self.connection(domain).awake = true;
    }

    /// How the daemon treats `domain`.
    pub fn behaviour(&mut self, domain: DomId) -> &mut Behaviour {
        &mut self.connection(domain).behaviour
    }

    /// Sends `bytes` to the guest, whatever they are.
    pub fn inject(&mut self, domain: DomId, bytes: &[u8]) {
        let connection = self.connection(domain);
        connection.output.extend(bytes);
        connection.awake = true;
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

    /// One step, if there is something to do. Moves bytes of one guest's ring and carries out what is whole and due; answers whether the guest gets an
    /// event.
    pub fn step(&mut self, domain: DomId) -> bool {
        self.work(domain) && !self.connection(domain).behaviour.mute
    }

    fn work(&mut self, domain: DomId) -> bool {
        let connection = self.connection(domain);
        if connection.behaviour.silent || !connection.awake {
            return false;
        }
        if connection.is_to_start_over() {
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
                        number.copy_from_slice(&header.req_id.to_le_bytes());
                    }
                    connection.output.extend(bytes);
                }
                (None, Ok((payload, changes))) => {
                    connection.answer(header, &payload);
                    // The answer to a watch comes before the event that it causes at once.
                    if Kind(header.kind) == Kind::WATCH
                        && let Some(watch) = connection.watches.last()
                    {
                        let (given, token) = (watch.given.clone(), watch.token.clone());
                        connection.event(&given, &token);
                    }
                    self.fire(&changes);
                }
                (None, Err(error)) => {
                    let name = format!("{error}\0");
                    connection.answer(Header { kind: Kind::ERROR.0, ..header }, name.as_bytes());
                }
            }
        }
        let connection = self.connection(domain);
        let moved = connection.write() || read;
        connection.awake = moved || connection.due.is_some();
        moved
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
        match Kind(header.kind) {
            Kind::WATCH | Kind::UNWATCH => {
                let [path, token] = <[&str; 2]>::try_from(strings()?).map_err(|_| Errno::EINVAL)?;
                self.watch(domain, Kind(header.kind) == Kind::WATCH, path, token)
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
            Kind::TRANSACTION_START if header.tx_id != 0 => Err(Errno::EBUSY),
            Kind::TRANSACTION_START => self.start(domain),
            Kind::TRANSACTION_END => {
                let commit = match strings()?[..] {
                    ["T"] => true,
                    ["F"] => false,
                    _ => return Err(Errno::EINVAL),
                };
                self.end(domain, header.tx_id, commit)
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
        let operation = match Kind(header.kind) {
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
        let tree = if header.tx_id == 0 {
            &mut self.tree
        } else {
            let transactions = match self.connections.get_mut(&domain) {
                Some(connection) => &mut connection.transactions,
                None => return Err(Errno::ENOENT),
            };
            let transaction = transactions.get_mut(&header.tx_id).ok_or(Errno::ENOENT)?;
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
        let answer = match Kind(header.kind) {
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
