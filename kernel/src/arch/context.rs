//! Contexts: suspended stacks, and the switch from one to another.
//!
//! A [`Context`] is one word: the stack pointer of a suspended stack, or a mark for the other states a stack can
//! be in. A switch pushes the six registers that the calling convention has a callee save, stores the stack pointer
//! in the context it leaves, and does the reverse with the one it enters. The image uses no vector registers, so
//! there is nothing else to keep.
//!
//! The functions are safe to call, because the word makes each misuse stop before it does harm:
//! - a suspended stack is entered at most once: its pointer is taken out of the word with one atomic step;
//! - a stack pointer is never overwritten: leaving through a context that holds one is refused;
//! - the pointer is stored after the last access to the stack it names, so another processor may enter that stack
//!   at the next instant;
//! - a stack can be had back only after its code is through: the entry function *returned*, so that nothing on the
//!   stack was cut off, and the processor has left the stack for good.
//!
//! What remains is not about memory: whoever passes the wrong context to [`Context::switch`] only gives the
//! suspended code another name; and of two processors that leave through one context at the same moment, one loses
//! its code: it is never resumed, and its stack, whose own context runs for ever, is never had back. And what must hold of the *processor* across a switch (interrupts off, nothing
//! pinned) is for the scheduler to see to.
#![expect(unsafe_code, reason = "the stack pointer changes under the compiler's feet")]

use core::arch::naked_asm;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The word of a context whose code runs, or that never had any.
const RUNNING: usize = 0;
/// The word of a context whose code has returned.
const FINISHED: usize = 1;
/// The word of a context without a stack.
const EMPTY: usize = 2;
/// The word of a context that is being prepared; no stack pointer is below it, or it.
const PREPARING: usize = 3;

/// Where a new context begins: called once, on its own stack, with interrupts as they were at the switch. It
/// answers, by returning, which context goes on after it.
pub type Entry = fn(argument: usize) -> &'static Context;

/// Memory for a stack, owned.
#[derive(Debug, PartialEq, Eq)]
pub struct Stack {
    bottom: NonNull<u8>,
    size: usize,
}

// SAFETY: a `Stack` is the only handle to its memory (contract of `new`), whichever thread holds it.
unsafe impl Send for Stack {}

impl Stack {
    /// The least size of a stack, in bytes.
    pub const MIN_SIZE: usize = 4096;

    /// `size` bytes from `bottom` on, to be a stack.
    ///
    /// # Panics
    ///
    /// If the stack is smaller than [`MIN_SIZE`](Self::MIN_SIZE) or not aligned to 16 bytes at both ends.
    ///
    /// # Safety
    ///
    /// The memory is writable, and nobody else uses it until it is taken apart by [`into_raw`](Self::into_raw).
    /// An access to the page below `bottom` does no harm to anything (it should fault: that is how an overflow is
    /// noticed).
    #[must_use]
    pub unsafe fn new(bottom: NonNull<u8>, size: usize) -> Self {
        assert!(size >= Self::MIN_SIZE, "a stack of {size} bytes");
        assert!(
            bottom.addr().get().is_multiple_of(16) && size.is_multiple_of(16),
            "a stack is aligned to 16 bytes"
        );
        Self { bottom, size }
    }

    /// The memory, to be given back.
    #[must_use]
    pub const fn into_raw(self) -> (NonNull<u8>, usize) {
        (self.bottom, self.size)
    }
}

