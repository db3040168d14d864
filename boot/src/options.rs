//! The kernel command line, applied.

use crate::tunables::{set_switches, tunables};
use ebb::cmdline::{self, BASE, Item, Settings};
use ebb::tunable;

/// Reads the options that every image has, and reports what is wrong with any word.
///
/// The log level takes effect first, so that a word's report is shown or not by the level of its own line.
pub(crate) fn apply(line: &str) -> Settings {
    let tables = [BASE, tunable::OPTIONS, tunable::SWITCHES, crate::ebb_options()];
    let mut settings = Settings::default();
    let mut switches = policy::boot::Options::default();
    cmdline::parse(line, &tables, |item| {
        let _ =
            settings.apply(&item) || tunables().apply(&item) || tunable::apply_switch(&mut switches, &item);
    });
    set_switches(switches);
    log::set_max_level(settings.log);
    cmdline::parse(line, &tables, |item| {
        if let Item::Diagnostic(diagnostic) = item {
            if let Some(refusal) = tunable::explain(&diagnostic) {
                log::error!("command line: {refusal}");
            } else if diagnostic.is_error() {
                log::error!("command line: {diagnostic}");
            } else {
                log::warn!("command line: {diagnostic}");
            }
        }
    });
    settings
}
