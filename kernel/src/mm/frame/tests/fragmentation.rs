//! How many whole blocks survive a long run of mixed lifetimes, beside `buddy_system_allocator` on the same trace.

use super::*;
use buddy_system_allocator::FrameAllocator as Peer;
use std::collections::BTreeMap;
use std::println;

const BLOCKS: u64 = 256;

/// One step of a trace: allocate an object, or free one by its number.
enum Step {
    Alloc { id: usize, order: u8, usage: Use },
    Free { id: usize },
}

/// What kind of guest a trace is.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    /// One allocation in this many is pinned; 0 is none.
    pinned_one_in: u64,
    /// Of the pinned, one in this many lasts until the end.
    lasting_pinned: u64,
    /// Of the movable, one in this many lasts until the end.
    lasting_movable: u64,
}

/// Mixed lifetimes while the load swings between 30 % and 70 % of memory; then all that does not last goes away, in
/// random order: a guest after its peak.
fn trace(load: Load, seed: u64, steps: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    let (mut trace, mut live, mut frames, mut id) = (Vec::new(), Vec::new(), 0, 0);
    let peak = BLOCKS * 512 * 7 / 10;
    for step in 0..steps {
        let swing = peak * (3 + (step as u64 * 16 / steps as u64) % 5) / 7;
        if frames < swing {
            let pinned = load.pinned_one_in > 0 && random.below(load.pinned_one_in) == 0;
            let (usage, one_in) =
                if pinned { (Use::Kernel, load.lasting_pinned) } else { (Use::Paged, load.lasting_movable) };
            let order = match random.below(16) {
                0 => 1 + random.below(4) as u8,
                _ => 0,
            };
            trace.push(Step::Alloc { id, order, usage });
            let lasting = one_in > 0 && random.below(one_in) == 0;
            live.push((id, 1 << order, lasting));
            frames += 1 << order;
            id += 1;
        } else {
            let at = random.below(live.len() as u64) as usize;
            if !live[at].2 {
                let (id, size, _) = live.swap_remove(at);
                frames -= size;
                trace.push(Step::Free { id });
            }
        }
    }
    while let Some(at) = (!live.is_empty()).then(|| random.below(live.len() as u64) as usize) {
        let (id, _, lasting) = live.swap_remove(at);
        if !lasting {
            trace.push(Step::Free { id });
        }
    }
    trace
}

/// Whole free blocks at the end, and blocks that hold nothing but movable frames, which migration could empty.
struct Outcome {
    whole: u64,
    movable_only: u64,
}

fn ours(trace: &[Step], cpus: usize) -> Outcome {
    let mut memory = Memory::of_blocks(BLOCKS, cpus);
    let frames = memory.allocator();
    let mut held = BTreeMap::new();
    for step in trace {
        match *step {
            Step::Alloc { id, order, usage } => {
                let request = Request::new(usage, CPU).order(super::order(order));
                held.insert(id, frames.alloc(request).unwrap());
            }
            Step::Free { id } => {
                let extent = held.remove(&id).unwrap();
                frames.free(extent, Contents::Unknown, CPU).unwrap();
            }
        }
    }
    frames.drain(CPU);
    frames.validate().unwrap();
    let whole = frames.stats().whole_blocks;
    let nothing = SparseBlock { first: Gfn::new(0), movable: Frames::ZERO };
    let mut found = std::vec![nothing; BLOCKS as usize];
    let movable_only = frames.emptiest_blocks(Frames::new(512), &mut found) as u64;
    for extent in held.into_values() {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    Outcome { whole, movable_only }
}

fn theirs(trace: &[Step]) -> Outcome {
    let mut peer = Peer::<33>::new();
    peer.add_frame(0, (BLOCKS * 512) as usize);
    let mut held = BTreeMap::new();
    for step in trace {
        match *step {
            Step::Alloc { id, order, usage } => {
                held.insert(id, (peer.alloc(1 << order).unwrap(), order, usage));
            }
            Step::Free { id } => {
                let (first, order, _) = held.remove(&id).unwrap();
                peer.dealloc(first, 1 << order);
            }
        }
    }
    let mut blocks = std::vec![(0, 0); BLOCKS as usize];
    for (first, _, usage) in held.into_values() {
        let (all, pinned) = &mut blocks[first / 512];
        *all += 1;
        *pinned += usize::from(usage == Use::Kernel);
    }
    let whole = blocks.iter().filter(|(all, _)| *all == 0).count() as u64;
    let movable_only = blocks.iter().filter(|(all, pinned)| *all > 0 && *pinned == 0).count() as u64;
    Outcome { whole, movable_only }
}

const LOADS: [Load; 4] = [
    Load { name: "one class", pinned_one_in: 0, lasting_pinned: 0, lasting_movable: 64 },
    Load { name: "pinned outlive movable", pinned_one_in: 8, lasting_pinned: 4, lasting_movable: 0 },
    Load { name: "few pinned", pinned_one_in: 32, lasting_pinned: 4, lasting_movable: 4096 },
    // Here grouping has its price: pinned frames open blocks of their own, while the peer puts them into the holes
    // between movable ones. Fewer blocks are whole at once, and more than ten times as many can be emptied.
    Load { name: "both last", pinned_one_in: 8, lasting_pinned: 4, lasting_movable: 64 },
];

#[test]
fn more_whole_blocks_survive_than_with_the_peer() {
    for (i, load) in LOADS.into_iter().enumerate() {
        let trace = trace(load, i as u64 + 1, 300_000);
        let (alone, cached, peer) = (ours(&trace, 0), ours(&trace, 1), theirs(&trace));
        println!(
            "{}: {} steps, {BLOCKS} blocks; whole {} ({} with a magazine), peer {}; movable only {} ({}), peer {}",
            load.name,
            trace.len(),
            alone.whole,
            cached.whole,
            peer.whole,
            alone.movable_only,
            cached.movable_only,
            peer.movable_only
        );
        for mine in [&alone, &cached] {
            let (mine, peer_all) =
                ((mine.whole, mine.whole + mine.movable_only), peer.whole + peer.movable_only);
            assert!(mine.1 >= peer_all, "{}: whole or to be emptied by migration", load.name);
            assert!(mine.0 >= peer.whole || load.name == "both last", "{}: whole at once", load.name);
        }
    }
}
