//! The names of the image's functions, in the format of `ebb::symbols`.

use super::elf::Parts;
use anyhow::{Context, Result, ensure};
use ebb::symbols::{ENTRY_SIZE, HEADER_SIZE, MAGIC, Symbols};
use object::{Object, ObjectSymbol, SymbolKind};

/// A function of the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Function {
    /// First byte, from the first byte of the image.
    offset: u32,
    /// Bytes of code.
    size: u32,
    /// Demangled name, without the hash.
    name: String,
}

/// The functions of a linked file, by rising offset, each address once.
pub(super) fn functions(linked: &[u8], parts: &Parts) -> Result<Vec<Function>> {
    let file = object::File::parse(linked).context("no object file")?;
    let text = parts.text()?;
    let mut found = Vec::new();
    for symbol in file.symbols() {
        let name = symbol.name().unwrap_or_default();
        let inside = text.virtual_range().contains(&symbol.address());
        if symbol.kind() == SymbolKind::Text && inside && !name.is_empty() {
            let name = format!("{:#}", rustc_demangle::demangle(name));
            let offset = u32::try_from(symbol.address() - text.virtual_address)?;
            found.push(Function { offset, size: u32::try_from(symbol.size())?, name });
        }
    }
    ensure!(!found.is_empty(), "no symbols: was the file stripped?");
    // Of several names of one address, the one with the largest size, then the first in the alphabet, so that
    // the same input gives the same output.
    found.sort_by(|a, b| (a.offset, b.size, &a.name).cmp(&(b.offset, a.size, &b.name)));
    found.dedup_by_key(|function| function.offset);
    // Assembly may leave sizes out: then a function goes on to the next, or to the end.
    let end = u32::try_from(text.memory_size)?;
    let starts: Vec<u32> = found.iter().skip(1).map(|next| next.offset).chain([end]).collect();
    for (function, next) in found.iter_mut().zip(starts) {
        if function.size == 0 {
            function.size = next - function.offset;
        }
    }
    Ok(found)
}

/// The function of a linked file that `address` lies in, and how far into it.
pub(super) fn function_at(linked: &[u8], address: u64) -> Option<String> {
    let parts = super::elf::read(linked).ok()?;
    let offset = u32::try_from(address.checked_sub(parts.text().ok()?.virtual_address)?).ok()?;
    let functions = functions(linked, &parts).ok()?;
    let found = functions.iter().rfind(|function| function.offset <= offset)?;
    let within = offset - found.offset;
    (within < found.size).then(|| format!("{}+{within:#x}", found.name))
}

/// The table.
pub(super) fn encode(functions: &[Function]) -> Result<Vec<u8>> {
    let names_at = HEADER_SIZE + functions.len() * ENTRY_SIZE;
    let mut entries = Vec::new();
    let mut names = Vec::new();
    for function in functions {
        // A name that long helps nobody, and its length must fit.
        let name: String = function.name.chars().take(1000).collect();
        for word in [function.offset, function.size, u32::try_from(names_at + names.len())?] {
            entries.extend(word.to_le_bytes());
        }
        names.extend(u16::try_from(name.len())?.to_le_bytes());
        names.extend(name.as_bytes());
    }
    let mut table = Vec::from(MAGIC);
    table.extend(u32::try_from(functions.len())?.to_le_bytes());
    table.extend(u32::try_from(names_at + names.len())?.to_le_bytes());
    table.extend(entries);
    table.extend(names);
    Ok(table)
}

/// Reads the table of a finished image as the guest does, and looks every function up.
pub(super) fn check(parts: &Parts, functions: &[Function]) -> Result<()> {
    let table = Symbols::new(&parts.symbols()?.bytes).context("the symbol table is corrupt")?;
    ensure!(table.len() == functions.len(), "the symbol table lost functions");
    for function in functions {
        let found = table.look_up(function.offset).map(|symbol| symbol.name);
        let found = found.with_context(|| format!("the symbol table has no {}", function.name))?;
        ensure!(function.name.starts_with(found), "the symbol table calls {} {found}", function.name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_reads_what_is_encoded() {
        let long = "x".repeat(5000);
        let function = |offset, size, name: &str| Function { offset, size, name: name.to_owned() };
        let functions = [function(0, 16, "entry"), function(16, 4, "ebb::é"), function(32, 8, &long)];
        let table = encode(&functions).unwrap();
        let symbols = Symbols::new(&table).unwrap();
        assert_eq!(symbols.look_up(17).unwrap().name, "ebb::é");
        assert_eq!(symbols.look_up(32).unwrap().name.len(), 1000);
        assert_eq!(symbols.look_up(20), None);
    }

    #[test]
    fn no_functions_are_a_table_too() {
        assert!(Symbols::new(&encode(&[]).unwrap()).unwrap().is_empty());
    }
}
