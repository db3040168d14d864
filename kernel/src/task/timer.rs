//! Deadlines in order: a queue of threads by the time at which they want to be woken.
//!
//! A leftist heap whose nodes are in the threads, like the links of a [`List`](super::list::List): setting a
//! deadline cannot fail, and insertion and removal, from the middle too, take time logarithmic in the number of
//! sleepers *at worst*, because they happen with interrupts off. In a leftist heap the distance from a node to
//! the nearest missing child (its rank) is never larger on the right than on the left, so the way down the right
//! side is short, and merging two heaps walks only those ways. Equal deadlines expire in the order in which they
//! were set.

use super::list::NONE;
use core::cmp::Ordering as Compare;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A place in one timer queue.
#[derive(Debug)]
pub(crate) struct TimerNode {
    deadline_ns: AtomicU64,
    /// Breaks ties: a number that grows with every insertion.
    order: AtomicU64,
    parent: AtomicU32,
    left: AtomicU32,
    right: AtomicU32,
    /// 0 while in no queue, else 1 for a node that lacks a child, and one more than the right child's otherwise.
    rank: AtomicU32,
}

impl TimerNode {
    /// In no queue.
    pub(crate) const fn new() -> Self {
        Self {
            deadline_ns: AtomicU64::new(0),
            order: AtomicU64::new(0),
            parent: AtomicU32::new(NONE),
            left: AtomicU32::new(NONE),
            right: AtomicU32::new(NONE),
            rank: AtomicU32::new(0),
        }
    }
}

/// Where the nodes are.
pub(crate) trait TimerNodes {
    /// The node of `index`.
    fn node(&self, index: u32) -> &TimerNode;
}

/// Deadlines in order.
#[derive(Debug)]
pub(crate) struct TimerQueue {
    root: u32,
    len: u32,
    insertions: u64,
}

impl TimerQueue {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self { root: NONE, len: 0, insertions: 0 }
    }

    /// How many deadlines are in it.
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// The earliest deadline.
    pub(crate) fn earliest_ns(&self, nodes: &impl TimerNodes) -> Option<u64> {
        (self.root != NONE).then(|| nodes.node(self.root).deadline_ns.load(Relaxed))
    }

    /// Adds a deadline for `index`.
    ///
    /// # Panics
    ///
    /// If `index` has one already.
    pub(crate) fn insert(&mut self, nodes: &impl TimerNodes, index: u32, deadline_ns: u64) {
        let node = nodes.node(index);
        assert!(node.rank.load(Relaxed) == 0, "thread {index} has two deadlines");
        node.deadline_ns.store(deadline_ns, Relaxed);
        node.order.store(self.insertions, Relaxed);
        node.rank.store(1, Relaxed);
        self.insertions += 1;
        self.len += 1;
        self.root = merge(nodes, self.root, index);
        nodes.node(self.root).parent.store(NONE, Relaxed);
    }

    /// Takes the earliest deadline if it is not after `now_ns`.
    pub(crate) fn pop_due(&mut self, nodes: &impl TimerNodes, now_ns: u64) -> Option<u32> {
        let root = self.root;
        if self.earliest_ns(nodes)? > now_ns {
            return None;
        }
        self.remove(nodes, root);
        Some(root)
    }

    /// Takes the deadline of `index` out, which must be in this queue if it is in any; answers whether it was.
    pub(crate) fn remove(&mut self, nodes: &impl TimerNodes, index: u32) -> bool {
        let node = nodes.node(index);
        if node.rank.swap(0, Relaxed) == 0 {
            return false;
        }
        self.len -= 1;
        let below = merge(nodes, node.left.swap(NONE, Relaxed), node.right.swap(NONE, Relaxed));
        let parent = node.parent.swap(NONE, Relaxed);
        if below != NONE {
            nodes.node(below).parent.store(parent, Relaxed);
        }
        if parent == NONE {
            self.root = below;
            return true;
        }
        let above = nodes.node(parent);
        let side = if above.left.load(Relaxed) == index { &above.left } else { &above.right };
        side.store(below, Relaxed);
        settle(nodes, parent);
        true
    }

    /// Walks the queue and says what is wrong with it.
    #[cfg(test)]
    pub(crate) fn validate(&self, nodes: &impl TimerNodes) -> Result<(), &'static str> {
        let mut stack = std::vec![(self.root, NONE)];
        let mut count = 0;
        while let Some((index, parent)) = stack.pop() {
            if index == NONE {
                continue;
            }
            count += 1;
            let node = nodes.node(index);
            let (left, right) = (node.left.load(Relaxed), node.right.load(Relaxed));
            if node.parent.load(Relaxed) != parent {
                return Err("a node whose parent is another");
            }
            if parent != NONE && earlier(nodes, index, parent) {
                return Err("a deadline below a later one");
            }
            if rank(nodes, left) < rank(nodes, right) {
                return Err("a heap that leans to the right");
            }
            if node.rank.load(Relaxed) != rank(nodes, right) + 1 {
                return Err("a wrong rank");
            }
            stack.extend([(left, index), (right, index)]);
        }
        if count == self.len { Ok(()) } else { Err("a timer queue that miscounts") }
    }
}

fn rank(nodes: &impl TimerNodes, index: u32) -> u32 {
    if index == NONE { 0 } else { nodes.node(index).rank.load(Relaxed) }
}

