//! `xen_version`: what the hypervisor says of itself.
//!
//! Source: Xen `xen/include/public/version.h` and `xen/include/public/features.h`. `xen-sys` binds neither.

/// Major version in bits 16 and up, minor below; in the result register.
pub const VERSION: u32 = 0;
/// 16 bytes of text, such as `.7`.
pub const EXTRAVERSION: u32 = 1;
/// Feature bits: [`FeatureInfo`].
pub const GET_FEATURES: u32 = 6;
/// Bytes in a page; in the result register.
pub const PAGESIZE: u32 = 7;

/// Bytes of the [`EXTRAVERSION`] text.
pub const EXTRAVERSION_LEN: usize = 16;

/// Argument of [`GET_FEATURES`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FeatureInfo {
    /// Which 32 features.
    pub submap_idx: u32,
    /// Out: their bits.
    pub submap: u32,
}

crate::layout!(FeatureInfo: 8 { submap_idx @ 0, submap @ 4 });

/// Feature bit: page tables are writable.
pub const FEATURE_WRITABLE_PAGE_TABLES: u32 = 0;
/// Feature bit: guest frames are translated by hardware. Set on PVH.
pub const FEATURE_AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// Feature bit: events can arrive through an interrupt vector.
pub const FEATURE_HVM_CALLBACK_VECTOR: u32 = 8;
/// Feature bit: the PV clock is safe to use.
pub const FEATURE_HVM_SAFE_PVCLOCK: u32 = 9;
/// Feature bit: reservation calls know virtual nodes.
pub const FEATURE_MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
/// Feature bit: guest frames are not host frames.
pub const FEATURE_NOT_DIRECT_MAPPED: u32 = 16;
