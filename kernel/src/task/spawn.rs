//! How threads begin and end.
//!
//! A thread needs a control block, a stack, and two small boxes: its function and the place for its result. All
//! four are had, or not, when it is created; afterwards it cannot fail. The block is used again when the thread is
//! off its stack *and* nobody holds its handle. Its stack stays with the block for the next thread; each thread
//! that ends frees the stacks which earlier ones left beyond the number that may be kept.

use super::cpu::Why;
use super::deadlock::Reason;
use super::id::{Name, ThreadId};
use super::platform::{CpuId, Platform};
use super::scheduler::Scheduler;
use super::table::{Body, NoBlock, Thread};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::marker::PhantomData;

/// Why there is no new thread. The function it would have run has been dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpawnError {
    /// No memory for the control block, the function or the result.
    NoMemory,
    /// No memory for a stack.
    NoStack,
    /// More threads than there are control blocks for.
    TooMany,
    /// The CPU that it should run on is not online.
    Offline(CpuId),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("no memory for a thread"),
            Self::NoStack => f.write_str("no memory for a stack"),
            Self::TooMany => f.write_str("too many threads"),
            Self::Offline(cpu) => write!(f, "{cpu} is not online"),
        }
    }
}

impl core::error::Error for SpawnError {}

/// A thread that somebody may wait for. Dropping the handle lets the thread go its way.
#[must_use = "dropping the handle detaches the thread"]
pub struct JoinHandle<T, P: Platform> {
    platform: P,
    id: ThreadId,
    result: PhantomData<fn() -> T>,
}

impl<T, P: Platform> fmt::Debug for JoinHandle<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinHandle").field(&self.id).finish()
    }
}

impl<T: 'static, P: Platform> JoinHandle<T, P> {
    /// Which thread it is.
    #[must_use]
    pub fn id(&self) -> ThreadId {
        self.id
    }

    /// Whether the thread's function has returned. Any context.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread().life.lock().exited
    }

    /// Waits for the thread's function to return, and answers what it did. Blocks.
    ///
    /// # Panics
    ///
    /// In debug builds, in a deadlock, such as a thread that waits for its own end.
    pub fn join(self) -> T {
        let scheduler = self.platform.scheduler();
        scheduler.assert_may_block("JoinHandle::join");
        if !self.is_finished() {
            let me = scheduler.table.get(scheduler.current_index());
            me.waits_for.set(self.id, Reason::Join);
            scheduler.check_deadlock();
            self.thread().exit.wait_until(|| self.is_finished());
            me.waits_for.clear();
        }
        let result = self.thread().life.lock().result.take();
        let result = result.and_then(|result| result.downcast::<[Option<T>; 1]>().ok());
        let Some([Some(value)]) = result.map(|result| *result) else {
            unreachable!("{} has ended without a result", self.id)
        };
        value
    }

    /// Lets the thread go its way; its result will be dropped.
    pub fn detach(self) {}
}

impl<T, P: Platform> JoinHandle<T, P> {
    fn thread(&self) -> &'static Thread<P> {
        self.platform.scheduler().table.get(self.id.index())
    }
}

impl<T, P: Platform> Drop for JoinHandle<T, P> {
    fn drop(&mut self) {
        let thread = self.thread();
        let mut life = thread.life.lock();
        life.claimed = false;
        let gone = life.gone;
        let result = life.result.take();
        drop(life);
        drop(result);
        if gone {
            self.platform.scheduler().table.put(thread, true);
        }
    }
}

/// What a thread does, and where it leaves the result: a box made beforehand.
struct Job<F, T> {
    function: F,
    result: Box<[Option<T>; 1]>,
}

/// A box of one `T`, by way of an array: the only boxes that stable Rust makes without ending the program when there
/// is no memory are those of vectors.
type One<T> = Box<[T; 1]>;

impl<F: FnOnce() -> T + Send, T: Send + 'static> Body for [Job<F, T>; 1] {
    fn run(self: Box<Self>) -> Box<dyn Any + Send> {
        let [Job { function, mut result }] = *self;
        result[0] = Some(function());
        result
    }
}

