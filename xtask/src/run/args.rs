//! The options of `run`, and what they come to.

use crate::setup::Hypervisor;
use crate::xen::{DOM0_MIB, XEN_MIB};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// How long a guest without a workload runs.
const IDLE_SECONDS: u64 = 2;
/// How long a workload takes: the key-value store's load rises, falls, and rises and falls again.
const WORK_SECONDS: u64 = 75;
/// Memory of a guest.
const MEMORY_MIB: u32 = 256;
/// Memory of one of several guests at its start.
const START_MIB: u32 = 64;
/// What Xen takes for itself at least; measured are 12 MiB with 4.17, before the first guest.
const XEN_LEAST_MIB: u32 = 16;
/// The host is looked at so many times as often as a guest speaks, so that what moves between two of its samples
/// is seen.
const LOOKS_PER_SAMPLE: u64 = 2;

/// What a guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Platform {
    /// Real Xen, in QEMU, as a PVH domU.
    Xen,
    /// QEMU alone: no hypervisor, no balloon.
    Qemu,
}

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Nothing: it waits for the wish to stop.
    None,
    /// A key-value store whose load rises and falls, and which checks every value that it reads.
    Kv,
    /// It takes memory and touches it.
    Hog,
    /// What `--module` says.
    Trace,
}

impl Workload {
    const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kv => "kv",
            Self::Hog => "hog",
            Self::Trace => "trace",
        }
    }
}

/// The options.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to run on.
    #[arg(long, value_enum, default_value = "xen")]
    on: Platform,
    /// What the guest does.
    #[arg(long, value_enum, default_value = "kv")]
    workload: Workload,
    /// How many guests, each at another phase of its load.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    guests: u32,
    /// Memory of the whole machine, Xen and dom0 included [default: enough for one guest; for several, five eighths
    /// of what they may have altogether].
    #[arg(long, value_name = "MiB")]
    host_memory: Option<u32>,
    /// Give each guest all of its memory at the start and for ever, without selfballooning.
    #[arg(long = "static")]
    fixed: bool,
    /// A guest's memory at the start [default: 256; for several guests 64].
    #[arg(long, value_name = "MiB", value_parser = clap::value_parser!(u32).range(1..))]
    memory: Option<u32>,
    /// The memory that a guest may grow to [default: the same; for several guests 256].
    #[arg(long, value_name = "MiB", value_parser = clap::value_parser!(u32).range(1..))]
    maxmem: Option<u32>,
    /// The guest's processors.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    vcpus: u32,
    /// More of the kernel's command line; it comes last, and so counts.
    #[arg(long, value_name = "STR", default_value = "")]
    cmdline: String,
    /// How long the workload goes on after the guest is ready; without one, when the guest is asked to shut down. A
    /// guest that has not ended by itself is asked a little later. On bare QEMU nothing can ask it, and a guest that
    /// has not ended by then has failed [default: 75; without a workload 2].
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Begin the first load only so much later than the first guest was asked for, so that all guests are there by then.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    lead: u64,
    /// How often the guest says how it is. The host is looked at twice as often.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    sample_ms: u64,
    /// A file that the guest gets as its boot module.
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    #[command(flatten)]
    pub(super) hypervisor: Hypervisor,
    /// Run this image instead of building one.
    #[arg(long, value_name = "FILE")]
    pub(super) image: Option<PathBuf>,
    /// Write the summary here too.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Where logs, samples, chart and summary go; what an earlier run left there is overwritten [default: out/run
    /// in the workspace].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) on: Platform,
    pub(super) workload: Workload,
    pub(super) fixed: bool,
    /// Memory of the whole machine.
    pub(super) host_memory_mib: u32,
    pub(super) memory_mib: u32,
    pub(super) maxmem_mib: u32,
    pub(super) vcpus: u32,
    pub(super) sample_ms: u64,
    pub(super) module: Option<PathBuf>,
    pub(super) guests: Vec<GuestPlan>,
}

/// What makes a guest different from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestPlan {
    pub(super) name: String,
    words: String,
    /// How much later than the first guest it begins its load.
    shift: Option<Duration>,
    last_words: String,
    /// When it is asked to stop, from when it is ready.
    pub(super) patience: Duration,
}

