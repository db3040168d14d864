//! Writes archives in cpio's "newc" format, the one that Linux unpacks as its initramfs.
//!
//! Several archives may simply follow one another in the initramfs, each padded to four bytes: the base of dom0
//! is written once and a small archive with the files of the run is put behind it.

use std::io::{self, Write};

/// A regular file's and a directory's type bits in the mode word.
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    inode: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    /// Begins an archive at the current end of `out`.
    pub(crate) const fn new(out: W) -> Self {
        Self { out, inode: 0, written: 0 }
    }

    /// Adds a regular file; `permissions` as for `chmod`.
    ///
    /// # Errors
    ///
    /// If `out` cannot be written, or the content is larger than the format's 4 GiB.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | permissions, content)
    }

    /// Adds a directory. The directories above it must have been added before.
    ///
    /// # Errors
    ///
    /// If `out` cannot be written.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds a symbolic link to `to`.
    ///
    /// # Errors
    ///
    /// If `out` cannot be written.
    pub(crate) fn symlink(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.entry(path, SYMLINK | 0o777, to.as_bytes())
    }

    /// Ends the archive and gives `out` back.
    ///
    /// # Errors
    ///
    /// If `out` cannot be written.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.header(0, 1, 0, TRAILER)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size =
            u32::try_from(content.len()).map_err(|_| io::Error::other(format!("{path}: over 4 GiB")))?;
        self.header(mode, 1, size, path.trim_start_matches('/'))?;
        self.put(content)?;
        self.pad()
    }

    /// One entry's header: the magic number and thirteen numbers of eight hexadecimal digits, then the name with
    /// its NUL, padded to four bytes.
    fn header(&mut self, mode: u32, links: u32, size: u32, name: &str) -> io::Result<()> {
        let length = u32::try_from(name.len() + 1).map_err(|_| io::Error::other("name too long"))?;
        let owner = 0;
        let time = 0;
        let device = 0;
        let checksum = 0;
        let fields = [
            self.inode, mode, owner, owner, links, time, size, device, device, device, device, length,
            checksum,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let over = self.written % 4;
        if over == 0 {
            return Ok(());
        }
        let zeros = [0; 4];
        self.put(zeros.get(..(4 - over) as usize).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entry at `at`: its mode, name and content, and where the next one begins.
    fn read(archive: &[u8], at: usize) -> (u32, String, Vec<u8>, usize) {
        assert_eq!(&archive[at..at + 6], b"070701");
        let field = |n: usize| {
            let digits = std::str::from_utf8(&archive[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            u32::from_str_radix(digits, 16).unwrap()
        };
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name_end = at + 110 + name_size;
        assert_eq!(archive[name_end - 1], 0, "names end with NUL");
        let name = String::from_utf8(archive[at + 110..name_end - 1].to_vec()).unwrap();
        let data = name_end.next_multiple_of(4);
        (field(1), name, archive[data..data + size].to_vec(), (data + size).next_multiple_of(4))
    }

    #[test]
    fn entries_come_back_as_they_were_written() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("bin").unwrap();
        archive.file("/bin/one", 0o755, b"12345").unwrap();
        archive.symlink("bin/two", "one").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0, "another archive may follow");
        let (mode, name, content, next) = read(&bytes, 0);
        assert_eq!((mode, name.as_str(), content.as_slice()), (0o040_755, "bin", &b""[..]));
        let (mode, name, content, next) = read(&bytes, next);
        assert_eq!((mode, name.as_str(), content.as_slice()), (0o100_755, "bin/one", &b"12345"[..]));
        let (mode, name, content, next) = read(&bytes, next);
        assert_eq!((mode, name.as_str(), content.as_slice()), (0o120_777, "bin/two", &b"one"[..]));
        let (mode, name, _, next) = read(&bytes, next);
        assert_eq!((mode, name.as_str(), next), (0, TRAILER, bytes.len()));
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let mut room = [0; 64];
        let mut archive = Archive::new(&mut room[..]);
        assert!(archive.file("name", 0o644, b"content").is_err());
    }
}
