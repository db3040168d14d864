//! What dom0 tells of the host's memory, as lines of text: the one definition for the program in dom0, which writes
//! them, and for `xtask`, which reads them.
//!
//! ```text
//! host-memory 1 seq=7 at_ns=3500120000 free_kib=81920 domains=1:262212/263168,2:65540/263168 end
//! ```
//!
//! The number behind the name is the format's. `seq` counts from 0, so that a lost line is noticed; the stream is
//! reliable and needs no checksum. A domain is written as number, KiB that it has, and KiB that it may have.

mod sample;

pub use sample::{Domain, ParseError, Sample};
