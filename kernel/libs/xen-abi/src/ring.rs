//! The pages shared with dom0's console daemon and with xenstored, and xenstored's messages.
//!
//! Ring indices run freely modulo 2^32; the slot is the index modulo the ring's size. The other side writes
//! these pages at any time, so offsets are given and not structures.
//!
//! Source: Xen `xen/include/public/io/console.h` and `xen/include/public/io/xs_wire.h`. `xen-sys` binds neither.

/// The console page.
pub mod console {
    /// Bytes from the host to the guest.
    pub const IN: usize = 0;
    /// Size of that ring in bytes.
    pub const IN_SIZE: usize = 1024;
    /// Bytes from the guest to the host.
    pub const OUT: usize = 1024;
    /// Size of that ring in bytes.
    pub const OUT_SIZE: usize = 2048;
    /// `u32`, written by the guest.
    pub const IN_CONS: usize = 3072;
    /// `u32`, written by the host.
    pub const IN_PROD: usize = 3076;
    /// `u32`, written by the host.
    pub const OUT_CONS: usize = 3080;
    /// `u32`, written by the guest.
    pub const OUT_PROD: usize = 3084;

    const _: () = assert!(OUT == IN + IN_SIZE && IN_CONS == OUT + OUT_SIZE, "rings, then indices");
}

/// The xenstore page and its messages.
pub mod store {
    /// Bytes from the guest to xenstored.
    pub const REQ: usize = 0;
    /// Bytes from xenstored to the guest.
    pub const RSP: usize = 1024;
    /// Size of each ring in bytes.
    pub const RING_SIZE: usize = 1024;
    /// `u32`, written by xenstored.
    pub const REQ_CONS: usize = 2048;
    /// `u32`, written by the guest.
    pub const REQ_PROD: usize = 2052;
    /// `u32`, written by the guest.
    pub const RSP_CONS: usize = 2056;
    /// `u32`, written by xenstored.
    pub const RSP_PROD: usize = 2060;
    /// `u32`: bit 0, the connection can be reset; bit 1, errors are reported.
    pub const SERVER_FEATURES: usize = 2064;
    /// `u32`: 0 connected, 1 a reset is in progress.
    pub const CONNECTION: usize = 2068;
    /// `u32`: 0 none, 1 communication, 2 a bad ring index, 3 a protocol violation.
    pub const ERROR: usize = 2072;

    const _: () = assert!(RSP == REQ + RING_SIZE && REQ_CONS == RSP + RING_SIZE, "rings, then indices");

    /// The most payload bytes in one message.
    pub const PAYLOAD_MAX: usize = 4096;

    /// What precedes every payload: `xsd_sockmsg`, all little endian.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[repr(C)]
    pub struct Header {
        /// One of the message types.
        pub kind: u32,
        /// Chosen by the guest, echoed in the reply.
        pub req_id: u32,
        /// The transaction, or 0.
        pub tx_id: u32,
        /// Bytes of payload that follow.
        pub len: u32,
    }

    impl Header {
        /// Bytes on the ring.
        pub const SIZE: usize = 16;

        /// As it stands on the ring.
        #[must_use]
        pub fn to_bytes(self) -> [u8; Self::SIZE] {
            let mut bytes = [0; Self::SIZE];
            for (chunk, word) in bytes.chunks_exact_mut(4).zip([self.kind, self.req_id, self.tx_id, self.len])
            {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
            bytes
        }

        /// From the ring. Any bytes are a header; whether `len` is allowed is the reader's to check.
        #[must_use]
        pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
            let [k0, k1, k2, k3, r0, r1, r2, r3, t0, t1, t2, t3, l0, l1, l2, l3] = *bytes;
            Self {
                kind: u32::from_le_bytes([k0, k1, k2, k3]),
                req_id: u32::from_le_bytes([r0, r1, r2, r3]),
                tx_id: u32::from_le_bytes([t0, t1, t2, t3]),
                len: u32::from_le_bytes([l0, l1, l2, l3]),
            }
        }
    }

    crate::layout!(Header: 16 { kind @ 0, req_id @ 4, tx_id @ 8, len @ 12 });

    /// List a node's children.
    pub const DIRECTORY: u32 = 1;
    /// Read a node.
    pub const READ: u32 = 2;
    /// Read a node's permissions.
    pub const GET_PERMS: u32 = 3;
    /// Watch a node and what is below it.
    pub const WATCH: u32 = 4;
    /// Stop a watch.
    pub const UNWATCH: u32 = 5;
    /// Begin a transaction.
    pub const TRANSACTION_START: u32 = 6;
    /// End a transaction: `T` commits, `F` aborts.
    pub const TRANSACTION_END: u32 = 7;
    /// The path of a domain.
    pub const GET_DOMAIN_PATH: u32 = 10;
    /// Write a node.
    pub const WRITE: u32 = 11;
    /// Make an empty node.
    pub const MKDIR: u32 = 12;
    /// Remove a node and what is below it.
    pub const RM: u32 = 13;
    /// Write a node's permissions.
    pub const SET_PERMS: u32 = 14;
    /// From xenstored: a watch fired.
    pub const WATCH_EVENT: u32 = 15;
    /// From xenstored: the name of an error.
    pub const ERROR_REPLY: u32 = 16;
    /// Drop all watches and transactions of this domain.
    pub const RESET_WATCHES: u32 = 21;
    /// List a node's children in parts.
    pub const DIRECTORY_PART: u32 = 22;

    #[cfg(test)]
    mod tests {
        use super::{Header, READ};

        #[test]
        fn a_header_survives_the_ring() {
            let header = Header { kind: READ, req_id: 0x0102_0304, tx_id: 7, len: 4096 };
            let bytes = header.to_bytes();
            assert_eq!(&bytes[..8], &[2, 0, 0, 0, 4, 3, 2, 1]);
            assert_eq!(Header::from_bytes(&bytes), header);
        }
    }
}
