//! What Xen's log says of a guest that Xen ended.
//!
//! A guest that faults while it delivers a double fault gets a *triple fault*: no code of its own runs any more, so it
//! has no epitaph, and the toolstack only sees a reboot. But Xen prints the registers of the vCPU first, whenever it
//! ends a domain for something that a vCPU did.

use crate::build::Built;
use std::fmt::Write;

/// What begins each of Xen's lines.
const XEN: &str = "(XEN) ";
/// What begins its lines about a guest that is being built.
const NEXT_GUEST: &str = "(XEN) HVM";
/// Xen prints fewer lines than this about one vCPU.
const MOST_LINES: usize = 40;

/// Why Xen ended domain `domid`, and the registers of the vCPU that was the reason, with the name of the function that
/// it was in if `built` is its image. Empty if Xen did not say that it was its own doing.
pub(crate) fn of(log: &str, domid: u32, built: Option<&Built>) -> String {
    let (vcpu, domain) = (format!("d{domid}v"), format!("Domain {domid} (vcpu#"));
    let reason = |line: &&str| {
        let said = line.strip_prefix(XEN).unwrap_or_default();
        (said.starts_with(&vcpu) && said.contains("Triple fault")) || said.starts_with(&domain)
    };
    let mut lines = log.lines().skip_while(|line| !reason(line)).peekable();
    if lines.peek().is_none() {
        return String::new();
    }
    let mut text = String::from("Xen's log:");
    // What comes next there is about something else.
    let about_it = |line: &&str| line.starts_with(XEN) && !line.starts_with(NEXT_GUEST);
    for line in lines.take_while(about_it).take(MOST_LINES) {
        let _ = write!(text, "\n{line}");
        if let Some(function) = instruction(line).and_then(|address| built?.function_at(address)) {
            let _ = write!(text, "  {function}");
        }
    }
    text
}

/// Whether what [`of`] said was the emulator's doing, and none of the guest's: the vCPU had the code segment and the
/// instruction pointer of Xen itself. No guest of ours has a segment with that number, and nothing that a guest can do
/// gives it Xen's: QEMU's nested virtualisation now and then goes on with the hypervisor's code as the guest's.
pub(crate) fn is_emulators(text: &str) -> bool {
    const XENS_CODE: &str = "e008";
    /// The upper half of the addresses where Xen has its code.
    const XENS_HALF: u64 = 0xFFFF_82D0;
    text.lines().any(|line| {
        let segment = line.split_once("RIP:").and_then(|(_, rest)| Some(rest.split_once(':')?.0.trim()));
        segment == Some(XENS_CODE) && instruction(line).is_some_and(|address| address >> 32 == XENS_HALF)
    })
}

