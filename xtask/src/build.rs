//! `cargo xtask build`: the image, with its symbol table, checked as a loader would.
//!
//! Cargo links an ELF with everything a debugger wants. From it comes a second file, beside it and named
//! `*.elf`, with only what a loader wants: the segments, the PVH note, and a segment with the names of all
//! functions, so that the guest can print a symbolised backtrace by itself.

mod elf;
mod symbols;

use crate::{paths, setup};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// An image of this workspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Image {
    /// Ebb with its built-in workloads.
    Ebb,
    /// The application of docs/applications.md.
    Example,
    /// The test cases that run in a guest.
    GuestTests,
}

impl Image {
    /// The package and its binary.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Ebb => ("ebb-boot", "ebb"),
            Self::Example => ("ebb-example", "ebb-example"),
            Self::GuestTests => ("ebb-guest-tests", "ebb-guest-tests"),
        }
    }
}

/// An image that was built.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Built {
    /// What to boot.
    pub(crate) image: PathBuf,
    /// The same with debug information, for a debugger. It boots too, without names in its backtraces.
    pub(crate) debug: PathBuf,
    /// How large it is.
    pub(crate) sizes: Sizes,
}

impl Built {
    /// The function that `address` lies in, and how far into it; `None` outside of the code.
    pub(crate) fn function_at(&self, address: u64) -> Option<String> {
        symbols::function_at(&std::fs::read(&self.debug).ok()?, address)
    }
}

/// Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(crate) struct Sizes {
    /// Code.
    pub(crate) text: u64,
    /// Constants.
    pub(crate) rodata: u64,
    /// Variables with a value.
    pub(crate) data: u64,
    /// Variables that begin as zero, stacks among them.
    pub(crate) bss: u64,
    /// Names of functions.
    pub(crate) symbols: u64,
    /// The file.
    pub(crate) file: u64,
    /// The memory that the loaded image takes, in whole frames.
    pub(crate) memory: u64,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("text", self.text),
            ("rodata", self.rodata),
            ("data", self.data),
            ("bss", self.bss),
            ("symbols", self.symbols),
            ("file", self.file),
            ("memory", self.memory),
        ];
        for (number, (name, bytes)) in rows.iter().enumerate() {
            let end = if number + 1 < rows.len() { "\n" } else { "" };
            write!(f, "{name:>8} {:>8.1} KiB{end}", *bytes as f64 / 1024.0)?;
        }
        Ok(())
    }
}

/// Builds an image and prints its sizes.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Which image.
    #[arg(value_enum, default_value = "ebb")]
    image: Image,
    /// Write paths and sizes to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Args {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let built = build(self.image)?;
        println!("{}\n{}", built.image.display(), built.sizes);
        if let Some(path) = self.json {
            let text = serde_json::to_string_pretty(&built)?;
            std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Builds `image`, adds its symbols, and checks that a loader will take it.
///
/// # Errors
///
/// If Cargo fails, or the check finds something; the message says what.
pub(crate) fn build(image: Image) -> Result<Built> {
    setup::ensure_target()?;
    finished(run_cargo(image)?)
}

/// Adds symbols to the file that Cargo has linked as `debug`, and checks that a loader will take what comes of it.
///
/// # Errors
///
/// If it is no image; the message says why.
pub(crate) fn finished(debug: PathBuf) -> Result<Built> {
    let linked = std::fs::read(&debug).with_context(|| format!("cannot read {}", debug.display()))?;
    let (bytes, sizes) = finish(&linked).with_context(|| format!("{} is no image", debug.display()))?;
    let path = debug.with_extension("elf");
    std::fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Built { image: path, debug, sizes })
}

/// Builds the program that tells dom0's view of memory, as one file that needs no library of dom0's.
///
/// # Errors
///
/// If Cargo fails.
pub(crate) fn host_memory() -> Result<PathBuf> {
    for_linux("ebb-dom0", "ebb-host-memory", "release", &[])
}