/// Whether the deadline of `a` is before that of `b`.
fn earlier(nodes: &impl TimerNodes, a: u32, b: u32) -> bool {
    let key = |index| (nodes.node(index).deadline_ns.load(Relaxed), nodes.node(index).order.load(Relaxed));
    key(a).cmp(&key(b)) == Compare::Less
}

/// Makes one heap of two and answers its root, whose parent is not set.
fn merge(nodes: &impl TimerNodes, mut a: u32, mut b: u32) -> u32 {
    let (mut root, mut last) = (NONE, NONE);
    // Down the right sides, the earlier of the two heads at each step.
    while a != NONE && b != NONE {
        if earlier(nodes, b, a) {
            core::mem::swap(&mut a, &mut b);
        }
        hang(nodes, last, a);
        root = if root == NONE { a } else { root };
        last = a;
        a = nodes.node(a).right.load(Relaxed);
    }
    let rest = if a == NONE { b } else { a };
    if root == NONE {
        return rest;
    }
    hang(nodes, last, rest);
    // Up again: ranks have grown, and sides may have to change places. Nothing above `root` is known here.
    nodes.node(root).parent.store(NONE, Relaxed);
    let mut at = last;
    while at != NONE {
        lean(nodes, at);
        at = nodes.node(at).parent.load(Relaxed);
    }
    root
}

/// Makes `child` the right child of `parent`, if there is one and the other.
fn hang(nodes: &impl TimerNodes, parent: u32, child: u32) {
    if parent != NONE {
        nodes.node(parent).right.store(child, Relaxed);
        if child != NONE {
            nodes.node(child).parent.store(parent, Relaxed);
        }
    }
}

/// Puts the child of larger rank to the left, and answers whether the rank of `index` changed.
fn lean(nodes: &impl TimerNodes, index: u32) -> bool {
    let node = nodes.node(index);
    let (left, right) = (node.left.load(Relaxed), node.right.load(Relaxed));
    if rank(nodes, left) < rank(nodes, right) {
        node.left.store(right, Relaxed);
        node.right.store(left, Relaxed);
    }
    let rank = rank(nodes, node.right.load(Relaxed)) + 1;
    node.rank.swap(rank, Relaxed) != rank
}

/// Mends ranks from `at` upwards after a child of it has changed. Each step up raises or lowers a rank, and ranks
/// are logarithmic, so the way is short.
fn settle(nodes: &impl TimerNodes, mut at: u32) {
    while at != NONE && lean(nodes, at) {
        at = nodes.node(at).parent.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    impl TimerNodes for Vec<TimerNode> {
        fn node(&self, index: u32) -> &TimerNode {
            &self[index as usize]
        }
    }

    fn nodes(count: usize) -> Vec<TimerNode> {
        (0..count).map(|_| TimerNode::new()).collect()
    }

    proptest! {
        #[test]
        fn behaves_as_an_ordered_map(actions in proptest::collection::vec((0..3_u8, 0..40_u32, 0..30_u64), 0..300)) {
            let nodes = nodes(40);
            let mut queue = TimerQueue::new();
            let mut model = BTreeMap::new();
            for (step, (action, index, time)) in actions.into_iter().enumerate() {
                let held = model.iter().find(|(_, i)| **i == index).map(|(key, _)| *key);
                match action {
                    0 if held.is_none() => {
                        queue.insert(&nodes, index, time);
                        model.insert((time, step), index);
                    }
                    1 => {
                        prop_assert_eq!(queue.remove(&nodes, index), held.is_some());
                        held.map(|key| model.remove(&key));
                    }
                    _ => {
                        let due = model.first_key_value().filter(|(key, _)| key.0 <= time).map(|(key, _)| *key);
                        let want = due.and_then(|key| model.remove(&key));
                        prop_assert_eq!(queue.pop_due(&nodes, time), want);
                    }
                }
                prop_assert_eq!(queue.validate(&nodes), Ok(()));
                prop_assert_eq!(queue.len() as usize, model.len());
                prop_assert_eq!(queue.earliest_ns(&nodes), model.first_key_value().map(|(key, _)| key.0));
            }
        }
    }

    #[test]
    fn ten_thousand_deadlines_keep_the_ways_short() {
        const COUNT: u32 = 10_000;
        let nodes = nodes(COUNT as usize);
        let mut queue = TimerQueue::new();
        // Ascending, descending and mixed deadlines: the worst orders for an unbalanced tree.
        for index in 0..COUNT {
            let deadline = [index, COUNT - index, index * 7919 % COUNT][(index % 3) as usize];
            queue.insert(&nodes, index, u64::from(deadline));
        }
        assert!(rank(&nodes, queue.root) <= COUNT.ilog2() + 1);
        let mut last = 0;
        while let Some(index) = queue.pop_due(&nodes, u64::MAX) {
            let deadline = nodes[index as usize].deadline_ns.load(Relaxed);
            assert!(deadline >= last);
            last = deadline;
        }
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_deadline_in_the_future_stays() {
        let nodes = nodes(1);
        let mut queue = TimerQueue::new();
        queue.insert(&nodes, 0, 10);
        assert_eq!(queue.pop_due(&nodes, 9), None);
        assert_eq!(queue.pop_due(&nodes, 10), Some(0));
        assert_eq!(queue.pop_due(&nodes, u64::MAX), None);
    }

    #[test]
    #[should_panic(expected = "thread 0 has two deadlines")]
    fn a_thread_has_one_deadline() {
        let nodes = nodes(1);
        let mut queue = TimerQueue::new();
        queue.insert(&nodes, 0, 1);
        queue.insert(&nodes, 0, 2);
    }
}
