//! Walking the stack by frame pointers, without ever leaving it.
//!
//! With frame pointers forced, `rbp` points at the caller's `rbp`, and the return address lies above. The chain
//! may be the very thing that is broken, so each link is believed only if it lies in a known stack, aligned,
//! above the one before.

use core::ops::Range;

/// Return addresses that are reported at most.
pub const MAX_DEPTH: usize = 64;

/// Reads a word of a stack.
pub trait StackMemory {
    /// The stack that contains `address`, without its guard page.
    fn stack_of(&self, address: u64) -> Option<Range<u64>>;

    /// The word at `address`, which lies whole and aligned in a range that [`stack_of`](Self::stack_of) gave.
    fn word(&self, address: u64) -> u64;
}

/// The return addresses found from a frame pointer outward.
#[derive(Debug)]
pub struct Backtrace<M> {
    memory: M,
    frame: u64,
    depth: usize,
}

impl<M: StackMemory> Backtrace<M> {
    /// The chain that begins at `frame_pointer`, the value of `rbp`.
    pub const fn new(memory: M, frame_pointer: u64) -> Self {
        Self { memory, frame: frame_pointer, depth: 0 }
    }
}

impl<M: StackMemory> Iterator for Backtrace<M> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.depth == MAX_DEPTH || !self.frame.is_multiple_of(8) {
            return None;
        }
        let stack = self.memory.stack_of(self.frame)?;
        let above = self.frame.checked_add(8)?;
        if above.checked_add(8)? > stack.end {
            return None;
        }
        let next = self.memory.word(self.frame);
        let return_address = self.memory.word(above);
        // A link downwards would go round in circles; one into another stack is where an interrupt came in, and
        // the interrupted side is reported from its own registers.
        self.frame = if next > self.frame && stack.contains(&next) { next } else { 0 };
        self.depth += 1;
        Some(return_address).filter(|address| *address != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    struct Stack {
        base: u64,
        words: Vec<u64>,
    }

    impl StackMemory for &Stack {
        fn stack_of(&self, address: u64) -> Option<Range<u64>> {
            let range = self.base..self.base + 8 * self.words.len() as u64;
            range.contains(&address).then_some(range)
        }

        fn word(&self, address: u64) -> u64 {
            self.words[usize::try_from((address - self.base) / 8).unwrap()]
        }
    }

    const BASE: u64 = 0xFFFF_FFFF_8010_0000;

    fn trace(words: &[u64], from: u64) -> Vec<u64> {
        let stack = Stack { base: BASE, words: words.to_vec() };
        Backtrace::new(&stack, from).collect()
    }

    #[test]
    fn a_chain_is_followed_to_its_end() {
        assert_eq!(trace(&[BASE + 24, 0xA, 0, BASE + 48, 0xB, 0, 0, 0xC], BASE), [0xA, 0xB, 0xC]);
        assert_eq!(trace(&[BASE + 16, 0xA, 0, 0], BASE), [0xA], "a return address of 0 is the end");
    }

    #[test]
    fn a_broken_chain_ends() {
        assert_eq!(trace(&[BASE, 0xA], BASE), [0xA], "a loop");
        assert_eq!(trace(&[BASE + 8, 0xA, 0xB], BASE + 8), [0xB], "a link downwards");
        assert_eq!(trace(&[0x1234, 0xA], BASE), [0xA], "a link out of the stack");
        assert_eq!(trace(&[BASE + 4, 0xA], BASE), [0xA], "a misaligned link");
        assert_eq!(trace(&[0, 0xA], BASE + 8), [], "a frame that sticks out");
        assert_eq!(trace(&[0, 0xA], 0), []);
        assert_eq!(trace(&[0, 0xA], u64::MAX - 7), []);
    }

    #[test]
    fn a_deep_stack_is_cut() {
        let words: Vec<_> = (0..1000).flat_map(|n| [BASE + (n + 1) * 16, 0xA]).collect();
        assert_eq!(trace(&words, BASE), vec![0xA; MAX_DEPTH]);
    }

    proptest! {
        /// `word` panics outside of the stack, so this would too.
        #[test]
        fn garbage_stays_in_the_stack(
            words in prop::collection::vec(prop_oneof![any::<u64>(), BASE..BASE + 300], 0..32),
            from in BASE..BASE + 300,
        ) {
            prop_assert!(trace(&words, from).len() <= MAX_DEPTH);
        }
    }
}
