//! The dom0 kernel: its image, uncompressed where possible, and the few modules that dom0 needs.
//!
//! Under emulation, unpacking the kernel is a third of dom0's boot: Xen does it in the guest. An ELF kernel is
//! taken by Xen as well, so it is unpacked here, once.

use super::read;
use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The first bytes of an xz stream.
const XZ: &[u8] = b"\xFD7zXZ\0";
/// The first bytes of a zstd stream.
const ZSTD: &[u8] = b"\x28\xB5\x2F\xFD";
/// The first bytes of a gzip stream.
pub(super) const GZIP: &[u8] = b"\x1F\x8B";

/// Programs that came with the packages and run on the host.
#[derive(Debug)]
pub(super) struct Tools {
    /// A static busybox.
    pub(super) busybox: PathBuf,
}

/// The version of the one kernel in the tree.
pub(super) fn version(root: &Path) -> Result<String> {
    let boot = root.join("boot");
    std::fs::read_dir(&boot)
        .with_context(|| format!("cannot read {}", boot.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .with_context(|| format!("no kernel in {}", boot.display()))
}

/// Unpacks a gzip file.
pub(super) fn gunzip(tools: &Tools, from: &Path, to: &Path) -> Result<()> {
    let packed = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let bytes = unpack(tools, &packed)?;
    std::fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

/// Takes the ELF kernel out of a bzImage; if the host lacks the program for that, the bzImage itself will do.
pub(super) fn extract(tools: &Tools, from: &Path, to: &Path) -> Result<()> {
    let image = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let kernel = match payload(&image).and_then(|(packed, size)| {
        let kernel = unpack(tools, packed)?;
        ensure!(kernel.len() == size && kernel.starts_with(b"\x7FELF"), "the payload is not an ELF file");
        Ok(kernel)
    }) {
        Ok(kernel) => kernel,
        Err(error) => {
            eprintln!(
                "setup: the dom0 kernel stays compressed, and each boot of Xen takes some 3 s more: {error:#}"
            );
            image
        }
    };
    std::fs::write(to, kernel).with_context(|| format!("cannot write {}", to.display()))
}

/// The compressed kernel inside a bzImage and its size when unpacked (Linux boot protocol 2.08).
fn payload(image: &[u8]) -> Result<(&[u8], usize)> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).context("the kernel image is too short")
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "the kernel image has no setup header");
    let protocol = word(0x206)? & 0xFFFF;
    ensure!(protocol >= 0x208, "the kernel image is too old (boot protocol {protocol:#x})");
    let setup_sectors = match (word(0x1F1)? & 0xFF) as usize {
        0 => 4, // for historical reasons
        sectors => sectors,
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)? as usize;
    let end = start + word(0x24C)? as usize;
    let payload = image.get(start..end).context("the kernel image is too short for its payload")?;
    // The last four bytes are the unpacked size.
    let (packed, size) = payload.split_last_chunk::<4>().context("the kernel's payload is empty")?;
    Ok((packed, u32::from_le_bytes(*size) as usize))
}

/// Unpacks by whatever method the first bytes tell.
fn unpack(tools: &Tools, packed: &[u8]) -> Result<Vec<u8>> {
    let program = |name: &str| {
        paths::program(name).with_context(|| format!("there is no program `{name}` on this machine"))
    };
    let mut command = if packed.starts_with(GZIP) {
        let mut command = Command::new(&tools.busybox);
        command.arg("gzip");
        command
    } else if packed.starts_with(XZ) {
        Command::new(program("xz")?)
    } else if packed.starts_with(ZSTD) {
        Command::new(program("zstd")?)
    } else {
        bail!("an unknown compression method");
    };
    command.args(["-d", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut input = child.stdin.take().context("the child has no standard input")?;
    let output = std::thread::scope(|scope| {
        // A failure to write shows in the child's exit status.
        scope.spawn(move || std::io::Write::write_all(&mut input, packed));
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "{command:?} failed: {}", output.status);
    Ok(output.stdout)
}

/// Modules ready to load: name and content, each after those that it depends on.
pub(crate) type Modules = Vec<(String, Vec<u8>)>;

/// Finds `wanted` and what they depend on. A module that is built into this kernel is left out.
pub(super) fn modules(tools: &Tools, root: &Path, version: &str, wanted: &[&str]) -> Result<Modules> {
    let home = ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|place| root.join(place).join(version))
        .find(|path| path.is_dir())
        .with_context(|| format!("no modules for {version} in {}", root.display()))?;
    let builtin = std::fs::read_to_string(home.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<String> =
        builtin.lines().map(|line| plain(line.rsplit('/').next().unwrap_or(line))).collect();
    let listed = read(Command::new("find").arg(&home).args(["-name", "*.ko*"]))?;
    let files: Vec<&str> = listed.lines().collect();
    let mut ready = Modules::new();
    for name in wanted {
        load(tools, name, &files, &builtin, &mut ready)?;
    }
    Ok(ready)
}

fn load(tools: &Tools, name: &str, files: &[&str], builtin: &[String], ready: &mut Modules) -> Result<()> {
    let name = plain(name);
    if builtin.contains(&name) || ready.iter().any(|(done, _)| *done == name) {
        return Ok(());
    }
    let file = files
        .iter()
        .find(|file| plain(file.rsplit('/').next().unwrap_or(file)) == name)
        .with_context(|| format!("the kernel has no module {name}"))?;
    let mut content = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
    if !content.starts_with(b"\x7FELF") {
        content = unpack(tools, &content).with_context(|| format!("cannot unpack {file}"))?;
    }
    for dependency in depends(&content).with_context(|| format!("cannot understand {file}"))? {
        load(tools, &dependency, files, builtin, ready)?;
    }
    ready.push((name, content));
    Ok(())
}

/// `xen-evtchn.ko.xz` is the module xen_evtchn.
fn plain(file: &str) -> String {
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The modules that a module names in its `.modinfo`.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo section")?;
    let info = section.data()?;
    let list = info.split(|&byte| byte == 0).find_map(|item| item.strip_prefix(b"depends="));
    let list = String::from_utf8_lossy(list.unwrap_or_default()).into_owned();
    Ok(list.split(',').filter(|name| !name.is_empty()).map(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(protocol: u16, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1F1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
        image[0x248..0x24C].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24C..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image
    }

    #[test]
    fn the_payload_is_where_the_header_says() {
        let image = image(0x20F, b"packed\x05\x01\0\0");
        assert_eq!(payload(&image).unwrap(), (&b"packed"[..], 0x105));
    }

    #[test]
    fn odd_images_are_errors() {
        assert!(payload(b"").is_err());
        assert!(payload(&image(0x207, b"packed....")).is_err());
        assert!(payload(&image(0x20F, b"abc")).is_err());
        let mut cut = image(0x20F, b"packed....");
        cut.truncate(cut.len() - 1);
        assert!(payload(&cut).is_err());
    }

    #[test]
    fn module_names_are_compared_as_the_kernel_does() {
        assert_eq!(plain("xen-evtchn.ko.xz"), "xen_evtchn");
        assert_eq!(plain("virtio.ko"), plain("virtio"));
    }
}
