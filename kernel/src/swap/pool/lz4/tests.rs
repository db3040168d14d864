//! Against `lz4_flex`, which everybody's LZ4 understands: each decodes what the other made.

use lz4_flex::block::{compress, decompress_into};
use proptest::prelude::*;
use std::boxed::Box;
use std::vec;
use std::vec::Vec;
use workload::corpus::Corpus;
use workload::random::Rng;

use super::*;
use crate::swap::Page;
use crate::units::FRAME_SIZE;

fn packer() -> Packer {
    Packer::new(Box::new([0; size_of::<Places>() / 2]))
}

/// A page comes back from our bytes through both decoders, and from the peer's bytes through ours.
fn goes_round(packer: &mut Packer, page: &Page) -> usize {
    let mut packed = [0xEE; 2 * FRAME_SIZE];
    let length = packer.pack(page, &mut packed).unwrap();
    for packed in [&packed[..length], &compress(page)] {
        let mut back = [0x55; FRAME_SIZE];
        assert_eq!(unpack(packed, &mut back), Ok(()));
        assert!(back == *page);
        back.fill(0xAA);
        assert_eq!(decompress_into(packed, &mut back).unwrap(), FRAME_SIZE);
        assert!(back == *page);
    }
    length
}

/// Pieces of all the ways in which bytes repeat.
fn patchwork(seed: u64) -> Page {
    let (mut rng, mut page, mut at) = (Rng::new(seed), [0; FRAME_SIZE], 0);
    while at < FRAME_SIZE {
        let mut up_to = |magnitude| {
            let most = 1 << rng.below(magnitude);
            1 + rng.below(most) as usize
        };
        let (length, distance) = (up_to(11).min(FRAME_SIZE - at), up_to(12));
        let random = rng.below(3) == 0 || distance > at;
        for place in at..at + length {
            page[place] = if random { rng.draw() as u8 } else { page[place - distance] };
        }
        at += length;
    }
    page
}

#[test]
fn pages_go_round_and_become_as_small_as_the_peers() {
    let mut packer = packer();
    for corpus in Corpus::COMPRESSIBLE {
        let (mut ours, mut peers) = (0, 0);
        for n in 0..300 {
            let page = corpus.page(n);
            ours += goes_round(&mut packer, &page);
            peers += compress(&page).len();
        }
        std::println!("{}: {ours} bytes, the peer {peers}", corpus.name());
        assert!(ours * 1000 <= peers * 1006, "{}: {ours} bytes, the peer {peers}", corpus.name());
    }
    for byte in [0, 1, 0xFF] {
        assert!(goes_round(&mut packer, &[byte; FRAME_SIZE]) < 30);
    }
    for seed in 0..3000 {
        goes_round(&mut packer, &patchwork(seed));
    }
}

#[test]
fn what_a_packer_remembers_of_a_page_does_not_reach_another() {
    let mut used = packer();
    for seed in 0..100 {
        let page = patchwork(seed);
        let (mut ours, mut fresh) = ([0; 2 * FRAME_SIZE], [0; 2 * FRAME_SIZE]);
        let lengths = (used.pack(&page, &mut ours), packer().pack(&page, &mut fresh));
        assert!(lengths.0 == lengths.1 && ours == fresh, "page {seed}");
        // What is given up half way is forgotten, too.
        assert_eq!(used.pack(&patchwork(!seed), &mut [0; 10]), None);
    }
}

#[test]
fn a_bound_is_kept_to_the_byte() {
    let mut packer = packer();
    for page in [Corpus::Text.page(1), Corpus::Random.page(1), [3; FRAME_SIZE], patchwork(7)] {
        let mut packed = [0; 2 * FRAME_SIZE];
        let length = packer.pack(&page, &mut packed).unwrap();
        for most in 0..length + 20 {
            let mut room = vec![0; most];
            let made = packer.pack(&page, &mut room);
            assert_eq!(made, (most >= length).then_some(length), "{most} bytes");
            assert!(made.is_none_or(|made| room[..made] == packed[..made]));
        }
    }
}

/// What the peer makes of bytes that ours made nothing of, or the other way round.
fn agree(packed: &[u8]) {
    let (mut ours, mut peers) = ([0x11; FRAME_SIZE], [0x11; FRAME_SIZE]);
    let made = unpack(packed, &mut ours);
    // The peer takes fewer bytes than a page for a page, and an empty input for nothing.
    let expected = decompress_into(packed, &mut peers).is_ok_and(|length| length == FRAME_SIZE);
    assert_eq!(made.is_ok(), expected, "{packed:?}");
    assert!(!expected || ours == peers);
}

#[test]
fn damaged_bytes_are_no_page_or_another_one_as_the_peer_says() {
    let mut rng = Rng::new(5);
    let mut packer = packer();
    for seed in 0..200 {
        let mut packed = [0; 2 * FRAME_SIZE];
        let length = packer.pack(&patchwork(seed), &mut packed).unwrap();
        for _ in 0..50 {
            let mut damaged = packed[..length].to_vec();
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(length as u64) as usize;
                damaged[at] ^= 1 << rng.below(8);
            }
            agree(&damaged);
            damaged.truncate(rng.below(length as u64) as usize);
            agree(&damaged);
        }
    }
}

#[test]
fn matches_that_reach_outside_are_refused() {
    let mut page = [0; FRAME_SIZE];
    let mut refused = |packed: &[u8]| assert_eq!(unpack(packed, &mut page), Err(Damaged), "{packed:?}");
    refused(&[]);
    refused(&[0x10, 1, 0, 0, 0x50, 1, 2, 3, 4, 5]); // no distance
    refused(&[0x10, 1, 2, 0, 0x50, 1, 2, 3, 4, 5]); // before the beginning
    refused(&[0x1F, 1, 1, 0]); // a length that does not end
    let mut long = vec![0x1F, 1, 1, 0];
    long.extend([255; 20]);
    refused(&long);
    long.push(0);
    refused(&long); // beyond the end
    refused(&[0xF0, 255]); // literals that are not there
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_as_the_peer_does(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        agree(&bytes);
    }

    #[test]
    fn any_page_goes_round(words in proptest::collection::vec(0_u64..4, 512), scale in any::<u64>()) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.wrapping_mul(scale).to_le_bytes()).collect();
        goes_round(&mut packer(), &bytes.try_into().unwrap());
    }
}
