//! Xen's page tables for a guest, as they lie in the machine's memory: how much of the guest is mapped by entries of
//! 2 MiB.
//!
//! No interface of Xen tells that. But debug key `v` prints where a vCPU's nested page tables begin, and the machine's
//! memory is QEMU's, whose control socket reads it. The format is that of ordinary page tables (AMD: APM volume 2,
//! 15.25; Intel: SDM volume 3, 29.3), as far as it is needed here.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The control socket, in the directory that QEMU works in.
const SOCKET: &str = "qmp";
/// Where QEMU leaves what it reads, in the same directory.
const PAGE: &str = "page";
/// QEMU answers at once.
const BOUND: Duration = Duration::from_secs(30);

const PAGE_SIZE: usize = 4096;
/// The bits of an entry that are an address.
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
/// The entry maps a large page and leads to no table.
const LARGE: u64 = 1 << 7;
/// AMD: present; Intel: readable, writable or executable.
const PRESENT_AMD: u64 = 1;
const PRESENT_INTEL: u64 = 7;
/// Level of the root; entries of level 3 map 1 GiB, of level 2, 2 MiB.
const ROOT_LEVEL: u32 = 4;
const GIB_LEVEL: u32 = 3;
const BLOCK_LEVEL: u32 = 2;

/// QEMU's words for the socket.
pub(super) fn words() -> [String; 2] {
    ["-qmp".to_owned(), format!("unix:{SOCKET},server=on,wait=off")]
}

/// Where a guest's tables begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    table: u64,
    present: u64,
}

impl Root {
    /// From what key `v` printed, for one domain. `None` if it does not say.
    pub(super) fn find(printed: &str, domid: u32) -> Option<Self> {
        let heading = format!(">>> Domain {domid} <<<");
        let of_domain = printed.split_once(&heading)?.1;
        let of_domain = of_domain.split(">>> Domain ").next().unwrap_or(of_domain);
        let value = |name: &str| {
            let lower = of_domain.to_ascii_lowercase();
            let digits = lower.split_once(name)?.1.trim_start().trim_start_matches("0x");
            let end = digits.find(|character: char| !character.is_ascii_hexdigit()).unwrap_or(digits.len());
            u64::from_str_radix(digits.get(..end)?, 16).ok()
        };
        let amd = || Some(Self { table: value("h_cr3 =")? & ADDRESS, present: PRESENT_AMD });
        let intel = || Some(Self { table: value("ept pointer =")? & ADDRESS, present: PRESENT_INTEL });
        amd().or_else(intel)
    }

    /// Counts what the tables map in pieces of 2 MiB or more, in units of 2 MiB.
    pub(super) fn superpages(self, mut read: impl FnMut(u64) -> Result<Vec<u64>>) -> Result<u64> {
        let mut tables = vec![(self.table, ROOT_LEVEL)];
        let mut found = 0;
        while let Some((table, level)) = tables.pop() {
            for entry in read(table)?.into_iter().filter(|entry| entry & self.present != 0) {
                match level {
                    GIB_LEVEL if entry & LARGE != 0 => found += 512,
                    BLOCK_LEVEL => found += u64::from(entry & LARGE != 0),
                    _ => tables.push((entry & ADDRESS, level - 1)),
                }
            }
        }
        Ok(found)
    }
}

