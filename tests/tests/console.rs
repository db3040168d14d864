//! The console ring against the daemon's model, through the bytes of the ring.

use ebb::port::Clock;
use ebb::xen::console::{Console, ConsoleError};
use ebb_tests::dom0::{CONSOLE_PORT, Machine};
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use xen_abi::Errno;

const SECOND_NS: u64 = 1_000_000_000;

fn console(machine: &Machine) -> Console<&Machine> {
    Console::new(machine.console_page, CONSOLE_PORT, machine)
}

fn set(machine: &Machine, offset: usize, value: u32) {
    machine.console_page.u32(offset).store(value, Ordering::Release);
}

#[test]
fn lines_end_as_terminals_want_them() {
    let machine = Machine::new();
    let mut console = console(&machine);
    assert_eq!(console.write(b"one\ntwo\r"), Ok(8));
    assert_eq!(console.write(b"\n\n"), Ok(2));
    machine.step();
    assert_eq!(machine.console.borrow().log(), "one\r\ntwo\r\n\r\n");
}

#[test]
fn one_write_is_one_event() {
    let machine = Machine::new();
    let mut console = console(&machine);
    console.write(&[b'x'; 1500]).unwrap();
    assert_eq!(machine.sent(), 1);
    console.write(b"").unwrap();
    assert_eq!(machine.sent(), 1, "nothing to tell");
}

#[test]
fn a_full_ring_takes_what_fits() {
    let machine = Machine::new();
    let mut console = console(&machine);
    assert_eq!(console.write(&[b'x'; 3000]), Ok(2048));
    assert_eq!(console.write(b"y"), Ok(0));
    assert_eq!(machine.sent(), 1);
    machine.step();
    assert_eq!(console.write(&[b'x'; 2047]), Ok(2047));
    assert_eq!(console.write(b"\n"), Ok(0), "two bytes do not fit into one");
}

#[test]
fn long_text_waits_for_room() {
    let machine = Machine::new();
    machine.console.borrow_mut().chunk = 100;
    let mut console = console(&machine);
    let text: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    console.write_all(text.as_bytes(), SECOND_NS).unwrap();
    assert_eq!(console.drain(SECOND_NS), Ok(true));
    assert_eq!(machine.console.borrow().log(), text.replace('\n', "\r\n"));
    assert_eq!(console.dropped(), 0);
}

#[test]
fn a_console_that_nobody_reads_costs_one_wait() {
    let machine = Machine::new();
    machine.console.borrow_mut().attached = false;
    let mut console = console(&machine);
    console.write_all(&[b'x'; 3000], machine.now_ns() + SECOND_NS).unwrap();
    assert_eq!(machine.now_ns(), SECOND_NS);
    assert_eq!(console.dropped(), 3000 - 2048);
    console.write_all(b"more\n", machine.now_ns() + SECOND_NS).unwrap();
    assert_eq!(machine.now_ns(), SECOND_NS, "no second wait");
    assert_eq!(console.drain(machine.now_ns() + SECOND_NS), Ok(false));
    assert_eq!(machine.now_ns(), 2 * SECOND_NS);

    machine.console.borrow_mut().attached = true;
    machine.step();
    console.write_all(b"back\n", machine.now_ns() + SECOND_NS).unwrap();
    console.write_all(b"again\n", machine.now_ns() + SECOND_NS).unwrap();
    machine.step();
    let log = machine.console.borrow().log();
    let notice = "\r\n[console: 957 bytes were dropped, nobody read them]\r\nback\r\nagain\r\n";
    assert!(log.ends_with(&format!("x{notice}")), "{log}");
    assert_eq!(console.dropped(), 957);
}

#[test]
fn once_read_again_it_waits_again() {
    let machine = Machine::new();
    machine.console.borrow_mut().attached = false;
    let mut console = console(&machine);
    console.write_all(&[b'x'; 3000], SECOND_NS).unwrap();
    machine.console.borrow_mut().attached = true;
    machine.step();
    let before = console.dropped();
    console.write_all(&[b'y'; 5000], machine.now_ns() + SECOND_NS).unwrap();
    assert_eq!(console.dropped(), before);
}

