//! The built-in applications: chosen by the command line, run in a thread, all their data in paged memory.

use crate::sampler::PROGRESS;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use ebb::cmdline::{self, BASE, Item, Kind, Opt, Value};
use ebb::task::JoinHandle;
use ebb_boot::{Kernel, Machine, report, threads};
use workload::options::{Accepted, OPTIONS as WORKLOAD};
use workload::{Environment, Options, Workload};

/// The name of the option that is the sampler's.
const SAMPLE_MS: &str = "sample_ms";

/// The options of this image: those of the workloads, and how often a sample is told.
pub(crate) static OPTIONS: &[Opt] = &{
    let sample = Kind::Integer { min: 10, max: 3_600_000 };
    let sample =
        Opt { name: SAMPLE_MS, kind: sample, help: "milliseconds between two samples on the console" };
    let mut options = [sample; WORKLOAD.len() + 1];
    let mut index = 0;
    while index < WORKLOAD.len() {
        let kind = match WORKLOAD[index].accepted {
            Accepted::Choice(words) => Kind::Choice(words),
            Accepted::Integer { min, max } => Kind::Integer { min, max },
        };
        options[index] = Opt { name: WORKLOAD[index].name, kind, help: WORKLOAD[index].help };
        index += 1;
    }
    options
};

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) workload: Options,
    pub(crate) sample_ms: u64,
}

impl Wish {
    /// Reads it. What is wrong with a word was reported when the machine came up.
    pub(crate) fn read(line: &str) -> Self {
        let mut wish = Self { workload: Options::default(), sample_ms: crate::sampler::PERIOD_MS };
        cmdline::parse(line, &[BASE, OPTIONS], |item| match item {
            Item::Option(opt, Value::Integer(number)) if opt.name == SAMPLE_MS => wish.sample_ms = number,
            Item::Option(opt, Value::Integer(number)) => wish.set(opt.name, &number.to_string()),
            Item::Option(opt, Value::Choice(word)) => wish.set(opt.name, word),
            _ => {}
        });
        wish
    }

    fn set(&mut self, name: &str, value: &str) {
        if let Err(error) = self.workload.set(name, value) {
            log::error!("command line: {error}");
        }
    }
}

/// An application that runs.
pub(crate) struct Application {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<workload::Outcome, Kernel>,
}

impl Application {
    /// Begins the application that is wished for. `ended` is called in its thread when it has ended.
    ///
    /// # Errors
    ///
    /// Why there is none, where one was wished for.
    pub(crate) fn start(
        machine: &'static Machine,
        wish: &Wish,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Option<Self>, String> {
        let trace = machine.module(0);
        let application = Workload::from_options(&wish.workload, trace, machine.paged_alloc());
        let Some(mut application) = application.map_err(|error| error.to_string())? else { return Ok(None) };
        let stop = Arc::new(AtomicBool::new(false));
        let mut surroundings = Surroundings { machine, stop: Arc::clone(&stop) };
        let run = move || {
            let outcome = application.run(&mut surroundings, &PROGRESS);
            ended();
            outcome
        };
        let thread = threads().spawn("application", run).map_err(|error| error.to_string())?;
        Ok(Some(Self { stop, thread }))
    }

    /// Has it end soon, if it has not, waits for that, and tells what it did. True if all that it stored came back.
    pub(crate) fn finish(self) -> bool {
        self.stop.store(true, Ordering::Release);
        let outcome = self.thread.join();
        let fields: [(&str, &dyn core::fmt::Display); 5] = [
            ("work", &outcome.work),
            ("errors", &outcome.errors),
            ("refused", &outcome.refused),
            ("outcome", &outcome.word()),
            ("elapsed_ms", &(outcome.elapsed_ns / 1_000_000)),
        ];
        report("done", &fields);
        if let Some(first) = &outcome.first_error {
            log::error!("the first error: {first:?}");
        }
        let well = outcome.errors == 0 && outcome.word() != "out-of-memory";
        let level = if well { log::Level::Info } else { log::Level::Error };
        log::log!(
            level,
            "the application: {}, {} operations, {} errors, {} times refused memory",
            outcome.word(),
            outcome.work,
            outcome.errors,
            outcome.refused
        );
        well
    }
}

/// What an application sees of the machine.
struct Surroundings {
    machine: &'static Machine,
    stop: Arc<AtomicBool>,
}

impl Environment for Surroundings {
    fn now_ns(&mut self) -> u64 {
        self.machine.cpus().now_ns()
    }

    fn sleep_until_ns(&mut self, deadline_ns: u64) {
        threads().sleep_until(deadline_ns);
    }

    fn should_stop(&mut self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn batch_done(&mut self, _: u64) {
        threads().yield_now();
    }

    fn phase_begins(&mut self, phase: workload::Phase) {
        log::info!("phase: {}", phase.word());
    }
}
