//! Who wants to know of what: watches by number, with a consumer each.
//!
//! A watch here is a wish that lasts: it is set at the store as soon as that answers, and set again on every new
//! connection. Its consumer is called when it has been set, at every change, and when events may have been lost; a
//! consumer that could not do its work for now is called again.

use super::backoff::Backoff;
use super::{StoreError, WatchEvent};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use log::error;
use xen_abi::Errno;

/// How the tokens of these watches begin; the number follows.
const TOKEN: &str = "ebb-";

/// What a consumer is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreEvent<'e> {
    /// Something changed at or below the watched path: here, relative if the watch is. Also once for each setting of
    /// the watch, whether the node exists or not.
    Changed(&'e str),
    /// Anything at or below the watched path may have changed.
    Again,
}

/// Called with each event of a watch, by the thread that serves the store, which holds no lock meanwhile: the
/// consumer may make requests, and add and remove watches.
///
/// An event is a hint: read the node again. After an error the consumer is called again with [`StoreEvent::Again`],
/// later and later, until it answers `Ok`; so an error is for what may pass, such as [`StoreError::Timeout`].
pub type Consumer = Arc<dyn Fn(&StoreEvent<'_>) -> Result<(), StoreError> + Send + Sync>;

/// A watch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WatchId(u64);

/// How far a watch is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchState {
    /// To be set, at the next opportunity.
    Due,
    /// Set.
    Set,
    /// The store does not want it: no right to read the path, not a path, too many watches. Tried again on a new
    /// connection only.
    Refused(StoreError),
}

struct Watch {
    id: WatchId,
    path: String,
    consumer: Consumer,
    state: WatchState,
    /// The consumer failed, and is called again.
    again: Option<Backoff>,
}

/// A change that the store is to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) id: WatchId,
    pub(super) path: String,
    /// The watch is to be set, or else to end.
    pub(super) set: bool,
}

impl Change {
    pub(super) fn token(&self) -> String {
        alloc::format!("{TOKEN}{}", self.id.0)
    }
}

/// An event and who is to be told.
pub(super) struct Delivery {
    pub(super) id: WatchId,
    consumer: Consumer,
    path: Option<String>,
}

impl Delivery {
    pub(super) fn deliver(&self) -> Result<(), StoreError> {
        (self.consumer)(&self.path.as_deref().map_or(StoreEvent::Again, StoreEvent::Changed))
    }
}

/// All watches of one user of the store.
#[derive(Default)]
pub struct Watches {
    watches: Vec<Watch>,
    /// Watches that are no more here and may be there.
    ended: Vec<(WatchId, String)>,
    last: u64,
}

impl core::fmt::Debug for Watches {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let watches = self.watches.iter().map(|watch| (watch.id.0, (&watch.path, &watch.state)));
        f.debug_map().entries(watches).finish()
    }
}

impl Watches {
    /// No watch.
    #[must_use]
    pub const fn new() -> Self {
        Self { watches: Vec::new(), ended: Vec::new(), last: 0 }
    }

    /// Adds one, to be set at the next opportunity.
    pub fn add(&mut self, path: &str, consumer: Consumer) -> WatchId {
        self.last += 1;
        let id = WatchId(self.last);
        let path = path.to_string();
        self.watches.push(Watch { id, path, consumer, state: WatchState::Due, again: None });
        id
    }

    /// Removes one, and answers whether it was there. No call of its consumer begins any more; one may be going on.
    pub fn remove(&mut self, id: WatchId) -> bool {
        let Some(index) = self.watches.iter().position(|watch| watch.id == id) else { return false };
        let watch = self.watches.swap_remove(index);
        self.ended.push((id, watch.path));
        true
    }

    /// Has the consumer of a watch called again soon, with [`StoreEvent::Again`].
    pub fn repeat(&mut self, id: WatchId) {
        if let Some(watch) = self.get_mut(id) {
            watch.again.get_or_insert_with(Backoff::default);
        }
    }

    /// How far it is; `None` if it was removed.
    #[must_use]
    pub fn state(&self, id: WatchId) -> Option<&WatchState> {
        self.watches.iter().find(|watch| watch.id == id).map(|watch| &watch.state)
    }