fn try_box<T>(value: T) -> Result<One<T>, SpawnError> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(1).map_err(|_| SpawnError::NoMemory)?;
    vector.push(value);
    One::try_from(vector).map_err(|_| SpawnError::NoMemory)
}

impl<P: Platform> Scheduler<P> {
    /// Creates a thread that runs `function`, on whichever CPU. Blocks only if the source of stacks does.
    ///
    /// # Errors
    ///
    /// If there is not enough memory, or there are too many threads.
    pub fn spawn<F, T>(&'static self, name: &str, function: F) -> Result<JoinHandle<T, P>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.create(name, None, function)
    }

    /// Creates a thread that runs on `cpu` only.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn), and if `cpu` is not online.
    pub fn spawn_on<F, T>(
        &'static self,
        cpu: CpuId,
        name: &str,
        function: F,
    ) -> Result<JoinHandle<T, P>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.online().find(|online| *online == cpu).ok_or(SpawnError::Offline(cpu))?;
        self.create(name, Some(cpu), function)
    }

    fn create<F, T>(
        &'static self,
        name: &str,
        only: Option<CpuId>,
        function: F,
    ) -> Result<JoinHandle<T, P>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let result = try_box(None)?;
        let body: Box<dyn Body> = try_box(Job { function, result })?;
        let (thread, has_stack) = self.table.take(true).map_err(|none| match none {
            NoBlock::Memory => SpawnError::NoMemory,
            NoBlock::Number => SpawnError::TooMany,
        })?;
        let stack = if has_stack { Some(self.platform.take_stack(&thread.context)) } else { None };
        let Some(stack) = stack.or_else(|| self.platform.allocate_stack()) else {
            self.table.put(thread, false);
            return Err(SpawnError::NoStack);
        };
        self.platform.prepare(&thread.context, stack, thread.index);
        let mut life = thread.life.lock();
        life.name = Name::new(name);
        life.body = Some(body);
        (life.exited, life.gone, life.claimed) = (false, false, true);
        drop(life);
        let id = thread.id();
        let home = only.unwrap_or_else(|| self.place_new());
        thread.sched.begin(home, only);
        self.launch(thread.index);
        Ok(JoinHandle { platform: self.platform, id, result: PhantomData })
    }

    /// What a new context runs, with interrupts off: everything from the first instruction of thread `index` to its
    /// end. Answers which context goes on then; interrupts are off, and the caller's context is through.
    #[must_use]
    pub fn thread_main(&'static self, index: u32) -> &'static P::Context {
        self.after_switch();
        self.platform.irq_restore(true);
        let thread = self.table.get(index);
        let body = thread.life.lock().body.take();
        let Some(body) = body else { unreachable!("{} begins without a function", thread.id()) };
        let result = body.run();
        // Now, while this thread can still block: afterwards nobody would.
        self.trim(self.spare_stacks);
        let mut life = thread.life.lock();
        life.exited = true;
        let unwanted = if life.claimed { life.result.replace(result) } else { Some(result) };
        drop(life);
        thread.exit.wake_all();
        drop(unwanted);
        self.platform.irq_save();
        let Some((_, next)) = self.decide(Why::Exited) else {
            unreachable!("a thread that has ended is picked again")
        };
        &self.table.get(next).context
    }

    /// A thread is off its stack for good.
    pub(super) fn bury(&self, thread: &Thread<P>) {
        thread.sched.retire();
        let mut life = thread.life.lock();
        life.gone = true;
        let claimed = life.claimed;
        drop(life);
        if !claimed {
            self.table.put(thread, true);
        }
    }

    /// Frees the stacks that ended threads have left, but for `keep`. Called by a thread; may block.
    pub fn trim(&self, keep: u32) {
        while let Some(thread) = self.table.take_spare(keep) {
            let stack = self.platform.take_stack(&thread.context);
            self.platform.free_stack(stack);
            self.table.put(thread, false);
        }
    }
}
