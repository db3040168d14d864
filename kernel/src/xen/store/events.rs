//! Watch events that wait for somebody to ask.

use alloc::collections::VecDeque;
use alloc::string::String;

/// How many different events wait at most.
const CAPACITY: usize = 64;

/// Something changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    /// At or below this path, as seen by the watch with this token. Read it again.
    Changed {
        /// Relative if the watch was.
        path: String,
        /// The token of the watch.
        token: String,
    },
    /// Events were lost (too many at once, an unreadable one, or a reconnection, which also drops all watches):
    /// read everything that is watched again.
    Lost,
}

/// A bounded queue in which an event is at most once: a second one would only say the same.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(String, String)>,
    lost: bool,
}

impl Queue {
    pub(super) fn push(&mut self, path: String, token: String) {
        let event = (path, token);
        if self.waiting.contains(&event) {
            return;
        }
        if self.waiting.len() == CAPACITY {
            self.lost = true;
            return;
        }
        self.waiting.push_back(event);
    }

    /// Everything is to be read again, so that what waits says nothing more.
    pub(super) fn lose(&mut self) {
        self.lost = true;
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.lost && self.waiting.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<WatchEvent> {
        if core::mem::take(&mut self.lost) {
            return Some(WatchEvent::Lost);
        }
        let (path, token) = self.waiting.pop_front()?;
        Some(WatchEvent::Changed { path, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn equal_events_are_one() {
        let mut queue = Queue::default();
        for _ in 0..1000 {
            queue.push("a".to_string(), "t".to_string());
        }
        queue.push("a".to_string(), "u".to_string());
        assert_eq!(queue.pop(), Some(WatchEvent::Changed { path: "a".to_string(), token: "t".to_string() }));
        assert_eq!(queue.pop(), Some(WatchEvent::Changed { path: "a".to_string(), token: "u".to_string() }));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn too_many_are_said_to_be_lost() {
        let mut queue = Queue::default();
        for number in 0..CAPACITY {
            queue.push(number.to_string(), String::new());
        }
        assert!(!queue.lost);
        queue.push("one more".to_string(), String::new());
        assert_eq!(queue.pop(), Some(WatchEvent::Lost));
        let mut rest = 0;
        while queue.pop().is_some() {
            rest += 1;
        }
        assert_eq!(rest, CAPACITY);
    }
}
