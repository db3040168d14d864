//! Queues of threads that need no memory: the links are in the threads.
//!
//! A [`List`] is a first-in, first-out queue of indices with removal from the middle. It is three words, and works
//! on links that the caller keeps, one [`Link`] per index and kind of queue ([`Links`]). So putting a thread into a
//! queue cannot fail, which matters because a wake-up must not. The links are atomics only to be reachable through
//! shared references: whoever changes a list holds the lock that guards it.

use core::sync::atomic::{AtomicU32, Ordering};

/// No thread.
pub(crate) const NONE: u32 = u32::MAX;

/// A place in one list.
#[derive(Debug)]
pub(crate) struct Link {
    /// The next index, [`NONE`] at the end, [`OUTSIDE`] in no list.
    next: AtomicU32,
    previous: AtomicU32,
}

/// The `next` of an index that is in no list.
const OUTSIDE: u32 = u32::MAX - 1;

impl Link {
    /// In no list.
    pub(crate) const fn new() -> Self {
        Self { next: AtomicU32::new(OUTSIDE), previous: AtomicU32::new(NONE) }
    }

    /// Whether it is in a list. Stable only under the lock of that list.
    pub(crate) fn is_in_list(&self) -> bool {
        self.next.load(Ordering::Relaxed) != OUTSIDE
    }
}

/// Where the links of one kind of queue are.
pub(crate) trait Links {
    /// The link of `index`.
    fn link(&self, index: u32) -> &Link;
}

/// A queue, first in, first out.
#[derive(Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }

    /// How many are in it.
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// Whether nobody is in it.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `index` at the end.
    ///
    /// # Panics
    ///
    /// If it is in a list already.
    pub(crate) fn push(&mut self, links: &impl Links, index: u32) {
        let link = links.link(index);
        assert!(!link.is_in_list(), "thread {index} is queued twice");
        link.next.store(NONE, Ordering::Relaxed);
        link.previous.store(self.tail, Ordering::Relaxed);
        match self.tail {
            NONE => self.head = index,
            tail => links.link(tail).next.store(index, Ordering::Relaxed),
        }
        self.tail = index;
        self.len += 1;
    }

    /// Takes the first.
    pub(crate) fn pop(&mut self, links: &impl Links) -> Option<u32> {
        let head = self.head;
        (head != NONE).then(|| {
            self.unlink(links, head);
            head
        })
    }

    /// Takes the first that `suits`, looking at no more than `limit`.
    pub(crate) fn pop_if(
        &mut self,
        links: &impl Links,
        limit: u32,
        suits: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let found = self.iter(links).take(limit as usize).find(|index| suits(*index))?;
        self.unlink(links, found);
        Some(found)
    }

    /// Takes `index` out, which must be in this list if it is in any; answers whether it was.
    pub(crate) fn remove(&mut self, links: &impl Links, index: u32) -> bool {
        let is_in_list = links.link(index).is_in_list();
        if is_in_list {
            self.unlink(links, index);
        }
        is_in_list
    }

    /// The indices, first to last.
    pub(crate) fn iter<'l, L: Links>(&self, links: &'l L) -> impl Iterator<Item = u32> + use<'l, L> {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let index = at;
            (index != NONE).then(|| {
                at = links.link(index).next.load(Ordering::Relaxed);
                index
            })
        })
    }

    fn unlink(&mut self, links: &impl Links, index: u32) {
        let link = links.link(index);
        let next = link.next.swap(OUTSIDE, Ordering::Relaxed);
        let previous = link.previous.swap(NONE, Ordering::Relaxed);
        match previous {
            NONE => self.head = next,
            index => links.link(index).next.store(next, Ordering::Relaxed),
        }
        match next {
            NONE => self.tail = previous,
            index => links.link(index).previous.store(previous, Ordering::Relaxed),
        }
        self.len -= 1;
    }

    /// Walks the list and says what is wrong with it.
    pub(crate) fn validate(&self, links: &impl Links) -> Result<(), &'static str> {
        let (mut count, mut last) = (0, NONE);
        for index in self.iter(links) {
            if links.link(index).previous.load(Ordering::Relaxed) != last {
                return Err("a list whose two directions differ");
            }
            (count, last) = (count + 1, index);
            if count > self.len {
                return Err("a list longer than its count");
            }
        }
        if count != self.len || last != self.tail {
            return Err("a list that ends elsewhere than it says");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    impl Links for Vec<Link> {
        fn link(&self, index: u32) -> &Link {
            &self[index as usize]
        }
    }

    fn links(count: usize) -> Vec<Link> {
        (0..count).map(|_| Link::new()).collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_deque(actions in proptest::collection::vec((0..4_u8, 0..12_u32), 0..200)) {
            let links = links(12);
            let (mut list, mut model) = (List::new(), VecDeque::new());
            for (action, index) in actions {
                match action {
                    0 if !model.contains(&index) => {
                        list.push(&links, index);
                        model.push_back(index);
                    }
                    1 => prop_assert_eq!(list.pop(&links), model.pop_front()),
                    2 => {
                        let at = model.iter().position(|i| *i == index);
                        prop_assert_eq!(list.remove(&links, index), at.is_some());
                        at.and_then(|at| model.remove(at));
                    }
                    3 => {
                        let at = model.iter().take(3).position(|i| *i >= index);
                        let want = at.and_then(|at| model.remove(at));
                        prop_assert_eq!(list.pop_if(&links, 3, |i| i >= index), want);
                    }
                    _ => {}
                }
                prop_assert_eq!(list.validate(&links), Ok(()));
                prop_assert_eq!(list.len() as usize, model.len());
                prop_assert_eq!(list.is_empty(), model.is_empty());
                prop_assert!(list.iter(&links).eq(model.iter().copied()));
            }
        }
    }

    #[test]
    #[should_panic(expected = "thread 1 is queued twice")]
    fn nobody_is_in_two_lists() {
        let links = links(2);
        List::new().push(&links, 1);
        List::new().push(&links, 1);
    }

    #[test]
    fn a_damaged_list_is_noticed() {
        let links = links(3);
        let mut list = List::new();
        (0..3).for_each(|index| list.push(&links, index));
        links[1].next.store(0, Ordering::Relaxed);
        assert!(list.validate(&links).is_err());
        links[1].next.store(NONE, Ordering::Relaxed);
        assert!(list.validate(&links).is_err());
    }
}