/// QEMU's control socket.
#[derive(Debug)]
pub(super) struct Control {
    directory: PathBuf,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Control {
    /// Connects to the QEMU that works in `directory`.
    pub(super) fn connect(directory: &Path) -> Result<Self> {
        let writer =
            UnixStream::connect(directory.join(SOCKET)).context("cannot reach QEMU's control socket")?;
        writer.set_read_timeout(Some(BOUND))?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut control = Self { directory: directory.to_path_buf(), reader, writer };
        let greeting = control.line()?;
        ensure!(greeting.get("QMP").is_some(), "QEMU's control socket says {greeting}");
        control.ask(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(control)
    }

    /// Reads a page of the machine's memory, as the entries of a page table.
    pub(super) fn page(&mut self, address: u64) -> Result<Vec<u64>> {
        let arguments = json!({ "val": address, "size": PAGE_SIZE, "filename": PAGE });
        self.ask(&json!({ "execute": "pmemsave", "arguments": arguments }))?;
        let file = self.directory.join(PAGE);
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        ensure!(bytes.len() == PAGE_SIZE, "QEMU wrote {} bytes of a page", bytes.len());
        let (entries, _) = bytes.as_chunks::<8>();
        Ok(entries.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
    }

    fn ask(&mut self, command: &Value) -> Result<()> {
        writeln!(self.writer, "{command}").context("QEMU's control socket is closed")?;
        loop {
            let answer = self.line()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            // Events come between.
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader.read_line(&mut line).context("QEMU does not answer")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU answers {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_root_is_that_of_the_domain() {
        let printed = "(XEN) >>> Domain 3 <<<\n(XEN) H_CR3 = 0x00000000111110 CleanBits = 0\n\
                       (XEN) >>> Domain 31 <<<\n(XEN) H_CR3 = 0x0000000022222000 CleanBits = 0\n";
        assert_eq!(Root::find(printed, 31).map(|root| root.table), Some(0x2222_2000));
        assert_eq!(
            Root::find(printed, 3).map(|root| (root.table, root.present)),
            Some((0x11_1000, PRESENT_AMD))
        );
        assert_eq!(Root::find(printed, 4), None);
        let intel = ">>> Domain 1 <<<\nEPT pointer = 0x000000010f8c405e  EPTP index = 0x0000\n";
        let root = Root::find(intel, 1).unwrap();
        assert_eq!((root.table, root.present), (0x1_0F8C_4000, PRESENT_INTEL));
        assert_eq!(Root::find(">>> Domain 1 <<<\nnothing\n>>> Domain 2 <<<\nH_CR3 = 0x1000", 1), None);
    }

    #[test]
    fn large_entries_are_counted_and_tables_followed() {
        let page = |entries: &[u64]| {
            let mut page = entries.to_vec();
            page.resize(512, 0);
            page
        };
        let memory = BTreeMap::from([
            (0x1000, page(&[0x2000 | 1])),
            // 1 GiB in one piece, a table, and one that is not present.
            (0x2000, page(&[LARGE | 1, 0x3000 | 1, 0x9000])),
            // Two of 2 MiB, one of frames, one that is not present.
            (0x3000, page(&[0x20_0000 | LARGE | 1, 0x4000 | 1, 0x40_0000 | LARGE | 1, 0x60_0000 | LARGE])),
        ]);
        let root = Root { table: 0x1000, present: PRESENT_AMD };
        let read = |table| memory.get(&table).cloned().context("a table that is not there");
        assert_eq!(root.superpages(read).unwrap(), 514);
        assert!(Root { table: 0x9000, ..root }.superpages(read).is_err());
    }

    #[test]
    fn what_qemu_refuses_is_an_error() {
        let directory = std::env::temp_dir().join(format!("ebb-qmp-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(directory.join(SOCKET)).unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let (mut reader, mut writer) = (BufReader::new(stream.try_clone().unwrap()), stream);
            writer.write_all(b"{\"QMP\": {}}\n").unwrap();
            let mut line = String::new();
            for answer in
                [&b"{\"event\": \"RESUME\"}\n{\"return\": {}}\n"[..], b"{\"error\": {\"desc\": \"no\"}}\n"]
            {
                reader.read_line(&mut line).unwrap();
                writer.write_all(answer).unwrap();
            }
        });
        let mut control = Control::connect(&directory).unwrap();
        let error = control.page(0).unwrap_err();
        assert!(error.to_string().contains("refuses"), "{error}");
        server.join().unwrap();
        assert!(control.page(0).is_err(), "QEMU is gone");
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(Control::connect(&directory).is_err());
    }
}
