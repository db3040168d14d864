//! The rungs that need no guest: every test of some packages, each in a process of its own.
//!
//! Cargo builds the test programs and names them; each case is then run alone, judged by its exit status and
//! bounded in time, so that one that hangs or aborts costs only itself.

use super::outcome::{Case, Outcome, Results, Rung};
use crate::paths;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How many run at once.
const WORKERS: usize = 2;

/// Which tests a rung has, how they are built, and how long each may take.
pub(crate) struct Suite<'s> {
    /// The packages whose tests they are.
    pub(crate) packages: &'s [&'s str],
    /// Further arguments of `cargo test`.
    pub(crate) arguments: &'s [&'s str],
    /// A `--cfg` for the whole build, which then goes to a target directory of this name beside the others: the
    /// two builds would throw each other away.
    pub(crate) cfg: Option<&'s str>,
    /// How long one case may take.
    pub(crate) bound: Duration,
    /// Whether the examples in the documentation are run too.
    pub(crate) doctests: bool,
    /// A line with this in it is shown, from there on, though its case passes: it says what was explored.
    pub(crate) shown: Option<&'s str>,
}

impl Suite<'_> {
    /// `cargo test` for these packages.
    fn cargo(&self) -> Command {
        let mut command = cargo();
        command.arg("test").args(self.arguments);
        if let Some(cfg) = self.cfg {
            let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
            command.env("RUSTFLAGS", format!("{flags} --cfg {cfg}").trim_start());
            // Would take the place of the above.
            command.env_remove("CARGO_ENCODED_RUSTFLAGS");
            command.arg("--target-dir").arg(paths::target().join(cfg));
        }
        command
    }

    /// The lines of a case's output that are to be seen.
    fn to_show(&self, text: &str) -> Vec<String> {
        let Some(mark) = self.shown else { return Vec::new() };
        text.lines().filter_map(|line| Some(line[line.find(mark)?..].to_owned())).collect()
    }
}

