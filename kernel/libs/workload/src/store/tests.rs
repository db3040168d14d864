//! The store notices every kind of wrong data, once, and goes on.

use super::*;
use allocator_api2::alloc::Global;

fn filled(values: Values) -> Store<Global> {
    let mut store = Store::new(values, 1, Global);
    let mut rng = Rng::new(1);
    for _ in 0..200 {
        assert_eq!(store.insert(draw_words(&mut rng)), Ok(None));
    }
    store
}

fn clean(store: &mut Store<Global>) {
    for item in 0..store.items() + 100 {
        assert_eq!(store.read(item), None, "item {item}");
    }
    assert_eq!(store.audit(), None);
    assert_eq!(store.bytes(), store.map.values().map(|value| value.len() as u64 * 8).sum::<u64>());
}

#[test]
fn what_is_written_is_read() {
    for values in [Values::Compressible, Values::ZeroHeavy, Values::Random] {
        let mut store = filled(values);
        clean(&mut store);
        for item in 0..200 {
            store.rewrite(item);
            assert_eq!(store.version(item), 1);
        }
        clean(&mut store);
        for item in 0..200 {
            store.replace(item, 8 + item).unwrap();
            assert_eq!(store.version(item), 2);
        }
        clean(&mut store);
        for _ in 0..150 {
            assert_eq!(store.remove_last(), None);
        }
        assert_eq!(store.items(), 50);
        clean(&mut store);
        assert_eq!(store.insert(8), Ok(None));
        assert_eq!(store.version(50), 3, "an item that comes back continues its versions");
        clean(&mut store);
        while store.items() > 0 {
            assert_eq!(store.remove_last(), None);
        }
        assert_eq!((store.bytes(), store.map.capacity(), store.remove_last()), (0, 0, None));
        clean(&mut store);
    }
}

#[test]
fn operations_on_absent_items_do_nothing() {
    let mut store = filled(Values::Random);
    store.rewrite(200);
    store.replace(u32::MAX, 8).unwrap();
    clean(&mut store);
}

#[test]
fn a_flipped_bit_is_found_named_and_counted_once() {
    let mut store = filled(Values::Compressible);
    let key = store.key(17);
    let value = store.map.get_mut(&key).unwrap();
    let at = value.len() - 1;
    value[at] ^= 1 << 40;
    let (expected, found) = (value[at] ^ 1 << 40, value[at]);
    let mismatch = Mismatch { fault: Fault::Content, item: 17, version: 0, word: at as u64, expected, found };
    assert_eq!(store.read(17), Some(mismatch));
    clean(&mut store);
}

#[test]
fn an_older_version_and_anothers_value_are_found() {
    let mut store = filled(Values::Compressible);
    let (key, other) = (store.key(3), store.key(4));
    let old = store.map[&key].clone();
    store.rewrite(3);
    store.map.insert(key, old);
    assert_eq!(store.read(3).unwrap().fault, Fault::Content);
    clean(&mut store);

    store.replace(3, 100).unwrap();
    store.replace(4, 100).unwrap();
    let wrong = store.map[&other].clone();
    store.map.insert(key, wrong);
    assert_eq!(store.read(3).unwrap().word, 0);
    clean(&mut store);
}

#[test]
fn a_lost_a_resurrected_and_a_cut_value_are_found() {
    let mut store = filled(Values::Compressible);
    let key = store.key(3);
    store.map.remove(&key);
    assert_eq!(store.read(3).unwrap().fault, Fault::Missing);
    clean(&mut store);

    store.map.get_mut(&key).unwrap().truncate(5);
    assert_eq!(store.read(3).unwrap().fault, Fault::Length);
    clean(&mut store);

    let (key, value) = (store.key(199), store.map[&store.key(199)].clone());
    assert_eq!(store.remove_last(), None);
    store.map.insert(key, value.clone());
    assert_eq!(store.audit().unwrap().fault, Fault::Ledger);
    assert_eq!(store.read(199).unwrap().fault, Fault::Unexpected);
    clean(&mut store);
    store.map.insert(key, value);
    assert_eq!(store.insert(9).unwrap().unwrap().fault, Fault::Unexpected);
    clean(&mut store);
}

#[test]
fn a_corrupt_ledger_is_found_even_after_its_slot_was_overwritten() {
    let mut store = filled(Values::Compressible);
    store.ledger[9].version ^= 1;
    store.rewrite(9);
    assert_eq!(store.read(9), None);
    let mismatch = store.audit().unwrap();
    assert_eq!(mismatch.fault, Fault::Ledger);
    assert_ne!(mismatch.expected, mismatch.found);
    assert_eq!(store.audit(), None);
}

#[test]
fn a_value_that_was_corrupted_is_found_when_it_is_deleted() {
    let mut store = filled(Values::Random);
    let key = store.key(199);
    store.map.get_mut(&key).unwrap()[0] ^= 1;
    assert_eq!(store.remove_last().unwrap().fault, Fault::Content);
}

#[test]
fn sizes_are_log_uniform() {
    let mut rng = Rng::new(2);
    let (mut octaves, mut total) = ([0u32; 8], 0u64);
    for _ in 0..80_000 {
        let words = draw_words(&mut rng);
        assert!((8..=MAX_VALUE_WORDS).contains(&words), "{words}");
        octaves[(words / 8).ilog2().min(7) as usize] += 1;
        total += u64::from(words) * 8;
    }
    assert!(octaves.iter().all(|count| (9_300..10_700).contains(count)), "{octaves:?}");
    assert!((2_850..3_050).contains(&(total / 80_000)), "{} bytes on average", total / 80_000);
}

#[test]
fn the_number_of_items_is_bounded() {
    let mut store = filled(Values::Random);
    store.items = u32::MAX;
    assert_eq!(store.insert(8), Err(AllocError));
}
