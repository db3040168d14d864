//! What a doorbell is about.

use core::sync::atomic::{AtomicU32, Ordering};

/// Why a CPU was interrupted by another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Message {
    /// Look again at what there is to run.
    Kick = 1 << 0,
    /// A function waits in the mailbox for calls, to be run in the interrupt.
    Call = 1 << 1,
    /// A function waits in the mailbox for work, to be run outside of interrupts.
    Work = 1 << 2,
    /// Translations are to be forgotten.
    Flush = 1 << 3,
    /// Stop for good: another CPU reports the end of the kernel.
    Stop = 1 << 4,
    /// Frames of this CPU's magazine are asked for.
    Frames = 1 << 5,
}

/// Messages that were taken together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageSet(u32);

impl MessageSet {
    /// Whether `message` is among them.
    #[must_use]
    pub const fn has(self, message: Message) -> bool {
        self.0 & message as u32 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The messages of one CPU that it has not taken yet. A message posted twice before it is taken is one message.
///
/// Posting publishes what was written before it to whoever takes it. Interrupt-safe, never blocks.
#[derive(Debug, Default)]
pub struct Messages(AtomicU32);

impl Messages {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Posts a message. The poster rings the doorbell afterwards.
    pub fn post(&self, message: Message) {
        self.0.fetch_or(message as u32, Ordering::SeqCst);
    }

    /// Whether a message waits.
    #[must_use]
    pub fn has(&self, message: Message) -> bool {
        MessageSet(self.0.load(Ordering::SeqCst)).has(message)
    }

    /// Takes all that wait.
    pub fn take(&self) -> MessageSet {
        MessageSet(self.0.swap(0, Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_together_and_once() {
        let messages = Messages::new();
        assert!(messages.take().is_empty());
        messages.post(Message::Flush);
        messages.post(Message::Kick);
        messages.post(Message::Flush);
        assert!(messages.has(Message::Kick) && !messages.has(Message::Stop));
        let taken = messages.take();
        assert!(taken.has(Message::Flush) && taken.has(Message::Kick) && !taken.has(Message::Call));
        assert!(messages.take().is_empty());
    }
}