    fn get_mut(&mut self, id: WatchId) -> Option<&mut Watch> {
        self.watches.iter_mut().find(|watch| watch.id == id)
    }

    /// What the store is to be told, ends first: they make place.
    pub(super) fn due(&self) -> Vec<Change> {
        let ended = self.ended.iter().map(|(id, path)| Change { id: *id, path: path.clone(), set: false });
        let due = self.watches.iter().filter(|watch| watch.state == WatchState::Due);
        ended.chain(due.map(|watch| Change { id: watch.id, path: watch.path.clone(), set: true })).collect()
    }

    /// What the store said to `change`. Silence, or an error of the connection, leaves it due.
    pub(super) fn settle(&mut self, change: &Change, answer: Result<(), StoreError>) {
        if !change.set {
            if matches!(answer, Ok(()) | Err(StoreError::Refused(_) | StoreError::BadRequest(_))) {
                self.ended.retain(|(id, _)| *id != change.id);
            }
            return;
        }
        // Removed meanwhile: it is among those that ended, and will be taken back.
        let Some(watch) = self.get_mut(change.id) else { return };
        match answer {
            // It may be there since an attempt whose answer did not come.
            Ok(()) | Err(StoreError::Refused(Errno::EEXIST)) => watch.state = WatchState::Set,
            Err(refused @ (StoreError::Refused(_) | StoreError::BadRequest(_))) => {
                error!("xenstore: no watch on {}: {refused}", change.path);
                watch.state = WatchState::Refused(refused);
            }
            Err(_) => {}
        }
    }

    /// Whom an event concerns. After lost events that is everybody, and all watches are set again, because a new
    /// connection has none.
    pub(super) fn route(&mut self, event: WatchEvent) -> Vec<Delivery> {
        match event {
            WatchEvent::Lost => {
                self.watches.iter_mut().for_each(|watch| watch.state = WatchState::Due);
                self.watches.iter().map(|watch| watch.delivery(None)).collect()
            }
            WatchEvent::Changed { path, token } => {
                let id = token.strip_prefix(TOKEN).and_then(|number| number.parse().ok()).map(WatchId);
                let watch = self.watches.iter().find(|watch| Some(watch.id) == id);
                watch.map(|watch| watch.delivery(Some(path))).into_iter().collect()
            }
        }
    }

    /// Consumers that are to be called again by now.
    pub(super) fn again(&self, now_ns: u64) -> Vec<Delivery> {
        let due = |watch: &&Watch| watch.again.is_some_and(|again| again.is_over(now_ns));
        self.watches.iter().filter(due).map(|watch| watch.delivery(None)).collect()
    }

    /// When the next consumer is to be called again.
    pub(super) fn again_ns(&self) -> u64 {
        self.watches
            .iter()
            .filter_map(|watch| watch.again)
            .map(|again| again.at_ns())
            .min()
            .unwrap_or(u64::MAX)
    }

    /// What the consumer of a delivery answered.
    pub(super) fn delivered(&mut self, id: WatchId, answer: &Result<(), StoreError>, now_ns: u64) {
        let Some(watch) = self.get_mut(id) else { return };
        match answer {
            Ok(()) => watch.again = None,
            Err(problem) => {
                let again = watch.again.get_or_insert_with(Backoff::default);
                again.postpone(now_ns);
                log::warn!("xenstore: what is at {} is looked at again later: {problem}", watch.path);
            }
        }
    }
}

