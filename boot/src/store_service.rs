//! The store for all threads: requests by whoever has one, and a thread that serves the watches.
//!
//! The connection is behind a mutex of threads, so that who waits for it, or for the daemon, blocks and burns nothing.
//! Only one thread at a time is to wait for the store's port, and two may want to: the one that made a request, for its
//! answer, and the service's own, for events. Whoever takes the port's event and cannot be sure that it was meant for
//! himself alone announces it again: the service's thread if somebody else holds the connection, that somebody if it
//! leaves events behind.

use crate::domain::{self, Sleeping};
use crate::platform::{Mutex, WaitQueue, threads};
use crate::{Kernel, cpus};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::port::Wait;
use ebb::task::{MutexGuard, SpawnError};
use ebb::units::EventPort;
use ebb::xen::shutdown::{self, Command, Shutdown};
use ebb::xen::store::{
    Consumer, DEFAULT_TIMEOUT_NS, Link, Shared, Store, StoreError, StoreEvent, Transaction, WatchId, Watches,
};
use spin::once::Once;

/// How long a thread waits for the connection. Whoever has it makes one request as a rule, which is bounded itself; and
/// those who come first are served first.
const PATIENCE_NS: u64 = 3 * DEFAULT_TIMEOUT_NS;

/// The store, shared by all threads of this domain.
///
/// For threads only: whatever makes a request blocks until the daemon has answered, at most for the wait for the
/// connection and [`DEFAULT_TIMEOUT_NS`] more. Not for interrupt handlers.
#[derive(Debug)]
pub struct StoreService {
    connection: Mutex<Store<Sleeping>>,
    watches: Mutex<Watches>,
    /// The watches were changed and the service's thread has not seen it.
    changed: AtomicBool,
    /// The thread runs, or is about to.
    started: AtomicBool,
    port: EventPort,
    waits: Sleeping,
}

/// The connection, by one thread alone, until it is dropped.
///
/// Who takes events from it takes them from the service, which has no watches unless somebody added some.
#[derive(Debug)]
#[must_use = "the connection is free again as soon as this is dropped"]
pub struct Connection<'s> {
    // Dropped in this order: who is told must find the mutex free.
    store: MutexGuard<'s, Store<Sleeping>, Kernel>,
    leaves: Leaves<'s>,
}

/// Tells the service, at its end, of what is left for it.
#[derive(Debug)]
struct Leaves<'s> {
    service: &'s StoreService,
    work: bool,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if self.work {
            domain::announce(self.service.port);
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let changed = self.leaves.service.changed.load(Ordering::Acquire);
        self.leaves.work = changed || self.store.has_events() || self.store.failure().is_some();
    }
}

impl Deref for Connection<'_> {
    type Target = Store<Sleeping>;
    fn deref(&self) -> &Store<Sleeping> {
        &self.store
    }
}

impl DerefMut for Connection<'_> {
    fn deref_mut(&mut self) -> &mut Store<Sleeping> {
        &mut self.store
    }
}

impl StoreService {
    /// Shares `store`. `waits` waits for its port.
    pub(crate) fn new(store: Store<Sleeping>, waits: Sleeping) -> Self {
        let port = store.port();
        Self {
            connection: Mutex::new(Kernel, "xenstore", store),
            watches: Mutex::new(Kernel, "xenstore watches", Watches::new()),
            changed: AtomicBool::new(false),
            started: AtomicBool::new(false),
            port,
            waits,
        }
    }

    /// The port of the store.
    #[must_use]
    pub const fn port(&self) -> EventPort {
        self.port
    }

