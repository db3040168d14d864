//! Random histories against a reference model: one value for each frame, and nothing clever.

use super::*;
use proptest::prelude::*;
use std::vec; // for `prop_oneof!`

/// Two fragments, a hole, reserved frames in the middle, memory that begins above 4 GiB.
const BASE: u64 = 1 << 20;

fn map() -> Vec<FrameRange> {
    std::vec![range(BASE + 5, 90), range(BASE + 400, 1900), range(BASE + 3072, 1024)]
}

fn reserved() -> Vec<FrameRange> {
    std::vec![range(BASE + 420, 3), range(BASE + 1100, 30)]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Absent,
    Reserved,
    Free { zero: bool },
    Used(Class),
    Ballooned,
}

#[derive(Clone, Debug)]
enum Action {
    Alloc { usage: Use, order: u8, zero: bool, emergency: bool, cpu: u32 },
    Free { pick: usize, zero: bool, cpu: u32 },
    Split { pick: usize },
    Assign { pick: usize, usage: Use },
    Detach { pick: usize },
    Attach { pick: usize },
    AttachAnything { frame: u64, order: u8 },
    Run { blocks: u64, align: u64, usage: Use },
    TakeBlock { zero: bool },
    TakeFrame { zero: bool },
    MarkBallooned { pick: usize },
    Deposit { pick: usize },
    SplitBallooned { pick: usize },
    WithdrawBlock,
    WithdrawFrame,
    GiveBack { pick: usize },
    Reuse { pick: usize, usage: Use },
    Drain,
    Validate,
}

fn usage() -> impl Strategy<Value = Use> {
    prop_oneof![Just(Use::Kernel), Just(Use::Special), Just(Use::Paged), Just(Use::PageCache)]
}

fn action() -> impl Strategy<Value = Action> {
    let pick = || any::<usize>();
    let size = || prop_oneof![5 => Just(0_u8), 4 => 0_u8..7, 2 => 7_u8..10];
    prop_oneof![
        12 => (usage(), size(), any::<bool>(), any::<bool>(), 0_u32..4)
            .prop_map(|(usage, order, zero, emergency, cpu)| Action::Alloc { usage, order, zero, emergency, cpu }),
        8 => (pick(), any::<bool>(), 0_u32..4).prop_map(|(pick, zero, cpu)| Action::Free { pick, zero, cpu }),
        2 => pick().prop_map(|pick| Action::Split { pick }),
        1 => (pick(), usage()).prop_map(|(pick, usage)| Action::Assign { pick, usage }),
        2 => pick().prop_map(|pick| Action::Detach { pick }),
        2 => pick().prop_map(|pick| Action::Attach { pick }),
        1 => (0_u64..5000, 0_u8..10).prop_map(|(frame, order)| Action::AttachAnything { frame, order }),
        1 => (1_u64..4, 1_u64..3, usage()).prop_map(|(blocks, align, usage)| Action::Run { blocks, align, usage }),
        1 => any::<bool>().prop_map(|zero| Action::TakeBlock { zero }),
        1 => any::<bool>().prop_map(|zero| Action::TakeFrame { zero }),
        2 => pick().prop_map(|pick| Action::MarkBallooned { pick }),
        2 => pick().prop_map(|pick| Action::Deposit { pick }),
        1 => pick().prop_map(|pick| Action::SplitBallooned { pick }),
        1 => Just(Action::WithdrawBlock),
        1 => Just(Action::WithdrawFrame),
        1 => pick().prop_map(|pick| Action::GiveBack { pick }),
        1 => (pick(), usage()).prop_map(|(pick, usage)| Action::Reuse { pick, usage }),
        1 => Just(Action::Drain),
        1 => Just(Action::Validate),
    ]
}

struct Model<'a, 'm> {
    frames: &'a FrameAllocator<'m>,
    cells: Vec<Cell>,
    held: Vec<(Extent, Use)>,
    numbers: Vec<(Gfn, Order, Use)>,
    ballooned: Vec<Extent<Ballooned>>,
}

