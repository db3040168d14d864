//! The console's other direction: what a person types.

use crate::{domain_of, ensure};
use alloc::format;
use alloc::vec::Vec;
use ebb::port::Clock;
use ebb_boot::{case, report};

/// What the harness types.
const TYPED: &[u8] = b"hello, domU\n";
/// How long it may take.
const BOUND_NS: u64 = 180_000_000_000;

case!(on Xen, with help: "console.what_is_typed_is_read", |machine| {
    let domain = domain_of(machine)?;
    report("help", &[("with", &"type")]);
    let deadline_ns = domain.clock().now_ns() + BOUND_NS;
    let mut heard = Vec::new();
    while heard.len() < TYPED.len() && domain.clock().now_ns() < deadline_ns {
        let mut buffer = [0; 64];
        let count = domain.read_console(&mut buffer);
        heard.extend_from_slice(&buffer[..count]);
    }
    ensure(heard == TYPED, &format!("heard \"{}\"", heard.escape_ascii()))
});
