//! `tmem_op`: transcendent memory, in Xen 4.0 to 4.12. Since 4.13 the number is reserved and answers `-ENOSYS`.
//!
//! Source: Xen 4.12 `xen/include/public/tmem.h`.

/// Bytes of the argument structure of a 64-bit guest. Read once, never written.
pub const OP_SIZE: usize = 56;

/// Command: once the privileged controls. Xen refuses it before it does anything else with it, with
/// `-EOPNOTSUPP` where tmem is served and `-ENODEV` where it is switched off: a probe without side effects.
pub const CONTROL: u32 = 0;
