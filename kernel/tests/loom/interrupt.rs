//! Interrupts of one CPU of a model: its handler runs between any two operations on gates and calls, on the thread that
//! is this CPU, once the doorbell has rung.

use loom::sync::atomic::AtomicU32;
use loom::thread::{ThreadId, current};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A CPU that takes interrupts.
#[derive(Clone)]
struct Cpu {
    thread: ThreadId,
    bell: Arc<AtomicU32>,
    /// Rings that were heard.
    heard: u32,
    handler: Rc<dyn Fn()>,
    in_handler: bool,
}

thread_local! {
    // All threads of one loom execution run on one real thread.
    static CPU: RefCell<Option<Cpu>> = const { RefCell::new(None) };
}

/// Makes the calling thread the CPU that takes interrupts, until the execution ends, and answers its doorbell.
pub(crate) fn take(handler: impl Fn() + 'static) -> Bell {
    let bell = Arc::new(AtomicU32::new(0));
    let (thread, handler) = (current().id(), Rc::new(handler));
    CPU.set(Some(Cpu { thread, bell: Arc::clone(&bell), heard: 0, handler, in_handler: false }));
    Bell(bell)
}

/// Ends what [`take`] began, once what has rung was heard.
pub(crate) fn end() {
    point();
    CPU.set(None);
}

/// Here an interrupt may come.
pub(crate) fn point() {
    let Some(cpu) = CPU.with_borrow(Clone::clone) else { return };
    if cpu.in_handler || cpu.thread != current().id() {
        return;
    }
    // Only counted up, by others: of a flag that both sides write, loom would have it that a ring may never be seen.
    let rung = cpu.bell.load(Ordering::Acquire);
    if rung != cpu.heard {
        change(|cpu| cpu.heard = rung);
        change(|cpu| cpu.in_handler = true);
        (cpu.handler)();
        change(|cpu| cpu.in_handler = false);
    }
}

/// Whether this is the CPU that takes interrupts, outside of its handler.
pub(crate) fn is_interruptible() -> bool {
    CPU.with_borrow(|cpu| cpu.as_ref().is_some_and(|cpu| !cpu.in_handler && cpu.thread == current().id()))
}

fn change(change: impl FnOnce(&mut Cpu)) {
    CPU.with_borrow_mut(|cpu| cpu.as_mut().map(change));
}

/// What others ring.
pub(crate) struct Bell(Arc<AtomicU32>);

impl Bell {
    /// Has the handler run soon.
    pub(crate) fn ring(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}