/// Builds the program that touches pages in a Linux guest, as one file that needs no library. It is compared with code of
/// the image, so the compiler is told the same, and to leave vectors alone, which the image has none of: under emulation
/// they cost several times what they replace.
///
/// # Errors
///
/// If Cargo fails.
pub(crate) fn swap_peer() -> Result<PathBuf> {
    for_linux("ebb-domu", "ebb-swap-peer", "image", &["no-vectorize-loops", "no-vectorize-slp"])
}

/// Builds a static program for a Linux in the machine, with more `options` of the compiler.
fn for_linux(package: &str, binary: &str, profile: &str, options: &[&str]) -> Result<PathBuf> {
    // A target is named so that what is built for there has a directory of its own, apart from what runs here.
    let target = setup::DOM0_TARGET;
    let arguments = ["--package", package, "--bin", binary, "--profile", profile, "--target", target];
    let options = ["target-feature=+crt-static", "strip=symbols"].iter().chain(options);
    let flags: Vec<&str> = options.flat_map(|option| ["-C", option]).collect();
    let flags = format!("target.{target}.rustflags={}", serde_json::json!(flags));
    cargo_build(binary, &arguments, &["--config".to_owned(), flags])
}

/// Turns a linked file into what is booted.
fn finish(linked: &[u8]) -> Result<(Vec<u8>, Sizes)> {
    let mut parts = elf::read(linked)?;
    let functions = symbols::functions(linked, &parts)?;
    let table = symbols::encode(&functions)?;
    let size = table.len() as u64;
    parts.set_symbols(table)?;
    let bytes = elf::write(&parts);
    // What is checked is what was written, read anew.
    let parts = elf::read(&bytes).context("what was written cannot be read")?;
    parts.check(&bytes)?;
    symbols::check(&parts, &functions)?;
    Ok((bytes.clone(), parts.sizes(bytes.len() as u64, size)))
}

/// Runs Cargo and answers the path of the linked file.
fn run_cargo(image: Image) -> Result<PathBuf> {
    let (package, binary) = image.names();
    let arguments = ["--package", package, "--bin", binary, "--profile", "image", "--target", setup::TARGET];
    cargo_build(binary, &arguments, &portable_paths())
}

/// Runs `cargo build` and answers the path of `binary`.
fn cargo_build(binary: &str, arguments: &[&str], settings: &[String]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(paths::workspace())
        .arg("build")
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .args(settings)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo build of {binary} failed: {}", output.status);
    }
    executable(&output.stdout, binary)
        .with_context(|| format!("cargo does not say where it put the binary {binary}"))
}

/// Has panics name the files of dependencies alike, wherever this machine keeps them: the same sources give the
/// same image.
fn portable_paths() -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let flag = |home: PathBuf| format!("--remap-path-prefix={}=crates", home.join("registry/src").display());
    // Joined with the flags of `.cargo/config.toml`; JSON strings are TOML strings.
    let setting =
        |flag: String| format!("target.x86_64-unknown-none.rustflags=[{}]", serde_json::json!(flag));
    home.map(flag).map(setting).map_or(Vec::new(), |setting| vec!["--config".to_owned(), setting])
}

/// Finds the path of `binary` in Cargo's messages.
pub(crate) fn executable(messages: &[u8], binary: &str) -> Option<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == binary)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_found_among_cargos_messages() {
        let messages = br#"{"reason":"compiler-artifact","target":{"name":"ebb"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}
{"reason":"compiler-artifact","target":{"name":"ebb"},"executable":"/t/ebb"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "ebb"), Some(PathBuf::from("/t/ebb")));
        assert_eq!(executable(messages, "none"), None);
    }

    #[test]
    fn sizes_are_a_table() {
        let sizes = Sizes { text: 2048, ..Sizes::default() };
        let text = sizes.to_string();
        assert_eq!(text.lines().count(), 7);
        assert!(text.starts_with("    text      2.0 KiB\n"), "{text}");
    }
}
