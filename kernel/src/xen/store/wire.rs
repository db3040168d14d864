//! The message format: a header of four little-endian words, then a payload of at most 4096 bytes.
//!
//! Texts in a payload end with a NUL, a value does not: a NUL too many becomes part of the value, one too few
//! is `EINVAL`. Nothing here allocates more than a message, and no input makes it panic.

use super::StoreError;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use xen_abi::Errno;
use xen_abi::ring::store as abi;

pub use xen_abi::ring::store::{Header, PAYLOAD_MAX};

/// The longest path that begins with a slash (`XENSTORE_ABS_PATH_MAX`).
pub const ABSOLUTE_PATH_MAX: usize = 3072;
/// The longest path below the domain's own (`XENSTORE_REL_PATH_MAX`).
pub const RELATIVE_PATH_MAX: usize = 2048;

/// What a message is (`enum xsd_sockmsg_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind(pub u32);

impl Kind {
    /// Names of children.
    pub const DIRECTORY: Self = Self(abi::DIRECTORY);
    /// A value.
    pub const READ: Self = Self(abi::READ);
    /// Who may read and write.
    pub const GET_PERMS: Self = Self(abi::GET_PERMS);
    /// Tell of changes.
    pub const WATCH: Self = Self(abi::WATCH);
    /// Stop telling.
    pub const UNWATCH: Self = Self(abi::UNWATCH);
    /// Begin a transaction.
    pub const TRANSACTION_START: Self = Self(abi::TRANSACTION_START);
    /// Commit or abort one.
    pub const TRANSACTION_END: Self = Self(abi::TRANSACTION_END);
    /// A domain's directory.
    pub const GET_DOMAIN_PATH: Self = Self(abi::GET_DOMAIN_PATH);
    /// Set a value, creating what is missing.
    pub const WRITE: Self = Self(abi::WRITE);
    /// Create a node, if it is missing.
    pub const MKDIR: Self = Self(abi::MKDIR);
    /// Remove a node and all below it.
    pub const RM: Self = Self(abi::RM);
    /// Set who may read and write.
    pub const SET_PERMS: Self = Self(abi::SET_PERMS);
    /// From the store, unasked: something changed.
    pub const WATCH_EVENT: Self = Self(abi::WATCH_EVENT);
    /// The answer is an error.
    pub const ERROR: Self = Self(abi::ERROR_REPLY);
    /// Drop all watches and transactions of this domain.
    pub const RESET_WATCHES: Self = Self(abi::RESET_WATCHES);
    /// Names of children, a part of them.
    pub const DIRECTORY_PART: Self = Self(abi::DIRECTORY_PART);
}