impl GuestPlan {
    /// A guest that has no words.
    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            words: String::new(),
            shift: None,
            last_words: String::new(),
            patience: Duration::ZERO,
        }
    }

    /// Its command line, if it is created so long after the first guest was: the shift is shorter by that. What the user
    /// wrote comes last.
    pub(super) fn cmdline(&self, late: Duration) -> String {
        let shift = self.shift.map(|shift| shift.saturating_sub(late).as_secs());
        let shift = shift.map(|shift| format!(" workload.shift_s={shift}")).unwrap_or_default();
        format!("{}{shift} {}", self.words, self.last_words).trim_end().to_owned()
    }
}

impl Plan {
    /// How often the host is looked at.
    pub(super) fn host_period(&self) -> Duration {
        Duration::from_millis(self.sample_ms / LOOKS_PER_SAMPLE)
    }
}

impl Args {
    /// What the options come to.
    ///
    /// # Errors
    ///
    /// If they contradict one another.
    pub(super) fn plan(&self) -> Result<Plan> {
        let several = self.guests > 1;
        ensure!(!several || self.on == Platform::Xen, "several guests need Xen: --on qemu has one");
        let maxmem_mib = match (self.maxmem, self.memory) {
            (Some(maxmem), _) => maxmem,
            (None, Some(memory)) if !several => memory,
            (None, _) => MEMORY_MIB,
        };
        let memory_mib = match self.memory {
            _ if self.fixed => maxmem_mib,
            Some(memory) => memory,
            None if several => START_MIB.min(maxmem_mib),
            None => MEMORY_MIB.min(maxmem_mib),
        };
        ensure!(memory_mib <= maxmem_mib, "--memory {memory_mib} is more than --maxmem {maxmem_mib}");
        ensure!(
            (self.workload == Workload::Trace) <= self.module.is_some(),
            "--workload trace needs --module with the trace"
        );
        let works = self.workload != Workload::None;
        let seconds = self.seconds.unwrap_or(if works { WORK_SECONDS } else { IDLE_SECONDS });
        // A guest that works ends by itself, if its clock, the moves of data that take their time on a busy machine, and
        // the checks at the end take no longer than this.
        let late = if works { 60 + seconds / 5 } else { 0 };
        let planned = |number: u32| {
            // One course of the load, divided among the guests.
            let shift = self.lead + u64::from(number) * seconds / u64::from(self.guests);
            GuestPlan {
                name: if several { format!("ebb-{}", number + 1) } else { "ebb".to_owned() },
                words: self.words(number, seconds, maxmem_mib),
                shift: (several || self.lead > 0).then(|| Duration::from_secs(shift)),
                last_words: self.cmdline.clone(),
                patience: Duration::from_secs(seconds.saturating_add(shift).saturating_add(late)),
            }
        };
        let guests = (0..self.guests).map(planned).collect();
        let all_mib = maxmem_mib.saturating_mul(self.guests);
        let least_mib = DOM0_MIB + XEN_LEAST_MIB;
        let host_memory_mib = self.host_memory.unwrap_or(if several {
            least_mib.saturating_add(all_mib / 8 * 5)
        } else {
            (DOM0_MIB + XEN_MIB).saturating_add(all_mib).saturating_add(all_mib / 32)
        });
        ensure!(
            host_memory_mib > least_mib,
            "--host-memory {host_memory_mib} leaves nothing: Xen and dom0 take {least_mib}"
        );
        Ok(Plan {
            on: self.on,
            workload: self.workload,
            fixed: self.fixed,
            host_memory_mib,
            memory_mib,
            maxmem_mib,
            vcpus: self.vcpus,
            sample_ms: self.sample_ms,
            module: self.module.clone(),
            guests,
        })
    }

