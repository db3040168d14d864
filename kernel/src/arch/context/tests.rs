//! The switch, executed: the host's processor is the same one.

use super::*;
use std::alloc::{Layout, alloc, dealloc};
use std::boxed::Box;
use std::sync::{Mutex, MutexGuard};
use std::vec::Vec;

const LAYOUT: Layout = match Layout::from_size_align(64 << 10, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("a valid layout"),
};

/// A stack from the host's heap.
pub(crate) fn stack() -> Stack {
    // SAFETY: the layout has a size.
    let bottom = NonNull::new(unsafe { alloc(LAYOUT) }).unwrap();
    // SAFETY: fresh memory. Nothing here recurses, so nothing comes near the page below.
    unsafe { Stack::new(bottom, LAYOUT.size()) }
}

/// Takes back a [`stack`].
pub(crate) fn free(stack: Stack) {
    let (bottom, _) = stack.into_raw();
    // SAFETY: from `stack`, with that layout.
    unsafe { dealloc(bottom.as_ptr(), LAYOUT) };
}

fn leaked() -> &'static Context {
    Box::leak(Box::default())
}

/// What the contexts of one test share. Entry functions are plain functions, so it is reached by address.
struct Stage {
    contexts: Vec<&'static Context>,
    log: Mutex<Vec<u32>>,
}

impl Stage {
    fn new(contexts: usize) -> &'static Self {
        let contexts: Vec<_> = (0..contexts).map(|_| leaked()).collect();
        contexts[0].adopt();
        Box::leak(Box::new(Self { contexts, log: Mutex::default() }))
    }

    fn argument(&'static self) -> usize {
        core::ptr::from_ref(self).expose_provenance()
    }

    fn of(argument: usize) -> &'static Self {
        // SAFETY: the address of a leaked stage.
        unsafe { &*core::ptr::with_exposed_provenance::<Self>(argument) }
    }

    fn log(&self) -> MutexGuard<'_, Vec<u32>> {
        self.log.lock().unwrap()
    }
}

#[test]
fn two_contexts_take_turns_and_keep_their_registers() {
    fn entry(argument: usize) -> &'static Context {
        let stage = Stage::of(argument);
        // Enough live values that some sit in callee-saved registers across the switches.
        let mut values = [1_u32, 2, 3, 4, 5, 6, 7, 8];
        for _ in 0..3 {
            stage.log().push(values.iter().sum());
            stage.contexts[1].switch(stage.contexts[0]);
            values = values.map(|value| value + 1);
        }
        stage.contexts[0]
    }
    let stage = Stage::new(2);
    stage.contexts[1].prepare(stack(), entry, stage.argument());
    let mut product = 1_u32;
    for round in 1..=4 {
        product *= round;
        stage.contexts[0].switch(stage.contexts[1]);
        stage.log().push(product);
    }
    assert_eq!(*stage.log(), [36, 1, 44, 2, 52, 6, 24]);
    free(stage.contexts[1].take_stack());
}

#[test]
fn a_stack_starts_aligned_and_its_context_can_be_used_again() {
    fn entry(argument: usize) -> &'static Context {
        #[repr(align(16))]
        struct Aligned(#[expect(dead_code, reason = "only its address matters")] [u8; 16]);
        let stage = Stage::of(argument);
        let local = core::hint::black_box(Aligned([1; 16]));
        let address = core::ptr::from_ref(&local).addr();
        let inside = stage.contexts[1].stack().unwrap().contains(&address);
        stage.log().push(u32::from(inside && address.is_multiple_of(16)));
        stage.contexts[0]
    }
    let stage = Stage::new(2);
    let mut memory = stack();
    for round in 1..=1000 {
        stage.contexts[1].prepare(memory, entry, stage.argument());
        stage.contexts[0].switch(stage.contexts[1]);
        memory = stage.contexts[1].take_stack();
        assert_eq!(stage.contexts[1].stack(), None);
        assert_eq!(stage.log().iter().sum::<u32>(), round);
    }
    free(memory);
}

#[test]
fn a_context_may_end_into_another_than_it_came_from() {
    fn second(argument: usize) -> &'static Context {
        Stage::of(argument).log().push(2);
        Stage::of(argument).contexts[0]
    }
    fn first(argument: usize) -> &'static Context {
        Stage::of(argument).log().push(1);
        Stage::of(argument).contexts[2]
    }
    let stage = Stage::new(3);
    stage.contexts[1].prepare(stack(), first, stage.argument());
    stage.contexts[2].prepare(stack(), second, stage.argument());
    stage.contexts[0].switch(stage.contexts[1]);
    assert_eq!(*stage.log(), [1, 2]);
    free(stage.contexts[1].take_stack());
    free(stage.contexts[2].take_stack());
}

#[test]
fn a_suspended_stack_moves_between_processors() {
    fn entry(argument: usize) -> &'static Context {
        let stage = Stage::of(argument);
        let mut turns = 0;
        loop {
            turns += 1;
            stage.log().push(turns);
            if turns == 100 {
                // The one who resumed last is the one waiting in the word of contexts[0].
                return stage.contexts[0];
            }
            stage.contexts[1].switch(stage.contexts[0]);
        }
    }
    let stage = Stage::new(2);
    stage.contexts[1].prepare(stack(), entry, stage.argument());
    for round in 1..=100 {
        // Another host thread every time: whoever calls is contexts[0] while it calls.
        std::thread::spawn(|| stage.contexts[0].switch(stage.contexts[1])).join().unwrap();
        assert_eq!(stage.log().last(), Some(&round));
    }
    free(stage.contexts[1].take_stack());
}

fn never(_: usize) -> &'static Context {
    unreachable!("not switched to")
}

#[test]
#[should_panic(expected = "resuming a context that is not suspended: Context(empty)")]
fn an_empty_context_is_not_resumed() {
    let own = leaked();
    own.adopt();
    own.switch(leaked());
}

#[test]
#[should_panic(expected = "leaving a context that does not run: Context(suspended")]
fn a_suspended_context_is_not_overwritten() {
    let suspended = leaked();
    suspended.prepare(stack(), never, 0);
    let other = leaked();
    other.prepare(stack(), never, 0);
    suspended.switch(other);
}

#[test]
#[should_panic(expected = "taking the stack of a context that is not through")]
fn a_suspended_context_keeps_its_stack() {
    let suspended = leaked();
    suspended.prepare(stack(), never, 0);
    let _ = suspended.take_stack();
}

#[test]
#[should_panic(expected = "adopting a context that is in use")]
fn a_context_has_one_flow_of_control() {
    let context = leaked();
    context.adopt();
    context.adopt();
}

#[test]
#[should_panic(expected = "preparing a context that is in use")]
fn a_context_is_prepared_once() {
    let context = leaked();
    context.prepare(stack(), never, 0);
    context.prepare(stack(), never, 0);
}

#[test]
#[should_panic(expected = "a stack of 16 bytes")]
fn a_stack_has_a_least_size() {
    // SAFETY: refused before it is used.
    let _ = unsafe { Stack::new(NonNull::<u128>::dangling().cast(), 16) };
}
