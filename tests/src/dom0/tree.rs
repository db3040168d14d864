//! The store's tree: nodes by absolute path, with owners, versions and quotas.

use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;
use xen_abi::Errno;

/// Nodes that a domain may own, and bytes that a value may have.
pub(super) const NODES_PER_DOMAIN: usize = 1000;
pub(super) const VALUE_MAX: usize = 2048;

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Vec<u8>,
    /// Raised by every change of the value or of the list of children.
    pub(super) generation: u64,
    /// The owner first, with what others may do; then exceptions.
    pub(super) permissions: Vec<(char, u16)>,
}

/// What somebody did, to be told to watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: String,
    /// Only the watch on exactly this path is told: it went with an ancestor.
    pub(super) exact: bool,
}

/// All nodes.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
    generation: u64,
}

/// The path of a node's parent; the root has none.
pub(super) fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (above, _) => Some(above),
    }
}

/// Whether `path` is `ancestor` or below it.
pub(super) fn is_within(path: &str, ancestor: &str) -> bool {
    ancestor == "/"
        || path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node { value: Vec::new(), generation: 0, permissions: std::vec![('n', 0)] };
        Self { nodes: BTreeMap::from([("/".to_string(), root)]), generation: 0 }
    }

    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The node's version, or `None` if there is none.
    pub(super) fn version(&self, path: &str) -> Option<u64> {
        self.nodes.get(path).map(|node| node.generation)
    }

    pub(super) fn children(&self, path: &str) -> Vec<String> {
        let prefix = if path == "/" { "/".to_string() } else { format!("{path}/") };
        self.nodes
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix))
            .filter_map(|(name, _)| name.strip_prefix(&prefix))
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(ToString::to_string)
            .collect()
    }

    /// Whether `domain` has right `right` (`r` or `w`) on the node, or on what it would be created under.
    pub(super) fn allows(&self, domain: u16, path: &str, right: char) -> bool {
        let Some(node) = self.nodes.get(path) else {
            return parent(path).is_some_and(|above| self.allows(domain, above, right));
        };
        let default = node.permissions[0].0;
        let given =
            node.permissions[1..].iter().find(|(_, whose)| *whose == domain).map_or(default, |(may, _)| *may);
        domain == 0 || node.permissions[0].1 == domain || given == right || given == 'b'
    }

    fn touch(&mut self, path: &str) {
        self.generation += 1;
        let generation = self.generation;
        if let Some(node) = self.nodes.get_mut(path) {
            node.generation = generation;
        }
    }

    /// Creates the node and what it lacks above. A guest owns what it creates.
    fn create(&mut self, domain: u16, path: &str) -> Result<(), Errno> {
        if self.nodes.contains_key(path) {
            return Ok(());
        }
        let above = parent(path).ok_or(Errno::EINVAL)?.to_string();
        self.create(domain, &above)?;
        let owned = self.nodes.values().filter(|node| node.permissions[0].1 == domain).count();
        if domain != 0 && owned >= NODES_PER_DOMAIN {
            return Err(Errno::ENOSPC);
        }
        let mut permissions = self.nodes[&above].permissions.clone();
        if domain != 0 {
            permissions[0].1 = domain;
        }
        self.nodes.insert(path.to_string(), Node { value: Vec::new(), generation: 0, permissions });
        self.touch(&above);
        self.touch(path);
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        domain: u16,
        path: &str,
        value: Option<&[u8]>,
    ) -> Result<Vec<Change>, Errno> {
        if !self.allows(domain, path, 'w') {
            return Err(Errno::EACCES);
        }
        if domain != 0 && value.is_some_and(|value| value.len() > VALUE_MAX) {
            return Err(Errno::ENOSPC);
        }
        let existed = self.nodes.contains_key(path);
        self.create(domain, path)?;
        if let (Some(value), Some(node)) = (value, self.nodes.get_mut(path)) {
            node.value = value.to_vec();
            self.touch(path);
        } else if existed {
            return Ok(Vec::new());
        }
        Ok(std::vec![Change { path: path.to_string(), exact: false }])
    }

    pub(super) fn remove(&mut self, domain: u16, path: &str) -> Result<Vec<Change>, Errno> {
        let above = parent(path).ok_or(Errno::EINVAL)?.to_string();
        if !self.nodes.contains_key(path) {
            return if self.nodes.contains_key(&above) { Ok(Vec::new()) } else { Err(Errno::ENOENT) };
        }
        if !self.allows(domain, path, 'w') {
            return Err(Errno::EACCES);
        }
        let gone: Vec<String> = self.nodes.keys().filter(|name| is_within(name, path)).cloned().collect();
        gone.iter().for_each(|name| {
            self.nodes.remove(name);
        });
        self.touch(&above);
        Ok(gone.into_iter().map(|name| Change { exact: name != path, path: name }).collect())
    }

    pub(super) fn set_permissions(
        &mut self,
        domain: u16,
        path: &str,
        permissions: Vec<(char, u16)>,
    ) -> Result<Vec<Change>, Errno> {
        let node = self.nodes.get_mut(path).ok_or(Errno::ENOENT)?;
        if domain != 0 && node.permissions[0].1 != domain {
            return Err(Errno::EACCES);
        }
        if domain != 0 && permissions[0].1 != domain {
            return Err(Errno::EPERM);
        }
        node.permissions = permissions;
        self.touch(path);
        Ok(std::vec![Change { path: path.to_string(), exact: false }])
    }
}
