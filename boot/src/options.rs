//! The kernel command line, applied.

use ebb::cmdline::{self, BASE, Item, Settings};

/// Reads the options that every image has, and reports what is wrong with any word.
///
/// The log level takes effect first, so that a word's report is shown or not by the level of its own line.
pub(crate) fn apply(line: &str) -> Settings {
    let tables = [BASE, crate::ebb_options()];
    let mut settings = Settings::default();
    cmdline::parse(line, &tables, |item| {
        settings.apply(&item);
    });
    log::set_max_level(settings.log);
    cmdline::parse(line, &tables, |item| {
        if let Item::Diagnostic(diagnostic) = item {
            if diagnostic.is_error() {
                log::error!("command line: {diagnostic}");
            } else {
                log::warn!("command line: {diagnostic}");
            }
        }
    });
    settings
}
