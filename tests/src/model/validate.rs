//! Every counter of the model, derived again from the frames themselves.

use super::p2m::Slot;
use super::state::State;
use std::collections::BTreeMap;
use std::format;
use std::string::String;

impl State {
    /// Whether every host frame has exactly one owner and every counter is the sum of what it counts.
    pub(super) fn validate(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        let mapped =
            self.p2m.mapped().filter_map(|(frame, slot)| Some((slot.charged()?, format!("{frame}"))));
        let cache = self.pod.cache.iter().map(|mfn| (*mfn, String::from("the cache")));
        let leaked = self.leaked.iter().map(|mfn| (*mfn, String::from("a leak")));
        for (mfn, owner) in mapped.chain(cache).chain(leaked) {
            if let Some(other) = owners.insert(mfn, owner.clone()) {
                return Err(format!("host frame {mfn:#x} is owned by {other} and by {owner}"));
            }
        }
        for (mfn, _) in self.tmem_frames().filter(|(_, own)| *own) {
            if let Some(other) = owners.insert(mfn, String::from("tmem")) {
                return Err(format!("host frame {mfn:#x} is owned by {other} and by tmem"));
            }
        }
        if owners.len() as u64 != self.charged {
            return Err(format!("{} frames are charged, {} are owned", self.charged, owners.len()));
        }
        for mfn in &self.taken {
            if owners.insert(*mfn, String::from("another domain")).is_some() {
                return Err(format!("host frame {mfn:#x} is another domain's, too"));
            }
        }
        for (mfn, _) in self.tmem_frames().filter(|(_, own)| !*own) {
            if let Some(other) = owners.insert(mfn, String::from("tmem, for others")) {
                return Err(format!("host frame {mfn:#x} is owned by {other} and by tmem"));
            }
        }
        self.validate_tmem()?;
        let used = self.host.used().filter(|mfn| !owners.contains_key(mfn)).count();
        if used != 0 {
            return Err(format!("{used} host frames are in use by nobody"));
        }
        if let Some((mfn, owner)) = owners.iter().find(|(mfn, _)| !self.host.is_used(**mfn)) {
            return Err(format!("host frame {mfn:#x} of {owner} is free"));
        }
        let entries = self.p2m.mapped().filter(|(_, slot)| *slot == Slot::PopulateOnDemand).count() as u64;
        if entries != self.pod.entries {
            return Err(format!("{} entries are counted, {entries} are there", self.pod.entries));
        }
        self.events.validate(self.config.domid).map_err(String::from)
    }
}
