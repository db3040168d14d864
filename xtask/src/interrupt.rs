//! Ctrl-C, and the other polite ways to ask a process to end.
//!
//! Whoever runs a machine registers what to do; without anybody registered, or at the second signal, the
//! process ends at once, and the kernel takes the machines with it.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Action = Box<dyn Fn() + Send>;

#[derive(Default)]
struct State {
    next: u64,
    actions: BTreeMap<u64, Action>,
    asked: bool,
}

static STATE: Mutex<State> = Mutex::new(State { next: 0, actions: BTreeMap::new(), asked: false });

/// An action's registration; it ends with this value.
#[derive(Debug)]
pub(crate) struct Registration(u64);

impl Drop for Registration {
    fn drop(&mut self) {
        state().actions.remove(&self.0);
    }
}

/// Begins to listen for signals.
///
/// # Errors
///
/// If the operating system refuses.
pub(crate) fn install() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let mut state = state();
            if state.asked || state.actions.is_empty() {
                std::process::exit(128 + signal);
            }
            state.asked = true;
            eprintln!("ending; once more to end at once");
            for action in state.actions.values() {
                action();
            }
        }
    })?;
    Ok(())
}

/// Has `action` done at the first signal. It must not block.
pub(crate) fn on(action: impl Fn() + Send + 'static) -> Registration {
    let mut state = state();
    let number = state.next;
    state.next += 1;
    if state.asked {
        action();
    }
    state.actions.insert(number, Box::new(action));
    Registration(number)
}

fn state() -> MutexGuard<'static, State> {
    // A panicking action leaves the state as usable as it was.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