/// Takes the item that a random number picks.
fn pick<T>(items: &mut Vec<T>, random: usize) -> Option<T> {
    if items.is_empty() { None } else { Some(items.swap_remove(random % items.len())) }
}

impl Model<'_, '_> {
    fn span(&mut self, first: Gfn, count: u64) -> &mut [Cell] {
        let start = (first.get() - BASE) as usize;
        &mut self.cells[start..start + count as usize]
    }

    fn set<S: State>(&mut self, extent: &Extent<S>, cell: Cell) {
        let (first, count) = (extent.first(), extent.frames().get());
        self.span(first, count).fill(cell);
    }

    /// Checks an extent that was handed out, and records it.
    fn receive(&mut self, extent: Extent, usage: Use) {
        assert!(extent.first().is_aligned(extent.order()));
        let claim = extent.contents() == Contents::Zero;
        for cell in self.span(extent.first(), extent.frames().get()) {
            match *cell {
                Cell::Free { zero } => assert!(zero || !claim, "{extent:?} is not zero"),
                other => panic!("{extent:?} was {other:?}"),
            }
            *cell = Cell::Used(usage.class());
        }
        self.held.push((extent, usage));
    }

    /// Whether any aligned extent of this order is free.
    fn could_serve(&self, order: usize) -> bool {
        let free = |extent: &[Cell]| extent.iter().all(|cell| matches!(cell, Cell::Free { .. }));
        self.cells.chunks_exact(1 << order).any(free)
    }

    fn count(&self, wanted: impl Fn(Cell) -> bool) -> Frames {
        Frames::new(self.cells.iter().filter(|&&cell| wanted(cell)).count() as u64)
    }

