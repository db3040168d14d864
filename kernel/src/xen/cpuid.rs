//! Whether the machine runs on Xen, by CPUID, and what Xen says of itself there.
//!
//! Source: Xen `xen/include/public/arch-x86/cpuid.h`. No hypercall may be made before this has found Xen: on
//! another hypervisor the instruction is an invalid opcode, or means something else.

use super::transport::Vendor;
use crate::units::{DomId, VcpuId};
use core::fmt;

/// What CPUID answers for one leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the processor's own names")]
pub struct Registers {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// Answers CPUID leaves.
pub trait Cpuid {
    /// Leaf `leaf`, sub-leaf `sub`.
    fn leaf(&self, leaf: u32, sub: u32) -> Registers;
}

impl<F: Fn(u32, u32) -> Registers> Cpuid for F {
    fn leaf(&self, leaf: u32, sub: u32) -> Registers {
        self(leaf, sub)
    }
}

/// The processor's own instruction.
#[cfg(target_os = "none")]
#[derive(Clone, Copy, Debug)]
pub struct Processor;

#[cfg(target_os = "none")]
impl Cpuid for Processor {
    fn leaf(&self, leaf: u32, sub: u32) -> Registers {
        let answer = core::arch::x86_64::__cpuid_count(leaf, sub);
        Registers { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
    }
}

/// Xen, as its leaves describe it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Detected {
    /// The first leaf.
    pub base: u32,
    /// Major and minor version.
    pub version: (u16, u16),
    /// Whose hypercall instruction to use.
    pub vendor: Vendor,
    /// The number of the vCPU that asked, where Xen says.
    pub vcpu: Option<VcpuId>,
    /// This domain's number, where Xen says.
    pub domain: Option<DomId>,
    /// The guest's time stamp counter, in kHz, where Xen says.
    pub tsc_khz: Option<u32>,
    /// Whether events can be delivered as an interrupt vector per vCPU.
    pub upcall_vector: bool,
}

/// Xen on a processor whose hypercall instruction is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownVendor(pub [u8; 12]);

impl fmt::Display for UnknownVendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no hypercall instruction is known for processors of vendor \"{}\"", self.0.escape_ascii())
    }
}

impl core::error::Error for UnknownVendor {}

/// The hypervisor bit of leaf 1, ecx.
const HYPERVISOR: u32 = 1 << 31;
const FIRST_BASE: u32 = 0x4000_0000;
/// Where the space for hypervisors ends; within it, each takes a multiple of 0x100.
const END_OF_BASES: u32 = 0x4001_0000;
const SIGNATURE: [u8; 12] = *b"XenVMMXenVMM";

/// Bits of leaf base + 4, eax.
const VCPU_ID_PRESENT: u32 = 1 << 3;
const DOMID_PRESENT: u32 = 1 << 4;
const UPCALL_VECTOR: u32 = 1 << 6;

/// Looks for Xen; `None` if something else, or nothing, is below.
///
/// Xen may not be at the first base: with Hyper-V's interface on it is at the second.
///
/// # Errors
///
/// If Xen is there and the processor's vendor is not known.
pub fn detect(cpuid: &impl Cpuid) -> Result<Option<Detected>, UnknownVendor> {
    if cpuid.leaf(1, 0).ecx & HYPERVISOR == 0 {
        return Ok(None);
    }
    let is_xen = |base: &u32| {
        let answer = cpuid.leaf(*base, 0);
        text(answer.ebx, answer.ecx, answer.edx) == SIGNATURE && answer.eax >= *base + 2
    };
    let Some(base) = (FIRST_BASE..END_OF_BASES).step_by(0x100).find(is_xen) else { return Ok(None) };
    let last = cpuid.leaf(base, 0).eax;
    let leaf =
        |number: u32| if base + number <= last { cpuid.leaf(base + number, 0) } else { Registers::default() };
    let version = leaf(1).eax;
    let features = leaf(4);
    let has = |bit| features.eax & bit != 0;
    Ok(Some(Detected {
        base,
        version: ((version >> 16) as u16, (version & 0xFFFF) as u16),
        vendor: vendor(cpuid)?,
        vcpu: has(VCPU_ID_PRESENT).then_some(VcpuId::new(features.ebx)),
        domain: u16::try_from(features.ecx).ok().filter(|_| has(DOMID_PRESENT)).map(DomId::new),
        tsc_khz: Some(leaf(3).ecx).filter(|khz| *khz != 0),
        upcall_vector: has(UPCALL_VECTOR),
    }))
}

