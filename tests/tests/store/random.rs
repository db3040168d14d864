//! Any sequence of requests, and any garbage.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

#[test]
fn quotas_are_refusals() {
    let machine = Machine::new();
    let mut store = client(&machine);
    for number in 0..128 {
        store.watch("data", &number.to_string()).unwrap();
    }
    assert_eq!(store.watch("data", "one more"), refused(Errno::E2BIG));
}

/// What a guest does to its nodes.
#[derive(Clone, Debug)]
enum Action {
    Write(u8, Vec<u8>),
    Remove(u8),
    Read(u8),
    List,
    Outside(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0..5u8, prop::collection::vec(any::<u8>(), 0..1500))
            .prop_map(|(key, value)| Action::Write(key, value)),
        (0..5u8).prop_map(Action::Remove),
        (0..5u8).prop_map(Action::Read),
        Just(Action::List),
        any::<u8>().prop_map(Action::Outside),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_chunks_and_delays_carry_the_same(
        actions in prop::collection::vec(action(), 0..20),
        chunk in 1..1500usize,
        delay in 0..4u32,
        start in any::<u32>(),
    ) {
        let machine = Machine::new();
        for offset in [2048, 2052, 2056, 2060] {
            machine.store_page.u32(offset).store(start, Ordering::Release);
        }
        machine.store.borrow_mut().behaviour(GUEST).chunk = chunk;
        machine.store.borrow_mut().behaviour(GUEST).delay = delay;
        let mut store = client(&machine);
        store.watch("memory", "m").unwrap();
        let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Write(key, value) => {
                    store.write(&format!("data/{key}"), &value).unwrap();
                    expected.insert(key.to_string(), value);
                }
                Action::Remove(key) => {
                    store.rm(&format!("data/{key}")).unwrap();
                    expected.remove(&key.to_string());
                }
                Action::Read(key) => {
                    let value = store.read(&format!("data/{key}"));
                    let known = expected.get(&key.to_string()).cloned();
                    prop_assert_eq!(value, known.ok_or(StoreError::Refused(Errno::ENOENT)));
                }
                Action::List => {
                    let names: Vec<String> = expected.keys().cloned().collect();
                    prop_assert_eq!(store.directory("data").unwrap(), names);
                }
                Action::Outside(value) => {
                    machine.store.borrow_mut().set(&format!("{HOME}/memory/target"), &value.to_string());
                }
            }
        }
        prop_assert_eq!(store.skipped(), 0);
    }

    #[test]
    fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), small in any::<bool>()) {
        let machine = Machine::new();
        let mut store = client(&machine);
        store.set_timeout_ns(100_000_000);
        let mut bytes = bytes;
        if small {
            // Lengths that are possible, so that the stream goes on.
            for at in (12..bytes.len().saturating_sub(4)).step_by(16) {
                bytes[at + 1..at + 4].fill(0);
            }
        }
        machine.store.borrow_mut().inject(GUEST, &bytes);
        // Whatever it says, it says within its time, and a new connection works.
        for _ in 0..3 {
            let _ = store.read("domid");
        }
        store.reconnect().unwrap();
        store.set_timeout_ns(1_000_000_000);
        prop_assert_eq!(store.read_text("domid"), Ok("7".to_string()));
    }
}
