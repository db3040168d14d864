//! What the pages of the documentation say is checked as far as a program can: links lead somewhere, files and cases that
//! are named exist, commands are understood, and code that is shown is code that is built.

use crate::{Cli, paths, view};
use clap::{CommandFactory, Parser, error::ErrorKind};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A page: where it is, and its text.
struct Page {
    path: PathBuf,
    text: String,
}

/// All files below `folder` that end in `ext`; what is built, and hidden, left out.
fn files(folder: &Path, ext: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            let name = name.to_string_lossy();
            if !name.starts_with('.') && !["target", "out"].contains(&&*name) {
                files(&path, ext, found);
            }
        } else if path.extension().is_some_and(|found| found == ext) {
            found.push(path);
        }
    }
}

fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    files(&paths::workspace(), "md", &mut found);
    assert!(found.len() > 10, "these are not all: {found:?}");
    found.into_iter().map(|path| Page { text: fs::read_to_string(&path).unwrap(), path }).collect()
}

impl Page {
    /// The lines outside of code, and those inside with the language of their block.
    fn lines(&self) -> impl Iterator<Item = (Option<&str>, &str)> {
        let mut block = None;
        self.text.lines().filter_map(move |line| match (line.trim_start().strip_prefix("```"), block) {
            (Some(language), None) => {
                block = Some(language);
                None
            }
            (Some(_), Some(_)) => {
                block = None;
                None
            }
            (None, _) => Some((block, line)),
        })
    }