/// Who made the processor, as far as the hypercall instruction goes.
fn vendor(cpuid: &impl Cpuid) -> Result<Vendor, UnknownVendor> {
    let answer = cpuid.leaf(0, 0);
    // The order of this leaf differs from that of the hypervisors' leaves.
    let name = text(answer.ebx, answer.edx, answer.ecx);
    match &name {
        b"GenuineIntel" | b"CentaurHauls" | b"  Shanghai  " => Ok(Vendor::Intel),
        b"AuthenticAMD" | b"HygonGenuine" => Ok(Vendor::Amd),
        _ => Err(UnknownVendor(name)),
    }
}

/// Three registers as text.
fn text(first: u32, second: u32, third: u32) -> [u8; 12] {
    let mut text = [0; 12];
    for (bytes, register) in text.chunks_exact_mut(4).zip([first, second, third]) {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Registers {
        Registers { eax, ebx, ecx, edx }
    }

    /// Xen 4.17 at `base`, up to leaf base + `last`, on an AMD processor.
    fn xen(base: u32, last: u32) -> impl Fn(u32, u32) -> Registers {
        move |leaf, _| match leaf.wrapping_sub(base) {
            0 => registers(base + last, 0x566E_6558, 0x6558_4D4D, 0x4D4D_566E),
            1 => registers(0x0004_0011, 0, 0, 0),
            3 => registers(0, 0, 2_500_000, 0),
            4 => registers(0b101_1000, 1, 7, 0),
            _ if leaf == 0 => registers(0xD, 0x6874_7541, 0x444D_4163, 0x6974_6E65),
            _ if leaf == 1 => registers(0, 0, HYPERVISOR, 0),
            _ => Registers::default(),
        }
    }

    #[test]
    fn xen_says_who_we_are() {
        let found = detect(&xen(FIRST_BASE, 5)).unwrap().unwrap();
        assert_eq!(
            found,
            Detected {
                base: FIRST_BASE,
                version: (4, 17),
                vendor: Vendor::Amd,
                vcpu: Some(VcpuId::new(1)),
                domain: Some(DomId::new(7)),
                tsc_khz: Some(2_500_000),
                upcall_vector: true,
            }
        );
    }

    #[test]
    fn xen_may_be_at_any_base_and_nowhere_else() {
        for base in [0x4000_0100, 0x4000_FF00] {
            assert_eq!(detect(&xen(base, 5)).unwrap().unwrap().base, base);
        }
        assert_eq!(detect(&xen(0x4001_0000, 5)), Ok(None));
        assert_eq!(detect(&xen(0x4000_0080, 5)), Ok(None));
    }

    #[test]
    fn an_old_xen_has_fewer_leaves() {
        let found = detect(&xen(FIRST_BASE, 2)).unwrap().unwrap();
        assert_eq!(found.version, (4, 17));
        assert_eq!((found.vcpu, found.domain, found.tsc_khz, found.upcall_vector), (None, None, None, false));
        assert_eq!(detect(&xen(FIRST_BASE, 1)), Ok(None));
    }

    #[test]
    fn other_machines_are_not_xen() {
        let bare = |leaf, sub| if leaf == 1 { Registers::default() } else { xen(FIRST_BASE, 5)(leaf, sub) };
        assert_eq!(detect(&bare), Ok(None), "without the hypervisor bit, those leaves mean nothing");
        let tcg = |leaf, sub| match leaf {
            0x4000_0000 => registers(0x4000_0001, 0x5447_4354, 0x4354_4743, 0x4743_5447),
            _ => xen(0x4001_0000, 5)(leaf, sub),
        };
        assert_eq!(detect(&tcg), Ok(None));
    }

    #[test]
    fn the_vendor_decides_the_instruction_or_is_named() {
        let of = |ebx, edx, ecx| {
            move |leaf, sub| {
                if leaf == 0 { registers(0, ebx, ecx, edx) } else { xen(FIRST_BASE, 5)(leaf, sub) }
            }
        };
        let intel = of(0x756E_6547, 0x4965_6E69, 0x6C65_746E);
        assert_eq!(detect(&intel).unwrap().unwrap().vendor, Vendor::Intel);
        let error = detect(&of(0x6161_6161, 0x6161_6161, 0x6161_6161)).unwrap_err();
        assert_eq!(error, UnknownVendor(*b"aaaaaaaaaaaa"));
    }
}