impl Watch {
    fn delivery(&self, path: Option<String>) -> Delivery {
        Delivery { id: self.id, consumer: Arc::clone(&self.consumer), path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::vec;

    fn counting(calls: &Arc<AtomicUsize>, answer: Result<(), StoreError>) -> Consumer {
        let calls = Arc::clone(calls);
        Arc::new(move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            answer.clone()
        })
    }

    fn changed(path: &str, token: &str) -> WatchEvent {
        WatchEvent::Changed { path: path.to_string(), token: token.to_string() }
    }

    #[test]
    fn events_reach_their_consumer_and_nobody_else() {
        let (a, b) = (Arc::default(), Arc::default());
        let mut watches = Watches::new();
        let first = watches.add("x", counting(&a, Ok(())));
        let second = watches.add("x", counting(&b, Ok(())));
        assert_ne!(first, second);
        for token in ["ebb-1", "ebb-", "ebb-3", "other", "ebb-18446744073709551616", ""] {
            for delivery in watches.route(changed("x/y", token)) {
                assert_eq!(delivery.deliver(), Ok(()));
            }
        }
        assert_eq!((a.load(Ordering::Relaxed), b.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(watches.route(WatchEvent::Lost).len(), 2);
    }

    #[test]
    fn what_the_store_says_decides_the_state() {
        let mut watches = Watches::new();
        let calls = Arc::default();
        let answers = [
            (Ok(()), WatchState::Set),
            (Err(StoreError::Refused(Errno::EEXIST)), WatchState::Set),
            (Err(StoreError::Timeout), WatchState::Due),
            (Err(StoreError::Closed(1)), WatchState::Due),
            (
                Err(StoreError::Refused(Errno::EACCES)),
                WatchState::Refused(StoreError::Refused(Errno::EACCES)),
            ),
        ];
        for (answer, state) in answers {
            let id = watches.add("p", counting(&calls, Ok(())));
            let due = watches.due();
            let change = due.iter().find(|change| change.id == id).unwrap();
            watches.settle(change, answer);
            assert_eq!(watches.state(id), Some(&state));
        }
        watches.route(WatchEvent::Lost);
        assert_eq!(
            watches.due().len(),
            5,
            "a new connection knows none, and may allow what the old one did not"
        );
    }

    #[test]
    fn a_removed_watch_is_ended_at_the_store_and_hears_nothing() {
        let mut watches = Watches::new();
        let id = watches.add("p", counting(&Arc::default(), Ok(())));
        let set = watches.due();
        assert!(watches.remove(id));
        assert!(!watches.remove(id), "twice");
        watches.settle(&set[0], Ok(()));
        assert_eq!(watches.state(id), None);
        assert!(watches.route(changed("p", "ebb-1")).is_empty());
        let end = watches.due();
        assert_eq!(end, vec![Change { id, path: "p".to_string(), set: false }]);
        watches.settle(&end[0], Err(StoreError::Timeout));
        assert_eq!(watches.due(), end, "still to be said");
        watches.settle(&end[0], Err(StoreError::Refused(Errno::ENOENT)));
        assert!(watches.due().is_empty());
    }

    #[test]
    fn a_repeated_watch_is_called_once_more() {
        let mut watches = Watches::new();
        let id = watches.add("p", counting(&Arc::default(), Ok(())));
        watches.repeat(id);
        watches.repeat(id);
        assert_eq!((watches.again_ns(), watches.again(5).len()), (0, 1));
        watches.delivered(id, &Ok(()), 5);
        assert!(watches.again(5).is_empty());
        // One that waits after a failure goes on waiting: the store is out of order.
        watches.delivered(id, &Err(StoreError::Timeout), 5);
        watches.repeat(id);
        assert!(watches.again(5).is_empty() && watches.again_ns() != u64::MAX);
    }

    #[test]
    fn a_consumer_that_fails_is_called_again_later_and_later() {
        let mut watches = Watches::new();
        let id = watches.add("p", counting(&Arc::default(), Err(StoreError::Timeout)));
        let mut now_ns = 1_000;
        let mut waited = Vec::new();
        for _ in 0..20 {
            watches.delivered(id, &Err(StoreError::Timeout), now_ns);
            assert!(watches.again(now_ns).is_empty());
            waited.push(watches.again_ns() - now_ns);
            now_ns = watches.again_ns();
            assert_eq!(watches.again(now_ns).len(), 1);
        }
        assert!(waited.is_sorted() && waited[0] < waited[19]);
        watches.delivered(id, &Ok(()), now_ns);
        assert_eq!(watches.again_ns(), u64::MAX);
    }
}