    /// Everything in backticks, outside of blocks. A span may go over the end of a line.
    fn spans(&self) -> Vec<String> {
        let prose: Vec<&str> =
            self.lines().filter(|(block, _)| block.is_none()).map(|(_, line)| line.trim()).collect();
        prose.join(" ").split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// Where links and images lead.
    fn links(&self) -> Vec<String> {
        let prose = self.lines().filter(|(block, _)| block.is_none());
        let target = |piece: &str| piece.split(')').next().unwrap_or_default().to_owned();
        prose.flat_map(|(_, line)| line.split("](").skip(1).map(target)).collect()
    }

    /// The names by which headings are linked to.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.lines().filter(|(block, line)| block.is_none() && line.starts_with('#'));
        let anchor = |heading: &str| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(|(_, heading)| anchor(heading)).collect()
    }
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for page in &pages {
        for link in page.links().iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let there = if file.is_empty() { page.path.clone() } else { page.path.with_file_name(file) };
            let Ok(there) = there.canonicalize() else {
                wrong.push(format!("{}: {link}", page.path.display()));
                continue;
            };
            let named = |page: &Page| page.path.canonicalize().unwrap() == there;
            let known =
                pages.iter().find(|page| named(page)).is_some_and(|page| page.anchors().contains(anchor));
            if !anchor.is_empty() && !known {
                wrong.push(format!("{}: {link}: no such heading", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_that_are_named_exist() {
    const ENDS: [&str; 8] = [".rs", ".md", ".sh", ".svg", ".toml", ".ld", ".trace", "/"];
    let root = paths::workspace();
    let mut wrong = Vec::new();
    for page in pages() {
        // Files may be named from a folder that the page has spoken of, and from any around it.
        let mut folders = vec![root.clone(), page.path.parent().unwrap().to_path_buf()];
        for span in page.spans() {
            let is_path = span.contains('/') && ENDS.iter().any(|end| span.ends_with(end));
            let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if !is_path
                || !plain
                || ["out/", "target/", "data/", "/"].iter().any(|start| span.starts_with(start))
            {
                continue;
            }
            let around = folders.iter().flat_map(|folder| folder.ancestors());
            let inside = around.filter(|around| around.starts_with(&root));
            let there = inside.map(|start| start.join(&span)).find(|path| path.exists());
            match there {
                Some(path) if path.is_dir() => folders.push(path),
                Some(path) => folders.extend(path.parent().map(Path::to_path_buf)),
                None => wrong.push(format!("{}: {span}", page.path.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn commands_are_understood() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let blocks: String = page
            .lines()
            .filter(|(block, _)| block.is_some_and(|language| ["console", "sh"].contains(&language)))
            .map(|(_, line)| line.strip_prefix("$ ").unwrap_or(line))
            .fold(String::new(), |text, line| match line.strip_suffix('\\') {
                Some(begun) => text + begun,
                None => text + line + "\n",
            });
        let spans = page.spans();
        let commands = blocks.lines().chain(spans.iter().map(String::as_str));
        for command in commands.filter(|line| line.starts_with("cargo xtask ")) {
            // Several at once, in prose: `cargo xtask setup | build`.
            if command.contains('|') {
                continue;
            }
            count += 1;
            let command = command.split("  #").next().unwrap_or_default();
            let Err(error) = Cli::try_parse_from(words(command.strip_prefix("cargo ").unwrap_or_default()))
            else {
                continue;
            };
            // Prose may speak of a command by its name.
            let named = error.kind() == ErrorKind::MissingRequiredArgument;
            if error.exit_code() != 0 && !(named && spans.iter().any(|span| span == command)) {
                wrong.push(format!("{}: {command}: {error}", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 20, "only {count} commands were found");
}

#[test]
fn every_option_is_on_its_page() {
    let mut wrong = Vec::new();
    let pages = [
        ("run", "running"),
        ("setup", "running"),
        ("image", "applications"),
        ("test", "testing"),
        ("bench", "benchmarks"),
    ];
    for (name, page) in pages {
        let text = fs::read_to_string(paths::workspace().join(format!("docs/{page}.md"))).unwrap();
        let command = Cli::command();
        let command = command.find_subcommand(name).unwrap();
        let options: Vec<_> = command.get_arguments().filter_map(|option| option.get_long()).collect();
        assert!(!options.is_empty(), "{name} has options");
        let missing = options.iter().filter(|option| !text.contains(&format!("--{option}")));
        wrong.extend(missing.map(|option| format!("docs/{page}.md says nothing of {name} --{option}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_column_is_in_the_table() {
    let page = fs::read_to_string(paths::workspace().join("docs/running.md")).unwrap();
    let table = view::csv::write(&view::timeline::Timeline::default());
    let header = table.lines().next().unwrap();
    let missing: Vec<_> = header.split(',').filter(|column| !page.contains(&format!("`{column}`"))).collect();
    assert!(missing.is_empty(), "docs/running.md says nothing of the columns {missing:?}");
}

#[test]
fn every_dependency_has_its_line() {
    let root = paths::workspace();
    let page = fs::read_to_string(root.join("docs/dependencies.md")).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let table = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let external = table.lines().filter(|line| line.contains(" = ") && !line.contains("path = "));
    let names: Vec<_> = external.filter_map(|line| line.split(" = ").next()).collect();
    assert!(names.len() > 10, "these are not all: {names:?}");
    let missing: Vec<_> = names.into_iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/dependencies.md says nothing of {missing:?}");
}

/// The words of a shell's line. `N` stands for some number.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(begun)) if c == begun => quote = None,
            (' ', None) => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words.into_iter().map(|word| if word == "N" { "2".to_owned() } else { word }).collect()
}

/// All code of ours.
fn sources() -> String {
    let mut found = Vec::new();
    files(&paths::workspace(), "rs", &mut found);
    found.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn functions_that_are_named_exist() {
    let sources = sources();
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        for span in page.spans() {
            let Some(path) = span.strip_suffix("()") else { continue };
            let name = path.rsplit([':', '.']).next().unwrap_or_default();
            count += 1;
            if !["(", "<"].iter().any(|begin| sources.contains(&format!("fn {name}{begin}"))) {
                wrong.push(format!("{}: {span}", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 20, "only {count} were found");
}

#[test]
fn cases_that_are_named_exist() {
    const AREAS: [&str; 16] = [
        "boot.",
        "domain.",
        "elastic.",
        "example.",
        "image.",
        "malformed.",
        "paged.",
        "reclaim.",
        "several.",
        "smp.",
        "soak.",
        "store.",
        "swap.",
        "system.",
        "threads.",
        "tunables.",
    ];
    let (root, sources) = (paths::workspace(), sources());
    let options = fs::read_to_string(root.join("docs/tunables.md")).unwrap();
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        for span in page.spans() {
            let name = span.split_once('.').map_or("", |(_, name)| name);
            let plain = !name.is_empty()
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
            if !plain || name == "rs" || !AREAS.iter().any(|area| span.starts_with(area)) {
                continue;
            }
            count += 1;
            // Cases of the conformance suite are named by their functions; options look like cases.
            let known = [format!("\"{span}\""), format!("fn {name}<E: Env>(")];
            if !known.iter().any(|known| sources.contains(known)) && !options.contains(&format!("`{span}`")) {
                wrong.push(format!("{}: {span}", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 10, "only {count} were found");
}

#[test]
fn the_application_that_is_shown_is_the_one_that_is_built() {
    let root = paths::workspace();
    let page = fs::read_to_string(root.join("docs/applications.md")).unwrap();
    for file in ["boot/example/build.rs", "boot/example/src/main.rs"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        assert!(page.contains(&format!("```rust\n{text}```\n")), "docs/applications.md shows another {file}");
    }
    // Its packages and versions are the workspace's.
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for line in page.lines().filter(|line| line.contains("version = \"=")) {
        assert!(manifest.contains(line), "Cargo.toml has no {line:?}");
    }
}
