//! Which nodes the index of an object has: it decides what a page costs beside itself.
//!
//! Sixty-four ways, up to six levels; index 0 alone needs no node. Grows by a new root, shrinks when only the leftmost
//! branch is left. Source: Xen 4.12 `xen/common/radix-tree.c`.

use super::arena::Piece;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::vec::Vec;

/// log2 of the branches of a node.
const BITS: u32 = 6;

struct Node {
    piece: Piece,
    branches: u32,
}

/// The nodes, by level (leaves are 1) and by what the indices below have in common.
#[derive(Default)]
pub(super) struct Radix {
    height: u32,
    /// The only page, index 0, hangs on the object itself.
    direct: bool,
    nodes: BTreeMap<(u32, u64), Node>,
}

/// The part of an index that all below a node of this level have in common.
fn common(index: u32, level: u32) -> u64 {
    u64::from(index) >> (BITS * level)
}

impl Radix {
    /// Makes the way to a new index; `piece` takes memory for a node.
    ///
    /// # Errors
    ///
    /// If there is none. What was built stays.
    pub(super) fn insert(&mut self, index: u32, mut piece: impl FnMut() -> Option<Piece>) -> Result<(), ()> {
        let mut needed = self.height;
        while common(index, needed) != 0 {
            needed += 1;
        }
        if !self.direct && self.nodes.is_empty() {
            self.height = needed;
        }
        while self.height < needed {
            let piece = piece().ok_or(())?;
            self.height += 1;
            self.direct = false;
            self.nodes.insert((self.height, 0), Node { piece, branches: 1 });
        }
        if self.height == 0 {
            self.direct = true;
            return Ok(());
        }
        for level in (1..=self.height).rev() {
            let at = (level, common(index, level));
            if let Entry::Vacant(place) = self.nodes.entry(at) {
                place.insert(Node { piece: piece().ok_or(())?, branches: 0 });
                self.count_branch(index, level + 1);
            }
        }
        self.count_branch(index, 1);
        Ok(())
    }

    fn count_branch(&mut self, index: u32, level: u32) {
        if let Some(node) = self.nodes.get_mut(&(level, common(index, level))) {
            node.branches += 1;
        }
    }

    /// Takes an index out; answers the memory of nodes that are not needed any more. `first` is whether index 0 is in.
    pub(super) fn remove(&mut self, index: u32, first: bool) -> Vec<Piece> {
        let mut freed = Vec::new();
        if self.height == 0 {
            self.direct = false;
            return freed;
        }
        for level in 1..=self.height {
            let at = (level, common(index, level));
            let node = self.nodes.get_mut(&at).expect("model: an index has its nodes");
            node.branches -= 1;
            if node.branches > 0 {
                if level == self.height {
                    self.shrink(first, &mut freed);
                }
                return freed;
            }
            freed.extend(self.nodes.remove(&at).map(|node| node.piece));
        }
        self.height = 0;
        freed
    }

    fn shrink(&mut self, first: bool, freed: &mut Vec<Piece>) {
        while self.height > 0 {
            let root = (self.height, 0);
            let leftmost =
                if self.height == 1 { first } else { self.nodes.contains_key(&(self.height - 1, 0)) };
            if self.nodes.get(&root).is_none_or(|node| node.branches != 1) || !leftmost {
                return;
            }
            freed.extend(self.nodes.remove(&root).map(|node| node.piece));
            self.height -= 1;
            self.direct = self.height == 0;
        }
    }

    /// The memory of all nodes that are left.
    pub(super) fn into_pieces(self) -> impl Iterator<Item = Piece> {
        self.nodes.into_values().map(|node| node.piece)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::{Arena, Region};
    use super::*;
    use std::collections::BTreeSet;

    fn arena() -> Arena {
        let mut arena = Arena::default();
        (0..64).for_each(|mfn| arena.add(Region { mfn, charged: None }));
        arena
    }

    #[test]
    fn alone_an_index_needs_as_many_nodes_as_it_is_high() {
        for (index, nodes) in
            [(0, 0), (1, 1), (63, 1), (64, 2), (4095, 2), (4096, 3), (1 << 30, 6), (u32::MAX, 6)]
        {
            let (mut arena, mut radix) = (arena(), Radix::default());
            radix.insert(index, || arena.take(528)).unwrap();
            assert_eq!(radix.len(), nodes, "index {index:#x}");
            assert_eq!(radix.remove(index, false).len(), nodes, "index {index:#x}");
            assert_eq!((radix.len(), radix.height), (0, 0));
        }
    }

    #[test]
    fn it_grows_and_shrinks_by_its_root() {
        let (mut arena, mut radix) = (arena(), Radix::default());
        let mut there = BTreeSet::new();
        for (index, nodes) in [(0, 0), (1, 1), (64, 3), (65, 3), (4096, 6)] {
            radix.insert(index, || arena.take(528)).unwrap();
            there.insert(index);
            assert_eq!(radix.len(), nodes, "with {index}");
        }
        for (index, nodes) in [(4096, 3), (64, 3), (65, 1), (1, 0), (0, 0)] {
            there.remove(&index);
            radix.remove(index, there.contains(&0));
            assert_eq!(radix.len(), nodes, "without {index}");
        }
    }
}