/// Runs the tests of a suite that contain `filter`.
///
/// # Errors
///
/// If the tests cannot be built or listed; a failing case is a result, not an error.
pub(crate) fn run(rung: Rung, suite: &Suite<'_>, filter: Option<&str>, results: &mut Results) -> Result<()> {
    let begun = Instant::now();
    let mut jobs = Vec::new();
    for program in build(suite)? {
        for name in list(&program)? {
            let id = format!("{}::{name}", program.title);
            if filter.is_none_or(|filter| id.contains(filter)) {
                jobs.push(Job {
                    id,
                    program: program.path.clone(),
                    name,
                    directory: program.directory.clone(),
                });
            }
        }
    }
    let total = jobs.len();
    let queue = Mutex::new(jobs.into_iter());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (queue, sender) = (&queue, sender.clone());
            scope.spawn(move || {
                loop {
                    // A poisoned lock would mean that another worker panicked while taking a job.
                    let Some(job) = queue.lock().ok().and_then(|mut queue| queue.next()) else { return };
                    let begun = Instant::now();
                    let (outcome, shown) = run_one(&job, suite);
                    let case = Case { id: job.id, rung, outcome, took: begun.elapsed() };
                    if sender.send((case, shown)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut ended = 0;
        for (case, shown) in receiver {
            ended += 1;
            shown.iter().for_each(|line| println!("{line}"));
            results.add(case);
        }
        if ended != total {
            bail!("{total} cases were started and {ended} ended");
        }
        Ok(())
    })?;
    if suite.doctests {
        doctests(rung, suite, filter, results)?;
    }
    results.finish(rung, begun.elapsed());
    Ok(())
}

struct Job {
    id: String,
    program: PathBuf,
    name: String,
    directory: PathBuf,
}

/// A test program that cargo built.
struct Program {
    title: String,
    path: PathBuf,
    directory: PathBuf,
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn build(suite: &Suite<'_>) -> Result<Vec<Program>> {
    let mut command = suite.cargo();
    command.args(["--no-run", "--message-format=json-render-diagnostics"]);
    for package in suite.packages {
        command.args(["--package", package]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests of {} do not build", suite.packages.join(", "));
    }
    let mut programs = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: serde_json::Value = serde_json::from_slice(line).context("cargo's JSON")?;
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            continue;
        }
        let Some(path) = message["executable"].as_str() else { continue };
        let target = message["target"]["name"].as_str().unwrap_or("?");
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or("Cargo.toml"));
        let directory = manifest.parent().map(PathBuf::from).unwrap_or_default();
        programs.push(Program { title: target.to_owned(), path: path.into(), directory });
    }
    Ok(programs)
}

fn list(program: &Program) -> Result<Vec<String>> {
    let output = Command::new(&program.path)
        .args(["--list", "--format", "terse"])
        .current_dir(&program.directory)
        .output()
        .with_context(|| format!("cannot list the tests of {}", program.title))?;
    if !output.status.success() {
        bail!("{} cannot list its tests: {}", program.title, String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

fn run_one(job: &Job, suite: &Suite<'_>) -> (Outcome, Vec<String>) {
    let mut command = Command::new(&job.program);
    command.args([&job.name, "--exact", "--include-ignored", "--nocapture"]).current_dir(&job.directory);
    match bounded(&mut command, suite.bound) {
        Ok(Ended { success: true, text, .. }) => (Outcome::Passed, suite.to_show(&text)),
        Ok(Ended { text, status, .. }) => {
            (Outcome::Failed(format!("{status}\n{}", tail(&text, 30))), Vec::new())
        }
        Err(error) => (Outcome::Failed(format!("{error:#}")), Vec::new()),
    }
}

fn doctests(rung: Rung, suite: &Suite<'_>, filter: Option<&str>, results: &mut Results) -> Result<()> {
    for package in suite.packages {
        let id = format!("{package}::doc");
        if filter.is_some_and(|filter| !id.contains(filter)) || !has_library(package)? {
            continue;
        }
        let begun = Instant::now();
        let mut command = suite.cargo();
        command.args(["--quiet", "--doc", "--package", package]);
        let outcome = match bounded(&mut command, suite.bound) {
            Ok(Ended { success: true, .. }) => Outcome::Passed,
            Ok(Ended { text, .. }) => Outcome::Failed(tail(&text, 30)),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        results.add(Case { id, rung, outcome, took: begun.elapsed() });
    }
    Ok(())
}

fn has_library(package: &str) -> Result<bool> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .output()
        .context("cannot start cargo")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo's metadata has no packages")?;
    Ok(packages.iter().filter(|found| found["name"] == package).any(|found| {
        found["targets"].as_array().is_some_and(|targets| {
            targets.iter().any(|target| target["doctest"] == true && target["kind"][0] == "lib")
        })
    }))
}

/// A process that ended by itself.
struct Ended {
    success: bool,
    status: String,
    text: String,
}

/// Runs a command to its end, or kills it at the bound.
fn bounded(command: &mut Command, bound: Duration) -> Result<Ended> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let (sender, receiver) = mpsc::channel();
    let mut pipes: Vec<Box<dyn Read + Send>> = Vec::new();
    pipes.extend(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    pipes.extend(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    for mut pipe in pipes {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A read error ends the text early, which is all that it means here.
            let _ = pipe.read_to_end(&mut bytes);
            let _ = sender.send(bytes);
        });
    }
    drop(sender);
    // Both pipes closing is the event that the process (and whatever it started) has ended.
    let deadline = Instant::now() + bound;
    let mut text = Vec::new();
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => text.extend(bytes),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill().context("cannot kill a test")?;
                child.wait().context("cannot wait for a test")?;
                bail!("no end within {} s: killed", bound.as_secs());
            }
        }
    }
    let status = child.wait().context("cannot wait for a test")?;
    Ok(Ended {
        success: status.success(),
        status: status.to_string(),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// The last `lines` lines.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_hangs_is_killed_at_its_bound() {
        let begun = Instant::now();
        let error = bounded(Command::new("sleep").arg("60"), Duration::from_millis(50)).err().unwrap();
        assert!(error.to_string().contains("killed"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn an_exit_status_decides() {
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo all fine; exit 3"]);
        let ended = bounded(&mut failing, Duration::from_secs(20)).unwrap();
        assert!(!ended.success);
        assert_eq!(ended.text, "all fine\n");
    }

    #[test]
    fn what_was_explored_is_shown_wherever_it_begins() {
        let suite = Suite {
            packages: &[],
            arguments: &[],
            cfg: None,
            bound: Duration::ZERO,
            doctests: false,
            shown: Some("loom: "),
        };
        let text = "running 1 test\ntest a ... loom: a: 12 executions\nok\nloom: b\n";
        assert_eq!(suite.to_show(text), ["loom: a: 12 executions", "loom: b"]);
        assert!(Suite { shown: None, ..suite }.to_show(text).is_empty());
    }

    #[test]
    fn a_tail_keeps_the_end() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
