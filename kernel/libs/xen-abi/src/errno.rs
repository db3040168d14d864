//! The error codes that Xen returns: Linux's x86 numbers, negated in `rax`.
//!
//! Source: Xen `xen/include/public/errno.h`.

use core::fmt;

/// An error that the hypervisor answered.
///
/// A thin wrapper, not an enum: a future Xen may answer a number that this list does not have, and the number
/// must survive until somebody reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Errno = Errno($value);)*

            /// The symbolic name, if Xen's list has one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The error with this symbolic name (`"ENOENT"`), as xenstored spells errors.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Errno($value)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    /// Operation not permitted.
    EPERM = 1;
    /// No such entry.
    ENOENT = 2;
    /// No such domain.
    ESRCH = 3;
    /// Input/output error.
    EIO = 5;
    /// No such device or address.
    ENXIO = 6;
    /// Argument list too long.
    E2BIG = 7;
    /// Try again.
    EAGAIN = 11;
    /// Out of memory.
    ENOMEM = 12;
    /// Permission denied.
    EACCES = 13;
    /// Bad address.
    EFAULT = 14;
    /// Busy.
    EBUSY = 16;
    /// Already exists.
    EEXIST = 17;
    /// Cross-device link; in Xen: the page is mapped elsewhere.
    EXDEV = 18;
    /// No such device.
    ENODEV = 19;
    /// Is a directory.
    EISDIR = 21;
    /// Invalid argument.
    EINVAL = 22;
    /// No space left.
    ENOSPC = 28;
    /// Read-only.
    EROFS = 30;
    /// Out of the function's domain.
    EDOM = 33;
    /// Out of range.
    ERANGE = 34;
    /// Function not implemented.
    ENOSYS = 38;
    /// Directory not empty.
    ENOTEMPTY = 39;
    /// No data.
    ENODATA = 61;
    /// Timer expired.
    ETIME = 62;
    /// Interrupted call should be restarted; internal to Xen, never seen by a guest.
    ERESTART = 85;
    /// Operation not supported.
    EOPNOTSUPP = 95;
    /// No buffer space.
    ENOBUFS = 105;
    /// Already connected.
    EISCONN = 106;
}

impl Errno {
    /// A number that Xen's general list does not have.
    pub(crate) const fn new(number: i32) -> Self {
        Self(number)
    }

    /// Decodes a hypercall's result register: negative is an error, anything else a value.
    ///
    /// # Errors
    ///
    /// The error that `rax` holds. A value below `i32::MIN`, which no Xen answers, becomes [`Errno::EIO`].
    pub const fn check(rax: i64) -> Result<u64, Errno> {
        if rax >= 0 {
            return Ok(rax.cast_unsigned());
        }
        if rax < -(i32::MAX as i64) {
            return Err(Errno::EIO);
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded just above")]
        Err(Errno(-rax as i32))
    }

    /// The positive number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// What a hypercall would put in `rax` for this error. For those who play the hypervisor.
    #[must_use]
    pub const fn to_rax(self) -> i64 {
        -(self.0 as i64)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn results_decode_by_sign() {
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(Errno::check(512), Ok(512));
        assert_eq!(Errno::check(-38), Err(Errno::ENOSYS));
        assert_eq!(Errno::check(i64::MIN), Err(Errno::EIO));
        assert_eq!(Errno::check(Errno::EXDEV.to_rax()), Err(Errno::EXDEV));
    }

    #[test]
    fn an_unknown_number_survives() {
        let error = Errno::check(-77).unwrap_err();
        assert_eq!(error.number(), 77);
        assert_eq!(error.name(), None);
    }

    #[test]
    fn names_go_both_ways() {
        for name in ["EPERM", "ENOENT", "EAGAIN", "EISCONN"] {
            assert_eq!(Errno::from_name(name).and_then(Errno::name), Some(name));
        }
        assert_eq!(Errno::from_name("EWHAT"), None);
    }
}
