//! Serving watches over a connection that may be slow, silent or gone: what the service's thread does, step by step.
//!
//! Several threads share one connection. Each makes its requests while it holds the connection alone; whoever looks at
//! the ring may find events for others, which stay queued in the [`Store`]. One thread takes them from there, sets
//! watches, mends the connection, and calls the consumers. [`Link`] is that thread's work without the thread: locks and
//! waiting are behind [`Shared`], so that the same code runs on the host against a model of the daemon.

use super::backoff::Backoff;
use super::client::Store;
use super::watches::{Change, Delivery, Watches};
use super::{StoreError, WatchEvent};
use crate::port::{EventOps, Wait};
use alloc::vec::Vec;
use log::{info, warn};

/// How long the service goes without looking: so late, at worst, is an event of the port that got lost.
const LOOK_NS: u64 = 60_000_000_000;

/// What the service shares with those who make requests and add watches.
pub trait Shared<P> {
    /// Runs `f` with the connection alone; `None` if somebody else has it for longer than the implementation waits.
    fn with_store<R>(&self, f: impl FnOnce(&mut Store<P>) -> R) -> Option<R>;

    /// Runs `f` with the watches. `f` is short.
    fn with_watches<R>(&self, f: impl FnOnce(&mut Watches) -> R) -> R;

    /// System time.
    fn now_ns(&self) -> u64;
}

/// The service's view of the connection.
#[derive(Debug, Default)]
pub struct Link {
    /// Of what the store did not do last time: a reconnection, or setting a watch.
    retry: Backoff,
}

/// What one look at the connection brought.
#[derive(Default)]
struct Round {
    answers: Vec<(Change, Result<(), StoreError>)>,
    events: Vec<WatchEvent>,
}

impl Link {
    /// A connection that nothing is known of yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does all that can be done now, and answers until when to wait for the port's event before the next step. Blocks
    /// while the store is asked. Consumers are called with nothing locked.
    pub fn step<P: EventOps + Wait>(&mut self, shared: &impl Shared<P>) -> u64 {
        let due = shared.with_watches(|watches| watches.due());
        let Some(round) = shared.with_store(|store| self.round(store, due, || shared.now_ns())) else {
            return shared.now_ns();
        };
        let (deliveries, left) = shared.with_watches(|watches| {
            for (change, answer) in round.answers {
                watches.settle(&change, answer);
            }
            let mut deliveries = watches.again(shared.now_ns());
            for event in round.events {
                deliveries.extend(watches.route(event));
            }
            (deliveries, !watches.due().is_empty())
        });
        for delivery in &deliveries {
            self.deliver(shared, delivery);
        }
        let now_ns = shared.now_ns();
        // What became due meanwhile, by lost events or a consumer, is for the next step, which may come at once.
        let left = left || shared.with_watches(|watches| !watches.due().is_empty());
        let retry_ns = if left || self.retry.is_failing() { self.retry.at_ns() } else { u64::MAX };
        let again_ns = shared.with_watches(|watches| watches.again_ns());
        retry_ns.min(again_ns).min(now_ns.saturating_add(LOOK_NS))
    }

    fn deliver<P: EventOps + Wait>(&self, shared: &impl Shared<P>, delivery: &Delivery) {
        // A consumer that was called before may have removed this watch.
        if shared.with_watches(|watches| watches.state(delivery.id).is_none()) {
            return;
        }
        let answer = delivery.deliver();
        let now_ns = shared.now_ns();
        shared.with_watches(|watches| watches.delivered(delivery.id, &answer, now_ns));
    }

    /// Looks at the connection, mends it, tells it what is due, and takes the events that are there.
    fn round<P: EventOps + Wait>(
        &mut self,
        store: &mut Store<P>,
        due: Vec<Change>,
        now_ns: impl Fn() -> u64,
    ) -> Round {
        let mut round = Round::default();
        let was_failing = self.retry.is_failing();
        if self.retry.is_over(now_ns()) {
            let done = Self::mend(store).and_then(|()| {
                due.into_iter().try_for_each(|change| {
                    let answer = if change.set {
                        store.watch(&change.path, &change.token())
                    } else {
                        store.unwatch(&change.path, &change.token())
                    };
                    let passing = answer.as_ref().err().filter(|error| may_pass(error)).cloned();
                    round.answers.push((change, answer));
                    passing.map_or(Ok(()), Err)
                })
            });
            match done {
                Ok(()) => self.retry = Backoff::default(),
                Err(problem) => {
                    self.retry.postpone(now_ns());
                    if !was_failing {
                        warn!("xenstore is out of order, and is tried again: {problem}");
                    }
                }
            }
            if was_failing && !self.retry.is_failing() {
                info!("xenstore works again");
            }
        } else {
            // Events may be there all the same. Why not, if not, is known.
            let _ = store.poll();
        }
        round.events.extend(core::iter::from_fn(|| store.next_event()));
        round
    }

    /// Looks, and if the connection is beyond that, asks for a new one.
    fn mend<P: EventOps + Wait>(store: &mut Store<P>) -> Result<(), StoreError> {
        match store.poll() {
            Err(fatal) => match store.reconnect() {
                Err(StoreError::NoReconnection) => Err(fatal),
                result => result,
            },
            Ok(()) => Ok(()),
        }
    }
}

/// Whether a request that met `error` is worth repeating.
const fn may_pass(error: &StoreError) -> bool {
    !matches!(error, StoreError::Refused(_) | StoreError::BadRequest(_))
}
