//! Which files dom0's programs need: the shared libraries that they and their libraries name.

use anyhow::{Context, Result, anyhow};
use object::LittleEndian;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Programs with everything that they load.
#[derive(Debug, Default)]
pub(crate) struct Closure {
    /// Program name → file.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// Library name, as the dynamic linker asks for it → file.
    pub(crate) libraries: BTreeMap<String, PathBuf>,
    /// Path of the dynamic linker, as the programs name it → file.
    pub(crate) linkers: BTreeMap<String, PathBuf>,
}

/// Finds `programs` in the tree at `root` with all libraries they need, and `libraries` that are loaded by name
/// at run time. While one is missing, `more` is asked to bring further packages into the tree.
///
/// # Errors
///
/// If `more` fails (it fails when it has nothing more to bring), or a file cannot be read.
pub(super) fn close(
    root: &Path,
    programs: &[&str],
    libraries: &[&str],
    mut more: impl FnMut(&BTreeSet<String>) -> Result<()>,
) -> Result<Closure> {
    loop {
        let (closure, missing) = attempt(root, programs, libraries)?;
        if missing.is_empty() {
            return Ok(closure);
        }
        more(&missing)?;
    }
}

fn attempt(root: &Path, programs: &[&str], libraries: &[&str]) -> Result<(Closure, BTreeSet<String>)> {
    let files = executables(root)?;
    let (mut closure, mut missing) = (Closure::default(), BTreeSet::new());
    let mut wanted: Vec<String> = libraries.iter().map(ToString::to_string).collect();
    for &name in programs {
        let Some(path) = files.get(name) else {
            missing.insert(name.to_owned());
            continue;
        };
        let links = links(path)?;
        wanted.extend(links.needed);
        if let Some(linker) = links.interpreter {
            match files.get(linker.rsplit('/').next().unwrap_or_default()) {
                Some(file) => drop(closure.linkers.insert(linker, file.clone())),
                None => drop(missing.insert(linker)),
            }
        }
        closure.programs.insert(name.to_owned(), path.clone());
    }
    while let Some(name) = wanted.pop() {
        if closure.libraries.contains_key(&name) {
            continue;
        }
        match files.get(&name) {
            Some(path) => {
                wanted.extend(links(path)?.needed);
                closure.libraries.insert(name, path.clone());
            }
            None => drop(missing.insert(name)),
        }
    }
    Ok((closure, missing))
}

/// Every ELF file of the tree by its name, links included. Absolute links are left out: they lead out of the tree,
/// to files of the machine that this runs on.
fn executables(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let entries =
            std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let link = std::fs::read_link(&path).ok();
            if link.as_ref().is_some_and(|to| to.is_absolute()) {
                continue;
            }
            if link.is_some() || path.is_file() {
                if is_elf(&path) {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    found.insert(name, path);
                }
            } else if path.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(found)
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic))
        .is_ok_and(|()| magic == object::elf::ELFMAG)
}

/// What one ELF file names.
struct Links {
    needed: Vec<String>,
    interpreter: Option<String>,
}

fn links(path: &Path) -> Result<Links> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&data).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn parse(data: &[u8]) -> object::Result<Links> {
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    let endian = header.endian()?;
    let mut interpreter = None;
    for segment in header.program_headers(endian, data)? {
        if let Some(path) = segment.interpreter(endian, data)? {
            interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let sections = header.sections(endian, data)?;
    let mut needed = Vec::new();
    if let Some((entries, strings)) = sections.dynamic(endian, data)? {
        let strings = sections.strings(endian, data, strings)?;
        for entry in entries.iter().filter(|entry| entry.d_tag(endian) == DT_NEEDED) {
            needed.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
        }
    }
    Ok(Links { needed, interpreter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_names_its_c_library_and_its_linker() {
        let links = links(&std::env::current_exe().unwrap()).unwrap();
        assert!(links.needed.iter().any(|name| name.starts_with("libc.so")), "{:?}", links.needed);
        assert!(links.interpreter.is_some_and(|path| path.contains("ld-")));
    }

    #[test]
    fn what_is_not_elf_is_an_error() {
        assert!(parse(b"#!/bin/sh\n").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn more_is_asked_until_it_gives_up() {
        let empty = std::env::temp_dir().join(format!("ebb-elf-{}", std::process::id()));
        std::fs::create_dir_all(&empty).unwrap();
        let mut asked = 0;
        let result = close(&empty, &["xl"], &["libgcc_s.so.1"], |missing| {
            asked += 1;
            assert_eq!(missing.iter().map(String::as_str).collect::<Vec<_>>(), ["libgcc_s.so.1", "xl"]);
            anyhow::ensure!(asked < 3, "nothing more");
            Ok(())
        });
        std::fs::remove_dir(&empty).unwrap();
        assert_eq!(result.unwrap_err().to_string(), "nothing more");
        assert_eq!(asked, 3);
    }
}