    /// The connection for several requests in a row, or for one that is not below.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] if others have it for very long, which takes a daemon that is silent.
    pub fn connection(&self) -> Result<Connection<'_>, StoreError> {
        let taken = self.connection.lock_until(cpus::now_ns().saturating_add(PATIENCE_NS));
        let leaves = Leaves { service: self, work: false };
        taken.map(|store| Connection { store, leaves }).ok_or(StoreError::Timeout)
    }

    /// As [`Store::read`].
    ///
    /// # Errors
    ///
    /// As there, and as [`connection`](Self::connection).
    pub fn read(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        self.connection()?.read(path)
    }

    /// As [`Store::read_text`].
    ///
    /// # Errors
    ///
    /// As there, and as [`connection`](Self::connection).
    pub fn read_text(&self, path: &str) -> Result<String, StoreError> {
        self.connection()?.read_text(path)
    }

    /// As [`Store::write`].
    ///
    /// # Errors
    ///
    /// As there, and as [`connection`](Self::connection).
    pub fn write(&self, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.connection()?.write(path, value)
    }

    /// As [`Store::rm`].
    ///
    /// # Errors
    ///
    /// As there, and as [`connection`](Self::connection).
    pub fn rm(&self, path: &str) -> Result<(), StoreError> {
        self.connection()?.rm(path)
    }

    /// As [`Store::directory`].
    ///
    /// # Errors
    ///
    /// As there, and as [`connection`](Self::connection).
    pub fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        self.connection()?.directory(path)
    }

    /// As [`Store::transaction`]. `body` makes its requests through what it is given: the connection is taken.
    ///
    /// # Errors
    ///
    /// As there, and as [`connection`](Self::connection).
    pub fn transaction<R>(
        &self,
        body: impl FnMut(&mut Transaction<'_, Sleeping>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.connection()?.transaction(body)
    }

    /// Has `consumer` called when the watch on `path` has been set, which is soon if the store answers, and whenever
    /// something changes at or below; see [`Consumer`]. Begins the service's thread if this is the first watch.
    ///
    /// # Errors
    ///
    /// If that thread cannot begin. The watch is there all the same, and set with the next one that succeeds.
    pub fn watch(&'static self, path: &str, consumer: Consumer) -> Result<WatchId, SpawnError> {
        let id = self.watches.lock().add(path, consumer);
        self.start()?;
        self.watches_changed();
        Ok(id)
    }

    /// Ends a watch, and answers whether it was there. No call of its consumer begins any more; one may be going on.
    pub fn unwatch(&self, id: WatchId) -> bool {
        let removed = self.watches.lock().remove(id);
        self.watches_changed();
        removed
    }

    /// Has the consumer of a watch called again soon: something on our side has changed. Blocks for a moment.
    pub fn repeat(&self, id: WatchId) {
        self.watches.lock().repeat(id);
        self.watches_changed();
    }

    fn watches_changed(&self) {
        self.changed.store(true, Ordering::Release);
        domain::announce(self.port);
    }

    fn start(&'static self) -> Result<(), SpawnError> {
        if self.started.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        match threads().spawn("xenstore", || self.serve()) {
            Ok(thread) => {
                thread.detach();
                Ok(())
            }
            Err(error) => {
                self.started.store(false, Ordering::Release);
                Err(error)
            }
        }
    }

    /// The service's thread.
    fn serve(&self) {
        let mut link = Link::new();
        loop {
            self.changed.store(false, Ordering::Release);
            let deadline_ns = link.step(self);
            self.waits.wait(self.port, deadline_ns);
            // If somebody is waiting for an answer, the event may be that. He is through before the next step can be.
            if self.connection.holder().is_some() {
                domain::announce(self.port);
            }
        }
    }

    /// Has the toolstack's commands to stop collected. To be called once.
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn shutdown_requests(&'static self) -> Result<ShutdownRequests, SpawnError> {
        let requests = ShutdownRequests(Arc::new(Requests {
            shutdown: Mutex::new(Kernel, "shutdown", Shutdown::new()),
            obeys: AtomicBool::new(false),
            command: Once::new(),
            waiters: WaitQueue::new(Kernel),
        }));
        let shared = Arc::clone(&requests.0);
        self.watch(shutdown::NODE, Arc::new(move |_: &StoreEvent<'_>| shared.look(self)))?;
        Ok(requests)
    }
}

impl Shared<Sleeping> for StoreService {
    fn with_store<R>(&self, f: impl FnOnce(&mut Store<Sleeping>) -> R) -> Option<R> {
        let mut store = self.connection.lock_until(cpus::now_ns().saturating_add(PATIENCE_NS))?;
        Some(f(&mut store))
    }

    fn with_watches<R>(&self, f: impl FnOnce(&mut Watches) -> R) -> R {
        f(&mut self.watches.lock())
    }

    fn now_ns(&self) -> u64 {
        cpus::now_ns()
    }
}

/// The toolstack's wish that this domain stop, as it comes.
#[derive(Clone, Debug)]
pub struct ShutdownRequests(Arc<Requests>);

#[derive(Debug)]
struct Requests {
    shutdown: Mutex<Shutdown>,
    /// The node is watched, and was looked at once.
    obeys: AtomicBool,
    command: Once<Command>,
    waiters: WaitQueue,
}

impl Requests {
    fn look(&self, service: &StoreService) -> Result<(), StoreError> {
        let command = self.shutdown.lock().look(&mut *service.connection()?)?;
        if let Some(command) = command {
            self.command.call_once(|| command);
        }
        self.obeys.store(true, Ordering::Release);
        self.waiters.wake_all();
        Ok(())
    }
}

impl ShutdownRequests {
    /// Waits until the toolstack is obeyed: its commands are watched for, and one that was there has been seen. Answers
    /// false if that is not so by `deadline_ns`; it will be when the store answers.
    #[must_use]
    pub fn wait_until_obeyed(&self, deadline_ns: u64) -> bool {
        self.0.waiters.wait_until_deadline(deadline_ns, || self.0.obeys.load(Ordering::Acquire))
    }

    /// The command that came first, if one came.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        self.0.command.get().copied()
    }

    /// Waits for a command until `deadline_ns`; `u64::MAX` is for ever.
    #[must_use]
    pub fn wait_until(&self, deadline_ns: u64) -> Option<Command> {
        // What came, if anything, is asked below.
        let _ = self.0.waiters.wait_until_deadline(deadline_ns, || self.command().is_some());
        self.command()
    }
}