/// Where the vCPUs of domain `domid` are, as Xen's debug key `v` shows them in `log`: a line for each, with the name of
/// the function.
pub(crate) fn whereabouts(log: &str, domid: u32, built: &Built) -> String {
    vcpus(log, domid)
        .map(|(vcpu, address)| {
            let function =
                built.function_at(address).unwrap_or_else(|| "no function of the image".to_owned());
            format!("vCPU {vcpu}: {address:#x} {function}")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// The vCPUs of domain `domid` in what the debug key shows, with their instruction pointers.
fn vcpus(log: &str, domid: u32) -> impl Iterator<Item = (u32, u64)> {
    let header = format!(">>> Domain {domid} <<<");
    let mut vcpu = None;
    log.lines()
        .filter_map(|line| line.strip_prefix(XEN))
        .skip_while(move |line| line.trim() != header)
        .skip(1)
        .take_while(|line| !line.starts_with(">>> "))
        .filter_map(move |line| {
            if let Some(number) = line.trim().strip_prefix("VCPU ") {
                vcpu = number.parse().ok();
            }
            let (_, address) = line.split_once("RIP = 0x")?;
            Some((vcpu.take()?, u64::from_str_radix(address.split_whitespace().next()?, 16).ok()?))
        })
}

/// What shows that the emulator ended a guest in `log`, whichever: the first such.
pub(crate) fn emulators_doing(log: &str) -> Option<String> {
    let domain = |line: &str| {
        let said = line.strip_prefix(XEN)?;
        let digits = said.strip_prefix("Domain ").or_else(|| said.strip_prefix('d'))?;
        let end = digits.find(|c: char| !c.is_ascii_digit())?;
        digits.get(..end)?.parse::<u32>().ok()
    };
    let mut domains: Vec<u32> = log.lines().filter_map(domain).collect();
    domains.dedup();
    domains.into_iter().map(|domid| of(log, domid, None)).find(|text| is_emulators(text))
}

/// The address in a line like `(XEN) RIP:    0010:[<ffffffff80123456>]`.
fn instruction(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix(XEN)?.split_once("RIP:")?.1.split_once("[<")?;
    u64::from_str_radix(rest.split_once(">]")?.0, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "(XEN) HVM3 restore: CPU 0\n\
        (d3) [    0.000204] info: ebb 0.1.0\n\
        (XEN) d3v1 Triple fault - invoking HVM shutdown action 1\n\
        (XEN) *** Dumping Dom3 vcpu#1 state: ***\n\
        (XEN) ----[ Xen-4.17.7  x86_64  debug=n  Not tainted ]----\n\
        (XEN) RIP:    0008:[<ffffffff80123456>]\n\
        (XEN) cr3: 0000000003a1b000   cr2: fffffffff0000000\n\
        (XEN) HVM4 restore: CPU 0\n\
        (XEN) domain_crash called from p2m-pod.c:1271\n\
        (XEN) Domain 4 (vcpu#0) crashed on cpu#1:\n\
        (XEN) RFLAGS: 0000000000000002   CONTEXT: hvm guest (d4v0)\n\
        [   12.0] something of dom0\n";

    #[test]
    fn a_triple_fault_is_found_with_its_registers() {
        let text = of(LOG, 3, None);
        assert!(text.starts_with("Xen's log:\n(XEN) d3v1 Triple fault"), "{text}");
        assert!(text.ends_with("cr2: fffffffff0000000"), "{text}");
    }

    #[test]
    fn so_is_a_crash_of_another_kind() {
        let text = of(LOG, 4, None);
        assert!(text.starts_with("Xen's log:\n(XEN) Domain 4 (vcpu#0) crashed"), "{text}");
        assert!(text.ends_with("hvm guest (d4v0)"), "{text}");
    }

    #[test]
    fn a_guest_that_ended_by_itself_has_none() {
        assert_eq!(of(LOG, 5, None), "");
        assert_eq!(of("", 3, None), "");
    }

    #[test]
    fn xens_own_code_in_a_guest_is_the_emulators_doing() {
        let log = LOG.replace("0008:[<ffffffff80123456>]", "e008:[<ffff82d0402e1a3b>]");
        assert!(is_emulators(&of(&log, 3, None)));
        // Each half of the evidence alone is a fault of the guest.
        assert!(!is_emulators(&of(LOG, 3, None)));
        assert!(!is_emulators(&of(&log.replace("e008:", "0008:"), 3, None)));
        assert!(!is_emulators(&of(&LOG.replace("0008:[", "e008:["), 3, None)));
        // And another domain's fate is not this one's.
        assert!(!is_emulators(&of(&log, 4, None)));
        assert!(emulators_doing(&log).is_some_and(|text| text.contains("d3v1")));
        assert_eq!(emulators_doing(LOG), None);
    }

    #[test]
    fn vcpus_are_found_by_their_domain() {
        let log = "(XEN) >>> Domain 1 <<<\n(XEN) \tVCPU 0\n(XEN) RSP = 0x1  RIP = 0xffffffff80119a7a\n\
            (XEN) >>> Domain 12 <<<\n(XEN) \tVCPU 0\n(XEN) RSP = 0xffffffffc103cb60  RIP = 0xffffffff80100259\n\
            (XEN) RAX = 0x9bfc  RFLAGS=0x86\n(XEN) \tVCPU 1\n(XEN) RSP = 0x2  RIP = 0xzz\n\
            (XEN) \tVCPU 2\n(XEN) RSP = 0x2  RIP = 0x20\n";
        assert_eq!(vcpus(log, 12).collect::<Vec<_>>(), [(0, 0xFFFF_FFFF_8010_0259), (2, 0x20)]);
        assert_eq!(vcpus(log, 1).collect::<Vec<_>>(), [(0, 0xFFFF_FFFF_8011_9A7A)]);
        assert_eq!(vcpus(log, 2).count(), 0);
        assert_eq!(vcpus("", 1).count(), 0);
    }

    #[test]
    fn the_instruction_is_read() {
        assert_eq!(instruction("(XEN) RIP:    0008:[<ffffffff80123456>]"), Some(0xFFFF_FFFF_8012_3456));
        assert_eq!(instruction("(XEN) RIP:    0008:[<zz>]"), None);
        assert_eq!(instruction("RIP:    0008:[<ffffffff80123456>]"), None);
    }
}