/// A piece of a request's payload.
#[derive(Clone, Copy, Debug)]
pub enum Part<'p> {
    /// A path, sent with a NUL.
    Path(&'p str),
    /// Another text, sent with a NUL.
    Text(&'p str),
    /// A value, sent as it is.
    Value(&'p [u8]),
}

impl Part<'_> {
    fn check(&self) -> Result<(), StoreError> {
        let (Self::Path(text) | Self::Text(text)) = self else {
            return Ok(());
        };
        if text.as_bytes().contains(&0) {
            return Err(StoreError::BadRequest("a NUL inside a text"));
        }
        if let Self::Path(path) = self {
            let longest = if path.starts_with('/') { ABSOLUTE_PATH_MAX } else { RELATIVE_PATH_MAX };
            if path.is_empty() {
                return Err(StoreError::BadRequest("an empty path"));
            }
            if path.len() > longest {
                return Err(StoreError::BadRequest("the path is too long"));
            }
        }
        Ok(())
    }
}

/// A whole request, header and payload.
///
/// # Errors
///
/// [`StoreError::BadRequest`] for what the store would take amiss: some of it would end the connection.
pub fn request(
    kind: Kind,
    request: u32,
    transaction: u32,
    parts: &[Part<'_>],
) -> Result<Vec<u8>, StoreError> {
    parts.iter().try_for_each(Part::check)?;
    let mut message = alloc::vec![0; Header::SIZE];
    for part in parts {
        match part {
            Part::Path(text) | Part::Text(text) => {
                message.extend_from_slice(text.as_bytes());
                message.push(0);
            }
            Part::Value(bytes) => message.extend_from_slice(bytes),
        }
    }
    let length = message.len() - Header::SIZE;
    let length = u32::try_from(length)
        .ok()
        .filter(|length| *length as usize <= PAYLOAD_MAX)
        .ok_or(StoreError::BadRequest("the payload is too long"))?;
    message[..Header::SIZE].copy_from_slice(
        &Header { kind: kind.0, req_id: request, tx_id: transaction, len: length }.to_bytes(),
    );
    Ok(message)
}

/// A payload that is one text. Its NUL may be missing.
///
/// # Errors
///
/// [`StoreError::BadReply`] if it is more than one, or not UTF-8.
pub fn text(payload: &[u8]) -> Result<&str, StoreError> {
    let text = payload.strip_suffix(&[0]).unwrap_or(payload);
    if text.contains(&0) {
        return Err(StoreError::BadReply("several texts instead of one"));
    }
    core::str::from_utf8(text).map_err(|_| StoreError::BadReply("a text that is not UTF-8"))
}

/// A payload that is a list of texts, each with its NUL.
///
/// # Errors
///
/// [`StoreError::BadReply`] if the last one is not ended, or one is not UTF-8.
pub fn texts(payload: &[u8]) -> Result<Vec<String>, StoreError> {
    if payload.is_empty() {
        return Ok(Vec::new());
    }
    let ended =
        payload.strip_suffix(&[0]).ok_or(StoreError::BadReply("a list whose last text is not ended"))?;
    ended.split(|byte| *byte == 0).map(|one| text(one).map(ToString::to_string)).collect()
}

/// One part of a long directory: the list's generation, the names as bytes, and whether these are the last.
///
/// # Errors
///
/// [`StoreError::BadReply`] if a part is missing or a name is not ended.
pub fn directory_part(payload: &[u8]) -> Result<(&[u8], &[u8], bool), StoreError> {
    let end = payload
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(StoreError::BadReply("a directory part without a generation"))?;
    let (generation, names) = (&payload[..end], &payload[end + 1..]);
    if names.last().is_some_and(|byte| *byte != 0) {
        return Err(StoreError::BadReply("a list whose last text is not ended"));
    }
    // An empty text ends the whole list: the names' bytes then end with two NULs, or are one NUL alone.
    match names {
        [] => Err(StoreError::BadReply("an empty directory part that is not the last")),
        [0] => Ok((generation, &[], true)),
        [rest @ .., 0] if rest.ends_with(&[0]) => Ok((generation, rest, true)),
        _ => Ok((generation, names, false)),
    }
}

/// What a watch event says: path and token.
///
/// # Errors
///
/// [`StoreError::BadReply`] if it is not exactly two texts.
pub fn watch_event(payload: &[u8]) -> Result<(String, String), StoreError> {
    let [path, token] = <[String; 2]>::try_from(texts(payload)?)
        .map_err(|_| StoreError::BadReply("a watch event that is not a path and a token"))?;
    Ok((path, token))
}

/// A number in decimal, such as a transaction's.
///
/// # Errors
///
/// [`StoreError::BadReply`] if it is none, or 0, or too large.
pub fn transaction_id(payload: &[u8]) -> Result<u32, StoreError> {
    text(payload)?
        .parse()
        .ok()
        .filter(|id| *id != 0)
        .ok_or(StoreError::BadReply("a transaction number that is none"))
}

/// The error that an [`Kind::ERROR`] message names.
#[must_use]
pub fn error(payload: &[u8]) -> StoreError {
    match text(payload) {
        Ok(name) => match Errno::from_name(name) {
            Some(errno) => StoreError::Refused(errno),
            None => StoreError::UnknownError(name.to_string()),
        },
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;

    #[test]
    fn a_write_is_a_path_with_and_a_value_without_nul() {
        let parts = [Part::Path("data/x"), Part::Value(b"17")];
        let message = request(Kind::WRITE, 3, 9, &parts).unwrap();
        assert_eq!(message, *b"\x0B\0\0\0\x03\0\0\0\x09\0\0\0\x09\0\0\0data/x\x0017");
    }

    #[test]
    fn requests_that_the_store_would_take_amiss_are_not_made() {
        let make = |parts: &[Part<'_>]| request(Kind::WRITE, 1, 0, parts).map(|_| ());
        let refused = |what| Err(StoreError::BadRequest(what));
        assert_eq!(make(&[Part::Path("")]), refused("an empty path"));
        assert_eq!(make(&[Part::Path("a\0b")]), refused("a NUL inside a text"));
        assert_eq!(make(&[Part::Text("a\0")]), refused("a NUL inside a text"));
        assert_eq!(make(&[Part::Path(&"x".repeat(2049))]), refused("the path is too long"));
        assert_eq!(
            make(&[Part::Path(&std::format!("/{}", "x".repeat(3072)))]),
            refused("the path is too long")
        );
        assert_eq!(make(&[Part::Path("a"), Part::Value(&[0; 4094])]), Ok(()));
        assert_eq!(make(&[Part::Path("a"), Part::Value(&[0; 4095])]), refused("the payload is too long"));
        assert_eq!(make(&[Part::Text("")]), Ok(()), "the single NUL of a transaction start");
    }

    #[test]
    fn lists() {
        assert_eq!(texts(b"").unwrap(), [""; 0]);
        assert_eq!(texts(b"a\0bc\0").unwrap(), ["a", "bc"]);
        assert_eq!(texts(b"\0").unwrap(), [""]);
        assert!(texts(b"a\0b").is_err());
        assert!(texts(b"\xFF\0").is_err());
        assert_eq!(text(b"/local/domain/3\0"), Ok("/local/domain/3"));
        assert_eq!(text(b"/local/domain/3"), Ok("/local/domain/3"));
        assert!(text(b"a\0b\0").is_err());
    }

    #[test]
    fn directory_parts() {
        assert_eq!(directory_part(b"12\0a\0b\0"), Ok((&b"12"[..], &b"a\0b\0"[..], false)));
        assert_eq!(directory_part(b"12\0a\0b\0\0"), Ok((&b"12"[..], &b"a\0b\0"[..], true)));
        assert_eq!(directory_part(b"12\0\0"), Ok((&b"12"[..], &b""[..], true)));
        for bad in [&b""[..], b"12", b"12\0", b"12\0a", b"12\0a\0b"] {
            assert!(directory_part(bad).is_err(), "{bad:?} would be asked for again and again");
        }
    }

    #[test]
    fn watch_events_are_exactly_two_texts() {
        assert_eq!(watch_event(b"a\0t\0"), Ok((String::from("a"), String::from("t"))));
        assert_eq!(watch_event(b"a\0\0"), Ok((String::from("a"), String::new())));
        for bad in [&b""[..], b"a\0", b"a\0t", b"a\0t\0u\0"] {
            assert!(watch_event(bad).is_err());
        }
    }

    #[test]
    fn transaction_numbers() {
        assert_eq!(transaction_id(b"7\0"), Ok(7));
        for bad in [&b"0\0"[..], b"\0", b"x\0", b"4294967296\0", b"-1\0"] {
            assert!(transaction_id(bad).is_err());
        }
    }

    #[test]
    fn errors_by_name() {
        for name in [
            "EINVAL",
            "EACCES",
            "EEXIST",
            "EISDIR",
            "ENOENT",
            "ENOMEM",
            "ENOSPC",
            "EIO",
            "ENOTEMPTY",
            "ENOSYS",
            "EROFS",
            "EBUSY",
            "EAGAIN",
            "EISCONN",
            "E2BIG",
            "EPERM",
        ] {
            let payload = std::format!("{name}\0");
            assert_eq!(error(payload.as_bytes()), StoreError::Refused(Errno::from_name(name).unwrap()));
        }
        assert_eq!(error(b"EWHAT\0"), StoreError::UnknownError(String::from("EWHAT")));
        assert!(matches!(error(b"\xFF\0"), StoreError::BadReply(_)));
    }

    proptest! {
        #[test]
        fn any_payload_is_survived(payload in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..64)) {
            let _ = (text(&payload), directory_part(&payload), watch_event(&payload), error(&payload));
            let _ = transaction_id(&payload);
            if let Ok(list) = texts(&payload) {
                let again: Vec<u8> =
                    list.iter().flat_map(|one| one.bytes().chain([0])).collect();
                prop_assert_eq!(again, payload);
            }
        }
    }
}