    /// The command line of a guest, but for the shift and what the user wrote.
    fn words(&self, number: u32, seconds: u64, maxmem_mib: u32) -> String {
        let mut words = vec![format!("sample_ms={}", self.sample_ms)];
        if self.workload != Workload::None {
            words.push(format!("workload={}", self.workload.word()));
            // What the load holds at its height. The allocator, the reserve and the kernel come on top.
            words.push(format!("workload.size_mib={}", (maxmem_mib / 2).max(1)));
            words.push(format!("workload.seconds={seconds}"));
            words.push(format!("workload.seed={}", number + 1));
        }
        words.push(
            if self.fixed {
                "tmem.selfballooning=0"
            } else {
                // The original looks every 5 s; a load that rises within seconds wants to be seen sooner.
                "tmem.selfballooning=1 selfballoon.selfballoon_interval=1"
            }
            .to_owned(),
        );
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(words: &str) -> Result<Plan> {
        Line::try_parse_from(["run"].into_iter().chain(words.split_whitespace()))?.args.plan()
    }

    #[test]
    fn without_options_it_is_the_main_job() {
        let plan = plan("").unwrap();
        assert_eq!((plan.memory_mib, plan.maxmem_mib, plan.guests.len()), (256, 256, 1));
        assert_eq!((plan.guests[0].name.as_str(), plan.guests[0].patience.as_secs()), ("ebb", 150));
        assert_eq!(
            plan.guests[0].cmdline(Duration::ZERO),
            "sample_ms=500 workload=kv workload.size_mib=128 workload.seconds=75 workload.seed=1 \
             tmem.selfballooning=1 selfballoon.selfballoon_interval=1"
        );
        assert!(plan.host_memory_mib > DOM0_MIB + XEN_MIB + 256);
        assert_eq!(plan.host_period(), Duration::from_millis(250));
    }

    #[test]
    fn a_lead_comes_before_every_load() {
        let plan = plan("--guests 2 --seconds 10 --lead 30").unwrap();
        for (guest, shift) in plan.guests.iter().zip([30, 35]) {
            let cmdline = guest.cmdline(Duration::ZERO);
            assert!(cmdline.ends_with(&format!(" workload.shift_s={shift}")), "{cmdline}");
            assert_eq!(guest.patience.as_secs(), shift + 10 + 62);
        }
    }

    #[test]
    fn a_guest_without_work_is_asked_to_stop_soon() {
        let plan = plan("--workload none --memory 32 --cmdline loglevel=trace").unwrap();
        assert_eq!((plan.memory_mib, plan.maxmem_mib, plan.guests[0].patience.as_secs()), (32, 32, 2));
        let cmdline = plan.guests[0].cmdline(Duration::from_secs(9));
        assert!(cmdline.ends_with(" loglevel=trace") && !cmdline.contains("workload"), "{cmdline}");
    }

    #[test]
    fn several_guests_are_shifted_on_a_host_too_small_for_all() {
        let shifted = plan("--guests 4 --seconds 80").unwrap();
        assert_eq!((shifted.memory_mib, shifted.maxmem_mib), (64, 256));
        assert!(shifted.host_memory_mib < DOM0_MIB + 4 * 256, "less than all may have");
        for (number, guest) in shifted.guests.iter().enumerate() {
            assert_eq!(guest.name, format!("ebb-{}", number + 1));
            let shifted = |late, shift| {
                let cmdline = guest.cmdline(Duration::from_secs(late));
                assert!(cmdline.ends_with(&format!(" workload.shift_s={shift}")), "{cmdline}");
            };
            shifted(0, number * 20);
            shifted(25, (number * 20).saturating_sub(25));
            assert_eq!(guest.patience.as_secs(), 80 + number as u64 * 20 + 76);
        }
        let fixed = plan("--guests 4 --static --host-memory 1024").unwrap();
        assert_eq!((fixed.memory_mib, fixed.maxmem_mib, fixed.host_memory_mib), (256, 256, 1024));
        assert!(
            fixed.guests.iter().all(|guest| guest.cmdline(Duration::ZERO).contains("tmem.selfballooning=0 "))
        );
    }

    #[test]
    fn contradictions_are_errors() {
        for bad in [
            "--memory 512 --maxmem 256",
            "--guests 2 --on qemu",
            "--guests 0",
            "--guests 17",
            "--workload trace",
            "--host-memory 400",
            "--sample-ms 0",
            "--memory 0",
        ] {
            assert!(plan(bad).is_err(), "{bad}");
        }
    }
}