#[test]
fn input_is_read_as_it_comes() {
    let machine = Machine::new();
    let mut console = console(&machine);
    let mut bytes = [0; 16];
    assert_eq!(console.read(&mut bytes), Ok(0));
    assert_eq!(machine.sent(), 0);
    machine.console.borrow_mut().type_in("hello, world");
    machine.step();
    assert_eq!(console.read(&mut bytes[..5]), Ok(5));
    assert_eq!(console.read(&mut bytes[5..]), Ok(7));
    assert_eq!(&bytes[..12], b"hello, world");
    assert_eq!(machine.sent(), 2);
    // More than the ring holds comes in pieces.
    machine.console.borrow_mut().type_in(&"z".repeat(3000));
    let mut total = 0;
    while total < 3000 {
        machine.step();
        total += console.read(&mut [0; 4096]).unwrap();
    }
    assert_eq!(total, 3000);
}

#[test]
fn indices_start_where_they_are() {
    let machine = Machine::new();
    for offset in [3072, 3076, 3080, 3084] {
        set(&machine, offset, u32::MAX - 3);
    }
    let mut console = console(&machine);
    console.write_all(b"across the end\n", SECOND_NS).unwrap();
    machine.console.borrow_mut().type_in("and back");
    machine.step();
    assert_eq!(machine.console.borrow().log(), "across the end\r\n");
    let mut bytes = [0; 8];
    assert_eq!(console.read(&mut bytes), Ok(8));
    assert_eq!(&bytes, b"and back");
}

#[test]
fn a_corrupt_output_ring_is_not_used_any_more() {
    let machine = Machine::new();
    let mut console = console(&machine);
    set(&machine, 3080, 1);
    let error = ConsoleError::Corrupt { ring: "output", prod: 0, cons: 1 };
    assert_eq!(console.write(b"x"), Err(error));
    set(&machine, 3080, 0);
    assert_eq!(console.write_all(b"x", SECOND_NS), Err(error));
    assert_eq!(console.read(&mut [0; 1]), Err(error));
    assert_eq!(console.drain(SECOND_NS), Err(error));
    assert_eq!(error.to_string(), "console output ring is corrupt: producer 0x0, consumer 0x1");
}

#[test]
fn a_corrupt_input_ring_is_not_used_any_more() {
    let machine = Machine::new();
    let mut console = console(&machine);
    set(&machine, 3076, 1025);
    let error = ConsoleError::Corrupt { ring: "input", prod: 1025, cons: 0 };
    assert_eq!(console.read(&mut [0; 1]), Err(error));
    set(&machine, 3076, 0);
    assert_eq!(console.write(b"x"), Err(error));
}

#[test]
fn a_port_that_cannot_send_is_an_error() {
    let machine = Machine::new();
    let mut console = console(&machine);
    machine.refuse_sends(Some(Errno::EINVAL));
    assert_eq!(console.write(b"x"), Err(ConsoleError::Notify(Errno::EINVAL)));
    machine.refuse_sends(None);
    assert_eq!(console.write(b"x"), Err(ConsoleError::Notify(Errno::EINVAL)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn text_arrives_whole_and_in_order(
        texts in prop::collection::vec("[ -~\n]{0,900}", 0..12),
        chunk in 1..2000usize,
        start in any::<u32>(),
    ) {
        let machine = Machine::new();
        set(&machine, 3080, start);
        set(&machine, 3084, start);
        machine.console.borrow_mut().chunk = chunk;
        let mut console = console(&machine);
        for text in &texts {
            console.write_all(text.as_bytes(), u64::MAX).unwrap();
        }
        prop_assert_eq!(console.drain(u64::MAX), Ok(true));
        prop_assert_eq!(machine.console.borrow().log(), texts.concat().replace('\n', "\r\n"));
    }

    #[test]
    fn no_index_makes_it_panic(indices in any::<[u32; 4]>(), later in any::<[u32; 4]>()) {
        let machine = Machine::new();
        for (slot, index) in indices.iter().enumerate() {
            set(&machine, 3072 + 4 * slot, *index);
        }
        let mut console = console(&machine);
        let _ = console.write(b"text\n");
        let _ = console.read(&mut [0; 2000]);
        for (slot, index) in later.iter().enumerate() {
            set(&machine, 3072 + 4 * slot, *index);
        }
        let _ = console.write_all(&[b'x'; 5000], SECOND_NS);
        let _ = console.read(&mut [0; 2000]);
        let _ = console.drain(2 * SECOND_NS);
    }
}
