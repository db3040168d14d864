//! The language of `xl`: what it is told about a guest, and what its words mean.

use super::agent::Output;
use anyhow::{Result, bail, ensure};

/// A guest to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestConfig {
    /// The domain's name: letters, digits and dashes.
    pub(crate) name: String,
    /// The image's path in dom0.
    pub(crate) kernel: String,
    /// An initial RAM disk's path in dom0.
    pub(crate) ramdisk: Option<String>,
    /// The kernel's command line.
    pub(crate) cmdline: String,
    /// Memory at the start.
    pub(crate) memory_mib: u32,
    /// Memory that it may grow to; populate-on-demand if it is more than `memory_mib`.
    pub(crate) maxmem_mib: u32,
    /// Virtual processors.
    pub(crate) vcpus: u32,
    /// Further lines of the configuration, as they are.
    pub(crate) extra: Vec<String>,
}

impl GuestConfig {
    /// The configuration in `xl`'s language.
    ///
    /// # Errors
    ///
    /// If a value cannot be written in it.
    pub(crate) fn text(&self) -> Result<String> {
        let named = !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(named, "a guest's name has letters, digits and dashes: {:?}", self.name);
        ensure!(self.memory_mib > 0 && self.vcpus > 0, "a guest has memory and a processor");
        ensure!(
            self.memory_mib <= self.maxmem_mib,
            "memory ({} MiB) is more than maxmem ({} MiB)",
            self.memory_mib,
            self.maxmem_mib
        );
        let mut lines = vec![
            format!("name={}", quoted(&self.name)?),
            "type=\"pvh\"".into(),
            format!("kernel={}", quoted(&self.kernel)?),
            format!("cmdline={}", quoted(&self.cmdline)?),
            format!("memory={}", self.memory_mib),
            format!("maxmem={}", self.maxmem_mib),
            format!("vcpus={}", self.vcpus),
        ];
        if let Some(ramdisk) = &self.ramdisk {
            lines.push(format!("ramdisk={}", quoted(ramdisk)?));
        }
        for event in ["poweroff", "reboot", "watchdog", "crash", "soft_reset"] {
            lines.push(format!("on_{event}=\"preserve\""));
        }
        lines.extend(self.extra.iter().cloned());
        lines.push(String::new());
        Ok(lines.join("\n"))
    }
}

/// A string in `xl`'s language, which has two kinds of quotes and no escapes.
pub(crate) fn quoted(text: &str) -> Result<String> {
    ensure!(!text.contains(['\n', '\r', '\0']), "an xl string is one line: {text:?}");
    match (text.contains('"'), text.contains('\'')) {
        (false, _) => Ok(format!("\"{text}\"")),
        (true, false) => Ok(format!("'{text}'")),
        (true, true) => bail!("an xl string cannot have both kinds of quotes: {text}"),
    }
}

/// A word in the shell's language.
pub(super) fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Why a domain is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    /// It powered off.
    Poweroff,
    /// It asked for a reboot, or its processor gave up on it (a triple fault).
    Reboot,
    /// It asked to be suspended.
    Suspend,
    /// It said that it crashed.
    Crash,
    /// Its watchdog ran out.
    Watchdog,
    /// It asked for a soft reset.
    SoftReset,
    /// It was destroyed from outside.
    Destroyed,
    /// A reason that Xen does not name.
    Unknown,
}

impl Ending {
    /// From Xen's `SHUTDOWN_*` codes (Xen: xen/include/public/sched.h).
    const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            _ => Self::Unknown,
        }
    }
}

/// The domain that `xl create -F` says it waits for.
pub(super) fn created(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("Waiting for domain ")?;
    rest.split_once("(domid ")?.1.split_once(')')?.0.parse().ok()
}

/// Whether the last line of `create` in dom0 says that `xl` died instead of failing.
pub(super) fn died_at_work(words: &str) -> bool {
    let status =
        words.lines().rev().find_map(|line| line.strip_prefix("xl ended with status ")?.parse().ok());
    status.is_some_and(|status| Output { status, text: words.to_owned() }.died().is_some())
}

/// How `xl create -F` says that the domain ended.
pub(super) fn ending(line: &str) -> Option<Ending> {
    if let Some((_, rest)) = line.split_once("has shut down, reason code ") {
        return Some(rest.split(' ').next()?.parse().map_or(Ending::Unknown, Ending::from_code));
    }
    line.contains("has been destroyed").then_some(Ending::Destroyed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GuestConfig {
        GuestConfig {
            name: "ebb-1".into(),
            kernel: "/guests/ebb".into(),
            ramdisk: None,
            cmdline: "tmem loglevel=debug".into(),
            memory_mib: 64,
            maxmem_mib: 128,
            vcpus: 2,
            extra: vec!["nomigrate=1".into()],
        }
    }

    #[test]
    fn a_configuration_has_what_xl_needs() {
        let text = config().text().unwrap();
        for line in [
            "name=\"ebb-1\"",
            "type=\"pvh\"",
            "memory=64",
            "maxmem=128",
            "on_crash=\"preserve\"",
            "nomigrate=1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let cmdline = GuestConfig { cmdline: "say=\"two words\"".into(), ..config() };
        assert!(cmdline.text().unwrap().contains("cmdline='say=\"two words\"'\n"));
    }

    #[test]
    fn senseless_configurations_are_errors() {
        for bad in [
            GuestConfig { name: "a b".into(), ..config() },
            GuestConfig { name: String::new(), ..config() },
            GuestConfig { memory_mib: 129, ..config() },
            GuestConfig { memory_mib: 0, ..config() },
            GuestConfig { vcpus: 0, ..config() },
            GuestConfig { cmdline: "two\nlines".into(), ..config() },
            GuestConfig { cmdline: "it's \"both\"".into(), ..config() },
        ] {
            assert!(bad.text().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn xl_words_are_understood() {
        assert_eq!(created("Waiting for domain t1 (domid 12) to die [pid 115]"), Some(12));
        assert_eq!(created("Parsing config from /guests/t1.cfg"), None);
        assert_eq!(ending("Domain 1 has shut down, reason code 3 0x3"), Some(Ending::Crash));
        assert_eq!(ending("Domain 1 has shut down, reason code 77 0x4d"), Some(Ending::Unknown));
        assert_eq!(ending("Domain 1 has been destroyed."), Some(Ending::Destroyed));
        assert_eq!(ending("Action for shutdown reason code 3 is preserve"), None);
    }

    #[test]
    fn an_xl_that_died_is_told_from_one_that_failed() {
        assert!(died_at_work("Parsing config\nxl ended with status 139\n"));
        assert!(died_at_work("Inconsistency detected by ld.so: x\nxl ended with status 127\n"));
        for failed in
            ["xl ended with status 1\n", "libxl: error\nxl ended with status 3", "no more memory", ""]
        {
            assert!(!died_at_work(failed), "{failed}");
        }
    }

    #[test]
    fn shell_words_keep_every_character() {
        assert_eq!(shell_word("a 'b' $c"), r"'a '\''b'\'' $c'");
    }
}