/// The place of a running or suspended flow of control.
pub struct Context {
    /// The stack pointer while suspended, or one of the marks.
    word: AtomicUsize,
    /// Lowest address of the stack, exposed; 0 without one. Changes only while the word is a mark that no switch
    /// accepts.
    bottom: AtomicUsize,
    size: AtomicUsize,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word.load(Ordering::Relaxed) {
            RUNNING => f.write_str("Context(running)"),
            FINISHED => f.write_str("Context(finished)"),
            EMPTY => f.write_str("Context(empty)"),
            PREPARING => f.write_str("Context(being prepared)"),
            pointer => write!(f, "Context(suspended at {pointer:#x})"),
        }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// A context without a stack.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicUsize::new(EMPTY), bottom: AtomicUsize::new(0), size: AtomicUsize::new(0) }
    }

    /// Makes this the context of the code that calls, on the stack it already has: for the code that a processor
    /// came up with.
    ///
    /// # Panics
    ///
    /// If the context is not empty.
    pub fn adopt(&self) {
        let was = self.word.compare_exchange(EMPTY, RUNNING, Ordering::Relaxed, Ordering::Relaxed);
        assert!(was.is_ok(), "adopting a context that is in use: {self:?}");
    }

    /// Puts a call of `entry(argument)` on `stack`, for the first switch to this context to make.
    ///
    /// # Panics
    ///
    /// If the context is not empty.
    pub fn prepare(&'static self, stack: Stack, entry: Entry, argument: usize) {
        let was = self.word.compare_exchange(EMPTY, PREPARING, Ordering::Acquire, Ordering::Relaxed);
        assert!(was.is_ok(), "preparing a context that is in use: {self:?}");
        let (bottom, size) = stack.into_raw();
        // In the order in which `resume` pops: r15 r14 r13 r12 rbx rbp, the return address. Above it lies a null
        // return address, where a backtrace ends, and a word that keeps the stack aligned for `trampoline`.
        let frame: [usize; 9] = [
            0,
            0,
            argument,
            (entry as *const ()).expose_provenance(),
            core::ptr::from_ref(self).expose_provenance(),
            0,
            (trampoline as *const ()).expose_provenance(),
            0,
            0,
        ];
        // SAFETY: the stack is at least `MIN_SIZE` long, so the frame lies within it.
        let top = unsafe { bottom.add(size - size_of_val(&frame)) };
        // SAFETY: the memory is this stack's alone, writable (`Stack::new`), and aligned: both ends are to 16, and
        // the frame is nine words.
        unsafe { top.cast::<[usize; 9]>().write(frame) };
        self.bottom.store(bottom.as_ptr().expose_provenance(), Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
        // Release: whoever takes the pointer sees the frame.
        self.word.store(top.as_ptr().expose_provenance(), Ordering::Release);
    }

    /// The stack of a context whose code is through; the context is empty then.
    ///
    /// # Panics
    ///
    /// If the code is not through.
    #[must_use]
    pub fn take_stack(&self) -> Stack {
        let was = self.word.compare_exchange(FINISHED, PREPARING, Ordering::Acquire, Ordering::Relaxed);
        assert!(was.is_ok(), "taking the stack of a context that is not through: {self:?}");
        let bottom =
            NonNull::new(core::ptr::with_exposed_provenance_mut(self.bottom.swap(0, Ordering::Relaxed)));
        let size = self.size.swap(0, Ordering::Relaxed);
        let Some(bottom) = bottom else { unreachable!("only a prepared context can be finished") };
        // Release: whoever prepares it anew finds both words cleared.
        self.word.store(EMPTY, Ordering::Release);
        // SAFETY: `prepare` got this memory from a `Stack` and kept it. The processor has left it: the word became
        // FINISHED behind the last access. And the exchange lets one caller through.
        unsafe { Stack::new(bottom, size) }
    }

    /// The addresses of the stack; `None` for an empty or an adopted context.
    #[must_use]
    pub fn stack(&self) -> Option<Range<usize>> {
        let bottom = self.bottom.load(Ordering::Relaxed);
        (bottom != 0).then(|| bottom..bottom + self.size.load(Ordering::Relaxed))
    }

    /// Suspends the code that runs, under this context, and resumes `to`. Returns when something switches back.
    ///
    /// The processor may be another one then. Interrupts should be off: they are not touched.
    ///
    /// # Panics
    ///
    /// If this context is not a running one, or `to` not a suspended one.
    pub fn switch(&self, to: &Self) {
        assert!(
            self.word.load(Ordering::Relaxed) == RUNNING,
            "leaving a context that does not run: {self:?}"
        );
        let pointer = to.take();
        // SAFETY: `pointer` was taken out of a suspended context, so nobody else will resume it, and it names a
        // frame made by `prepare` or by `swap`. The word of `self` is RUNNING: no pointer is lost, and nobody but
        // the running code writes it. `self` outlives the call, which returns when that pointer is resumed.
        unsafe { swap(&self.word, pointer) }
    }

    /// Takes the stack pointer of a suspended context, which is running from here on.
    fn take(&self) -> usize {
        let pointer = self.word.load(Ordering::Relaxed);
        assert!(pointer > PREPARING, "resuming a context that is not suspended: {self:?}");
        // Acquire pairs with the release in `prepare`, and with the store in `swap` (every x86-64 store is one).
        let taken = self.word.compare_exchange(pointer, RUNNING, Ordering::Acquire, Ordering::Relaxed);
        assert!(taken.is_ok(), "a context was resumed twice at once: {self:?}");
        pointer
    }
}

/// Pushes the registers that a callee saves, stores the stack pointer in `from`, and resumes `to`.
///
/// # Safety
///
/// `to` is the stack pointer of a suspended stack, taken out of its context; `from` is the word of a context that
/// is running.
#[unsafe(naked)]
unsafe extern "C" fn swap(from: &AtomicUsize, to: usize) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        // From here on anybody may resume the old stack, which this processor does not touch again.
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Resumes `to` for good, and marks `own` as finished once the old stack is left.
///
/// # Safety
///
/// As for [`swap`]; and the code of `own` is through.
#[unsafe(naked)]
unsafe extern "C" fn leave(own: &AtomicUsize, to: usize) -> ! {
    naked_asm!(
        "mov rsp, rsi",
        // From here on anybody may free the old stack.
        "mov qword ptr [rdi], {finished}",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        finished = const FINISHED,
    )
}

/// The first instructions of a new context. `prepare` put the context into rbx, the entry function into r12 and
/// its argument into r13. The stack is aligned to 16 here, as a call wants it.
#[unsafe(naked)]
extern "C" fn trampoline() {
    naked_asm!(
        "mov rdi, rbx",
        "mov rsi, r12",
        "mov rdx, r13",
        "xor ebp, ebp",
        "call {first}",
        "ud2",
        first = sym first,
    )
}

/// The lowest frame of a context: runs its code, then goes to the context that the code names.
#[expect(
    improper_ctypes_definitions,
    reason = "the function pointer comes from this compiler, through a register"
)]
extern "C" fn first(own: &'static Context, entry: Entry, argument: usize) -> ! {
    let next = entry(argument);
    assert!(own.word.load(Ordering::Relaxed) == RUNNING, "the end of a context that does not run: {own:?}");
    let pointer = next.take();
    // SAFETY: the pointer was taken out of a suspended context. The code is through: `entry` returned, this frame
    // holds nothing, and below it there is none.
    unsafe { leave(&own.word, pointer) }
}

#[cfg(test)]
pub(crate) mod tests;
