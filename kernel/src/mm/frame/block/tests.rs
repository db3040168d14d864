//! Tests of one block's buddy system.

use super::super::tests::Random;
use super::*;
use std::vec::Vec;

fn whole() -> (Block, ByOrder) {
    let (mut block, mut tally) = (Block::new(), [0; ORDERS]);
    block.put(0, 9, false, &mut tally);
    (block, tally)
}

#[test]
fn the_bitmaps_fill_sixteen_words_without_overlap() {
    for order in 0..ORDERS {
        assert_eq!(base(order + 1) - base(order), FRAMES >> order);
    }
    assert!(base(ORDERS) <= 2 * WORDS * 64);
}

#[test]
fn a_frame_splits_a_block_once_and_returns_it_whole() {
    let (mut block, mut tally) = whole();
    assert_eq!(block.take(0, false, &mut tally), Some((0, false)));
    assert_eq!(tally, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    assert_eq!(block.largest(), Some(8));
    block.put(0, 0, false, &mut tally);
    assert_eq!(tally, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(block.free, 512);
}

#[test]
fn every_order_fills_the_block_exactly() {
    for order in 0..ORDERS {
        let (mut block, mut tally) = whole();
        let mut taken: Vec<usize> = Vec::new();
        while let Some((index, _)) = block.take(order, false, &mut tally) {
            assert!(index.is_multiple_of(1 << order));
            taken.push(index);
        }
        taken.sort_unstable();
        assert!(taken.iter().enumerate().all(|(i, &index)| index == i << order), "order {order}");
        assert_eq!((taken.len(), block.free, tally), (FRAMES >> order, 0, [0; ORDERS]));
        for &index in taken.iter().rev() {
            block.put(index, order, false, &mut tally);
        }
        assert_eq!((block.largest(), block.free), (Some(9), 512));
    }
}

#[test]
fn zero_is_known_frame_by_frame() {
    let (mut block, mut tally) = whole();
    let (a, _) = block.take(0, false, &mut tally).unwrap();
    let (b, _) = block.take(0, false, &mut tally).unwrap();
    block.put(a, 0, true, &mut tally);
    assert_eq!(block.zero, 1);
    assert_eq!(block.take(0, true, &mut tally), Some((a, true)), "the zero frame is preferred");
    assert_eq!(block.zero, 0);
    block.put(a, 0, true, &mut tally);
    block.put(b, 0, false, &mut tally);
    assert_eq!(block.take(1, true, &mut tally), Some((0, false)), "half zero is not zero");
    assert_eq!(block.zero, 0, "frames that are out are not known");
    block.put(0, 1, true, &mut tally);
    assert_eq!(block.zero, 2);
    let (all, zero) = block.take(9, true, &mut tally).unwrap();
    assert_eq!((all, zero, block.zero), (0, false, 0));
    block.put(0, 9, true, &mut tally);
    assert_eq!(block.take(9, false, &mut tally), Some((0, true)));
}

#[test]
fn a_dirty_frame_is_preferred_where_zero_is_not_needed() {
    let (mut block, mut tally) = (Block::new(), [0; ORDERS]);
    block.put(10, 0, true, &mut tally);
    block.put(12, 0, false, &mut tally);
    assert_eq!(block.take(0, false, &mut tally), Some((12, false)));
    assert_eq!(block.take(0, false, &mut tally), Some((10, true)));
    assert_eq!(block.take(0, false, &mut tally), None);
}

#[test]
fn deposits_are_remembered_by_frame() {
    let mut block = Block::new();
    block.deposit(64, 7);
    block.deposit(3, 0);
    assert_eq!((block.deposited, block.first_deposited()), (129, Some(3)));
    block.withdraw(3, 0);
    block.withdraw(64, 0);
    assert_eq!((block.deposited, block.first_deposited()), (127, Some(65)));
    assert!(block.is_deposited(191) && !block.is_deposited(192));
}

#[test]
fn many_frames_at_once_are_the_same_as_one_by_one() {
    for most in [1, 3, 32, 100, 512, 600] {
        let ((mut one, mut tally), (mut many, mut other)) = (whole(), whole());
        for (block, tally) in [(&mut one, &mut tally), (&mut many, &mut other)] {
            // Something to begin with: three frames out, one of them back.
            let frames = [(); 3].map(|()| block.take(0, false, tally).unwrap().0);
            block.put(frames[1], 0, false, tally);
        }
        let mut seen = Vec::new();
        let taken = many.take_frames(most, false, &mut other, |run, zero| {
            seen.extend(run.map(|frame| (frame, zero)));
        });
        let single: Vec<_> = (0..most).map_while(|_| one.take(0, false, &mut tally)).collect();
        assert_eq!((usize::from(taken), &seen), (single.len(), &single), "{most}");
        assert_eq!((many.recount(), other), (one.recount(), tally));
    }
}

#[test]
fn many_frames_are_freed_at_once_as_one_by_one() {
    let mut generator = Random::new(1);
    let mut random = || generator.next();
    for round in 0..200 {
        let mut held: FrameSet = [u64::MAX; WORDS];
        let ((mut one, mut tally), (mut many, mut other)) = (whole(), whole());
        for (block, tally) in [(&mut one, &mut tally), (&mut many, &mut other)] {
            assert_eq!(block.take(9, false, tally), Some((0, false)));
        }
        while held != [0; WORDS] {
            let mut some: FrameSet = held;
            for mask in &mut some {
                // Few, half, most or all of what is held.
                *mask &= [random() & random() & random(), random(), random() | random(), u64::MAX][round % 4];
                *mask &= if random() % 3 == 0 { 0 } else { u64::MAX };
            }
            let zero = random() % 2 == 0;
            many.put_frames(&some, zero, &mut other);
            for frame in (0..FRAMES).filter(|&frame| some[frame / 64] >> (frame % 64) & 1 != 0) {
                one.put(frame, 0, zero, &mut tally);
            }
            held.iter_mut().zip(some).for_each(|(held, some)| *held &= !some);
            assert_eq!((many.free_map, many.zero_map, other), (one.free_map, one.zero_map, tally));
            assert_eq!(
                (many.counts, many.orders, many.free, many.zero),
                (one.counts, one.orders, one.free, one.zero)
            );
        }
        assert_eq!(many.largest(), Some(9));
    }
}

#[test]
fn every_second_bit_is_moved_together() {
    for bit in 0..32 {
        assert_eq!(halves(1 << (2 * bit)), 1 << bit);
    }
    assert_eq!(halves(EVEN), 0xFFFF_FFFF);
}

#[test]
fn recounting_finds_what_was_counted() {
    let (mut block, mut tally) = whole();
    for order in [0, 3, 5, 0, 1] {
        let _ = block.take(order, false, &mut tally);
    }
    let (by_order, zero, deposited) = block.recount();
    assert_eq!((by_order, zero, deposited), (tally, 0, 0));
    assert!(block.counts_agree(&by_order));
    block.counts[0] += 1;
    assert!(!block.counts_agree(&by_order));
}
