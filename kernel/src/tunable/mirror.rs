//! Tunables in xenstore: dom0 writes, the guest judges.
//!
//! Each offered tunable is a node under [`ROOT`] that holds the value in force. Writing it sets the tunable; what came
//! of it is in [`STATUS`], as `group/name: ok` or `group/name: why not`, and a refused value is replaced by the one in
//! force. A node that is there before the guest is a wish like any other, so a toolstack can leave some in advance.

use super::{COUNT, Group, Id, Refusal, Tunables};
use crate::port::{EventOps, Wait};
use crate::xen::store::{Store, StoreError, StoreEvent};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use log::{info, warn};
use xen_abi::Errno;

/// Where the nodes are, below the domain's own directory.
pub const ROOT: &str = "data/ebb/tunables";
/// Where the answer to the last write is. Not below [`ROOT`], which is watched.
pub const STATUS: &str = "data/ebb/tunables-status";

/// How often a node that changes under our hands is looked at again.
const ATTEMPTS: usize = 8;

/// What the store is known to show.
#[derive(Debug)]
pub struct Mirror {
    shown: [Option<u64>; COUNT],
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

impl Mirror {
    /// Nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { shown: [None; COUNT] }
    }

    /// Acts on an event of the watch on [`ROOT`]: sets what dom0 wrote, and publishes what changed here. Blocks.
    ///
    /// # Errors
    ///
    /// Those of the store. What could not be done is done by a later call with [`StoreEvent::Again`].
    pub fn on_event<P: EventOps + Wait>(
        &mut self,
        store: &mut Store<P>,
        tunables: &Tunables,
        event: &StoreEvent<'_>,
    ) -> Result<(), StoreError> {
        let name = match event {
            StoreEvent::Changed(path) => path.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/')),
            StoreEvent::Again => None,
        };
        let Some(name) = name else {
            let created = self.create(store, tunables)?;
            let mut others = tunables.offered().filter(|id| !created.contains(id));
            return others.try_for_each(|id| self.reconcile(store, tunables, id));
        };
        match tunables.named(name) {
            Ok(id) => self.reconcile(store, tunables, id),
            // A group's own node, or its end.
            Err(_) if !name.contains('/') => Ok(()),
            Err(refusal) => match store.read(&format!("{ROOT}/{name}")) {
                Err(StoreError::Refused(_)) => Ok(()),
                Err(error) => Err(error),
                Ok(_) => say(store, name, &refusal),
            },
        }
    }

    /// Makes the nodes that are missing, all at once: a request is a trip to dom0 and back, and whoever is served by
    /// the same thread waits for all of them. Answers which it made.
    fn create<P: EventOps + Wait>(
        &mut self,
        store: &mut Store<P>,
        tunables: &Tunables,
    ) -> Result<Vec<Id>, StoreError> {
        let mut created: Vec<(Id, u64)> = Vec::new();
        store.transaction(|transaction| {
            created.clear();
            for group in Group::ALL.iter().filter(|group| tunables.is_served(**group)) {
                let there = match transaction.directory(&format!("{ROOT}/{}", group.name())) {
                    Err(StoreError::Refused(Errno::ENOENT)) => Vec::new(),
                    names => names?,
                };
                let of_group = tunables.offered().filter(|id| id.declaration().group == *group);
                for id in of_group.filter(|id| there.iter().all(|name| name != id.declaration().name)) {
                    let Some(value) = tunables.value(id) else { continue };
                    let path = format!("{ROOT}/{}", id.declaration().path);
                    transaction.write(&path, super::Text { id, value }.to_string().as_bytes())?;
                    created.push((id, value));
                }
            }
            Ok(())
        })?;
        for (id, value) in &created {
            self.shown[*id as usize] = Some(*value);
        }
        Ok(created.into_iter().map(|(id, _)| id).collect())
    }

    /// Brings one node and its tunable together.
    fn reconcile<P: EventOps + Wait>(
        &mut self,
        store: &mut Store<P>,
        tunables: &Tunables,
        id: Id,
    ) -> Result<(), StoreError> {
        let path = format!("{ROOT}/{}", id.declaration().path);
        for _ in 0..ATTEMPTS {
            let there = read(store, &path)?;
            let shown = self.shown[id as usize].map(|value| super::Text { id, value }.to_string());
            // Neither what we wrote last nor what is in force: somebody's wish.
            let is_wish = there != shown && there != text(tunables, id);
            if let Some(wish) = there.as_ref().filter(|_| is_wish) {
                self.obey(store, tunables, id, wish)?;
            }
            let Some(value) = tunables.value(id) else { return Ok(()) };
            let wanted = super::Text { id, value }.to_string();
            if there.as_ref() == Some(&wanted) || replace(store, &path, there.as_deref(), &wanted)? {
                self.shown[id as usize] = Some(value);
                return Ok(());
            }
        }
        Err(StoreError::Contended)
    }

    /// Sets what dom0 wishes, if it is accepted, and says what came of it.
    fn obey<P: EventOps + Wait>(
        &self,
        store: &mut Store<P>,
        tunables: &Tunables,
        id: Id,
        wish: &str,
    ) -> Result<(), StoreError> {
        let path = id.declaration().path;
        match tunables.set(id, wish) {
            Ok(changed) => {
                if changed {
                    info!("{path} is {} now: written in xenstore", wish.trim_ascii());
                }
                store.write(STATUS, format!("{path}: ok").as_bytes())
            }
            Err(refusal) => say(store, path, &refusal),
        }
    }
}

/// The value in force, as it is published.
fn text(tunables: &Tunables, id: Id) -> Option<String> {
    tunables.text(id).map(|text| text.to_string())
}

/// Reads a node; `None` if there is none. What is not UTF-8 is no value, and is shown as far as it is text.
fn read<P: EventOps + Wait>(store: &mut Store<P>, path: &str) -> Result<Option<String>, StoreError> {
    match store.read(path) {
        Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
        Err(StoreError::Refused(Errno::ENOENT)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a node, unless somebody else has changed it since it was read as `there`; answers whether.
fn replace<P: EventOps + Wait>(
    store: &mut Store<P>,
    path: &str,
    there: Option<&str>,
    value: &str,
) -> Result<bool, StoreError> {
    store.transaction(|transaction| {
        let now = match transaction.read(path) {
            Err(StoreError::Refused(Errno::ENOENT)) => None,
            value => Some(String::from_utf8_lossy(&value?).into_owned()),
        };
        if now.as_deref() != there {
            return Ok(false);
        }
        transaction.write(path, value.as_bytes())?;
        Ok(true)
    })
}

/// Says why a wish is not fulfilled, to dom0 and in the log.
fn say<P: EventOps + Wait>(
    store: &mut Store<P>,
    name: &str,
    refusal: &Refusal<'_>,
) -> Result<(), StoreError> {
    warn!("written in xenstore: {refusal}");
    // A name of dom0 may be longer than a value of ours is to be.
    let named = matches!(refusal, Refusal::BadValue(..) | Refusal::NotServed(_));
    let name = &name[..name.floor_char_boundary(128)];
    let text = if named { refusal.to_string() } else { format!("{name}: there is no such tunable") };
    store.write(STATUS, text.as_bytes())
}