    fn alloc(&mut self, request: Request) {
        match self.frames.alloc(request) {
            Ok(extent) => {
                assert_eq!(extent.order(), request.order);
                self.receive(extent, request.usage);
            }
            Err(AllocError::Exhausted { order, free }) => {
                assert!(!self.could_serve(order.get().into()), "{order:?} was free");
                assert_eq!(free, self.count(|cell| matches!(cell, Cell::Free { .. })));
            }
            Err(AllocError::Reserve { free, min }) => {
                assert!(!request.emergency && free < min + request.order.frames());
                assert_eq!(free, self.count(|cell| matches!(cell, Cell::Free { .. })));
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn apply(&mut self, action: Action) {
        let frames = self.frames;
        match action {
            Action::Alloc { usage, order, zero, emergency, cpu } => {
                let request = Request::new(usage, VcpuId::new(cpu)).order(super::order(order));
                let request = if zero { request.prefer_zero() } else { request };
                self.alloc(if emergency { request.emergency() } else { request });
            }
            Action::Free { pick: p, zero, cpu } => {
                if let Some((extent, _)) = pick(&mut self.held, p) {
                    self.set(&extent, Cell::Free { zero });
                    let contents = if zero { Contents::Zero } else { Contents::Unknown };
                    frames.free(extent, contents, VcpuId::new(cpu)).unwrap();
                }
            }
            Action::Split { pick: p } => {
                if let Some((extent, usage)) = pick(&mut self.held, p) {
                    match frames.split(extent) {
                        Ok((low, high)) => self.held.extend([(low, usage), (high, usage)]),
                        Err(rejected) => {
                            assert_eq!(rejected.extent.order(), Order::FRAME);
                            self.held.push((rejected.extent, usage));
                        }
                    }
                }
            }
            Action::Assign { pick: p, usage } => {
                if let Some((mut extent, _)) = pick(&mut self.held, p) {
                    frames.assign(&mut extent, usage, Owner::NONE).unwrap();
                    self.set(&extent, Cell::Used(usage.class()));
                    self.held.push((extent, usage));
                }
            }
            Action::Detach { pick: p } => {
                if let Some((extent, usage)) = pick(&mut self.held, p) {
                    let order = extent.order();
                    self.numbers.push((frames.detach(extent).unwrap(), order, usage));
                }
            }
            Action::Attach { pick: p } => {
                if let Some((first, order, usage)) = pick(&mut self.numbers, p) {
                    self.held.push((frames.take_up(first, order).unwrap(), usage));
                }
            }
            Action::AttachAnything { frame, order } => {
                let (first, order) = (Gfn::new(BASE - 100 + frame), super::order(order));
                let known = self.numbers.iter().position(|&(f, o, _)| (f, o) == (first, order));
                match (frames.take_up(first, order), known) {
                    (Ok(extent), Some(at)) => {
                        let (.., usage) = self.numbers.swap_remove(at);
                        self.held.push((extent, usage));
                    }
                    (Err(_), None) => {}
                    (result, known) => panic!("{result:?} for {first} {order:?}, known {known:?}"),
                }
            }
            Action::Run { blocks, align, usage } => {
                let free = |extent: &[Cell]| extent.iter().all(|cell| matches!(cell, Cell::Free { .. }));
                let whole: Vec<bool> = self.cells.chunks_exact(512).map(free).collect();
                let base = BASE / 512;
                let possible = whole.windows(blocks as usize).enumerate().any(|(start, run)| {
                    (base + start as u64).is_multiple_of(align) && run.iter().all(|whole| *whole)
                });
                match frames.allocate_run(blocks, align, usage, Owner::NONE, CPU) {
                    Ok(run) => {
                        assert!(possible && (run.first().get() / 512).is_multiple_of(align));
                        // Tokens of blocks show the contents of the whole run.
                        run.into_blocks().for_each(|block| self.receive(block, usage));
                    }
                    Err(_) => assert!(!possible),
                }
            }
            Action::TakeBlock { zero } => {
                let prefer = if zero { Contents::Zero } else { Contents::Unknown };
                if let Some(extent) = frames.take_block_for_balloon(prefer) {
                    self.receive(extent, Use::Ballooning);
                }
            }
            Action::TakeFrame { zero } => {
                let prefer = if zero { Contents::Zero } else { Contents::Unknown };
                if let Some(extent) = frames.take_frame_for_balloon(prefer) {
                    self.receive(extent, Use::Ballooning);
                }
            }
            Action::MarkBallooned { pick: p } => {
                if let Some((extent, _)) = pick(&mut self.held, p) {
                    self.set(&extent, Cell::Ballooned);
                    self.ballooned.push(frames.mark_ballooned(extent).unwrap());
                }
            }
            Action::Deposit { pick: p } => {
                if let Some(extent) = pick(&mut self.ballooned, p) {
                    frames.deposit(extent).unwrap();
                }
            }
            Action::SplitBallooned { pick: p } => {
                if let Some(extent) = pick(&mut self.ballooned, p) {
                    match frames.split_ballooned(extent) {
                        Ok((low, high)) => self.ballooned.extend([low, high]),
                        Err(rejected) => self.ballooned.push(rejected.extent),
                    }
                }
            }
            Action::WithdrawBlock => self.withdraw(frames.withdraw_block()),
            Action::WithdrawFrame => self.withdraw(frames.withdraw_frame()),
            Action::GiveBack { pick: p } => {
                if let Some(extent) = pick(&mut self.ballooned, p) {
                    self.set(&extent, Cell::Free { zero: false });
                    frames.take_back(extent).unwrap();
                }
            }
            Action::Reuse { pick: p, usage } => {
                if let Some(extent) = pick(&mut self.ballooned, p) {
                    self.set(&extent, Cell::Used(usage.class()));
                    self.held.push((frames.take_for(extent, usage, Owner::NONE).unwrap(), usage));
                }
            }
            Action::Drain => drop(frames.drain(CPU)),
            Action::Validate => frames.validate().unwrap(),
        }
    }

    fn withdraw(&mut self, extent: Option<Extent<Ballooned>>) {
        if let Some(extent) = extent {
            assert!(self.ballooned.iter().all(|other| other.first() != extent.first()));
            assert!(
                self.span(extent.first(), extent.frames().get()).iter().all(|cell| *cell == Cell::Ballooned)
            );
            self.ballooned.push(extent);
        }
    }

    fn compare(&self) {
        let stats = self.frames.stats();
        assert_eq!(stats.available(), self.count(|cell| matches!(cell, Cell::Free { .. })));
        assert_eq!(stats.pinned, self.count(|cell| cell == Cell::Used(Class::Pinned)));
        assert_eq!(stats.movable, self.count(|cell| cell == Cell::Used(Class::Movable)));
        assert_eq!(stats.ballooned, self.count(|cell| cell == Cell::Ballooned));
        assert_eq!(stats.reserved, self.count(|cell| cell == Cell::Reserved));
        assert_eq!(stats.managed + stats.reserved, self.count(|cell| cell != Cell::Absent));
        assert!(stats.known_zero <= self.count(|cell| cell == Cell::Free { zero: true }));
    }

    /// Compares the state of every frame.
    fn compare_frames(&self) {
        for (i, &cell) in self.cells.iter().enumerate() {
            let state = self.frames.state(Gfn::new(BASE + i as u64));
            let same = match state {
                FrameState::Absent => cell == Cell::Absent,
                FrameState::Reserved => cell == Cell::Reserved,
                FrameState::Free(_, contents) | FrameState::Cached(contents) => match cell {
                    Cell::Free { zero } => zero || contents == Contents::Unknown,
                    _ => false,
                },
                FrameState::Used(held) => cell == Cell::Used(held.usage.class()),
                FrameState::Ballooned => cell == Cell::Ballooned,
            };
            assert!(same, "frame {i}: {state:?} instead of {cell:?}");
        }
    }
}

fn replay(actions: Vec<Action>, cpus: usize) {
    let mut memory = Memory::new(&map(), cpus);
    let frames = memory.with_reserved(&reserved(), 3);
    let mut cells = std::vec![Cell::Absent; memory_span()];
    for (ranges, cell) in [(map(), Cell::Free { zero: false }), (reserved(), Cell::Reserved)] {
        for range in ranges {
            let start = (range.start().get() - BASE) as usize;
            cells[start..start + range.count().get() as usize].fill(cell);
        }
    }
    let mut model =
        Model { frames: &frames, cells, held: Vec::new(), numbers: Vec::new(), ballooned: Vec::new() };
    for action in actions {
        model.apply(action);
        model.compare();
    }
    frames.validate().unwrap();
    model.compare_frames();

    // Everything goes back, and everything joins.
    for (first, order, usage) in core::mem::take(&mut model.numbers) {
        model.held.push((frames.take_up(first, order).unwrap(), usage));
    }
    for (extent, _) in core::mem::take(&mut model.held) {
        frames.free(extent, Contents::Unknown, CPU).unwrap();
    }
    for extent in core::mem::take(&mut model.ballooned) {
        frames.take_back(extent).unwrap();
    }
    while let Some(extent) = frames.withdraw_frame() {
        frames.take_back(extent).unwrap();
    }
    frames.drain(CPU);
    frames.validate().unwrap();
    let stats = frames.stats();
    assert_eq!(stats.free, stats.managed);
    // Blocks 1, 3, 6 and 7: block 0 has a hole, block 2 reserved frames, block 4 ends early.
    assert_eq!(stats.whole_blocks, 4);
}

fn memory_span() -> usize {
    Layout::for_map(&map()).unwrap().entries()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_history_agrees_with_the_model(
        actions in prop::collection::vec(action(), 1..400),
        cpus in 0_usize..4,
    ) {
        replay(actions, cpus);
    }
}
