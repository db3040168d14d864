//! A day of virtual time with refusals, evictions, freezing and lowered limits: whatever was stored comes back as it
//! was, whatever is cached is right or missed, and at the end every page and every frame is accounted for.

use crate::rig::{Rig, boot_cpu, fill, pattern, persistent, slot, swap};
use ebb::mm::page::Page;
use ebb::port::Clock;
use ebb::tmem::cleancache::Cleancache;
use ebb::tmem::frontswap::{Choice, Frontswap, Hypervisor, Loaded, Lost, Stored};
use ebb::tmem::tier::{Slot, Tier};
use ebb::units::Frames;
use ebb_tests::conformance::tmem::{Control, Fault};
use ebb_tests::model::{Config, Model, Service};
use percpu::host::Host;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use xen_abi::{Errno, hypercall};

/// Slots, and pages of the one file.
const SLOTS: u64 = 600;
const DAY_NS: u64 = 24 * 3600 * 1_000_000_000;

#[derive(Clone, Copy, Debug)]
enum Step {
    Store(u64),
    Load(u64),
    Invalidate(u64),
    Shrink(u64),
    Clean(u64),
    Find(u64),
    Dirty(u64),
    Truncate,
    Freeze(bool),
    Headroom(u64),
    Squeeze(u64),
    Relax,
    Evict,
    Fail(Fault),
    Refuse(Errno),
    Compress(bool),
}

/// Why a call is not made. Not for a freeze: what answers so to a flush has carried it out, and is believed.
fn refusal() -> impl Strategy<Value = Errno> {
    prop_oneof![
        Just(Errno::ENOMEM),
        Just(Errno::EFAULT),
        Just(Errno::EIO),
        Just(Errno::EPERM),
        Just(Errno::ENOSPC),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    let fault =
        prop_oneof![Just(Fault::PreCheck), Just(Fault::Metadata), Just(Fault::Data), Just(Fault::Copy)];
    prop_oneof![
        12 => slot().prop_map(Step::Store),
        12 => slot().prop_map(Step::Load),
        4 => slot().prop_map(Step::Invalidate),
        1 => slot().prop_map(Step::Shrink),
        8 => slot().prop_map(Step::Clean),
        8 => slot().prop_map(Step::Find),
        2 => slot().prop_map(Step::Dirty),
        1 => Just(Step::Truncate),
        1 => any::<bool>().prop_map(Step::Freeze),
        1 => (0..400_u64).prop_map(Step::Headroom),
        1 => (300..1500_u64).prop_map(Step::Squeeze),
        1 => Just(Step::Relax),
        2 => Just(Step::Evict),
        1 => fault.prop_map(Step::Fail),
        1 => refusal().prop_map(Step::Refuse),
        1 => any::<bool>().prop_map(Step::Compress),
    ]
}

/// Fills a page: every other one with one word repeated, for where tmem compresses.
fn write(page: &mut Page<'_>, value: u64) {
    if value.is_multiple_of(2) { page.fill(value) } else { fill(page, value) }
}

/// The value of a page.
fn read(page: &Page<'_>) -> Option<u64> {
    page.same_filled().or_else(|| pattern(page))
}

/// The guest, and what it knows to be true.
struct Day<'r, 't> {
    rig: &'r Rig,
    front: &'r Frontswap<'t, Host>,
    /// What is in which slot.
    slots: RefCell<HashMap<u64, u64>>,
    /// What the file holds.
    file: HashMap<u64, u64>,
    /// The last value that was made up.
    next: u64,
    /// Loads that had to be tried again.
    retried: u64,
}

const FILE: [u64; 3] = [7, 7, 7];

impl Day<'_, '_> {
    fn value(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn store(&mut self, at: u64) {
        let value = self.value();
        let mut page = self.rig.page(10);
        write(&mut page, value);
        match self.front.store(slot(at), &page) {
            Stored::Done => drop(self.slots.borrow_mut().insert(at, value)),
            Stored::WriteToo | Stored::No => drop(self.slots.borrow_mut().remove(&at)),
        }
    }

    fn load(&self, at: u64) -> Result<Loaded, Lost> {
        let mut page = self.rig.page(11);
        let loaded = self.front.load(slot(at), &mut page)?;
        let truth = self.slots.borrow().get(&at).copied();
        match loaded {
            Loaded::Copy | Loaded::Only => assert_eq!(read(&page), truth, "slot {at}"),
            Loaded::NotHere => assert_eq!(truth, None, "slot {at} was forgotten"),
        }
        Ok(loaded)
    }

    /// A load that fails may be one of the refused calls; the page itself is not lost.
    fn load_in_the_end(&mut self, at: u64) {
        for _ in 0..20 {
            match self.load(at) {
                Ok(_) => return,
                Err(lost) if lost.tier.is_none() => {
                    assert!(!self.slots.borrow().contains_key(&at), "only what was refused is in doubt");
                    return;
                }
                Err(_) => self.retried += 1,
            }
        }
        unreachable!("slot {at} is lost for good");
    }

    fn invalidate(&self, at: u64) {
        self.front.invalidate_page(slot(at));
        self.slots.borrow_mut().remove(&at);
    }
}

/// Runs the steps over a day.
fn live(service: Service, seed: u64, steps: Vec<Step>) {
    let rig = Rig {
        model: Model::new(Config { tmem: service, seed, ..Config::default() }),
        host: percpu::host::Machine::new(2),
    };
    let _cpu = boot_cpu(rig.host);
    let (charged, own) = (rig.charged(), Config::default().domid);
    let began = rig.model.now_ns();
    let pause = DAY_NS / steps.len().max(1) as u64;
    let pool = rig.pool();
    let open = persistent(&pool);
    let tier = Hypervisor::new(&pool);
    let tiers: [&dyn Tier; 1] = [&tier];
    let front = Frontswap::new(rig.host, &tiers);
    front.init(swap(1), SLOTS).expect("a swap type");
    let cache = Cleancache::new(rig.host.rcu(), Some(rig.tmem())).expect("the host has words");
    let fs = cache.init_fs();
    let mut day = Day {
        rig: &rig,
        front: &front,
        slots: RefCell::default(),
        file: HashMap::new(),
        next: 0,
        retried: 0,
    };
    // As a page cache does: a page whose old copy may still be cached is not cached, nor looked for.
    let mut banned = false;
    for step in steps {
        rig.model.pass_ns(pause);
        match step {
            Step::Store(at) => day.store(at),
            Step::Load(at) => day.load_in_the_end(at),
            Step::Invalidate(at) => day.invalidate(at),
            Step::Shrink(target) => {
                let before = front.curr_pages();
                let home = |at: Slot| {
                    let came = day.load(at.offset).is_ok();
                    if came {
                        day.invalidate(at.offset);
                    }
                    came
                };
                let came = front.shrink(target, u64::MAX, Choice::Fixed, &home);
                assert_eq!(front.curr_pages(), before - came);
                assert!(came <= before.saturating_sub(target));
            }
            Step::Clean(at) if !banned => {
                let value = day.next;
                let truth = *day.file.entry(at).or_insert(value);
                let mut page = rig.page(12);
                write(&mut page, truth);
                banned = !fs.put_page(FILE, at, &page);
            }
            Step::Find(at) if !banned => {
                let mut page = rig.page(13);
                if fs.get_page(FILE, at, &mut page) {
                    assert_eq!(read(&page), day.file.get(&at).copied(), "page {at} of the file");
                }
            }
            Step::Dirty(at) => {
                banned |= !fs.invalidate_page(FILE, at);
                let value = day.value();
                day.file.insert(at, value);
            }
            Step::Truncate => {
                banned = !fs.invalidate_inode(FILE);
                day.file.clear();
            }
            Step::Clean(_) | Step::Find(_) => {}
            Step::Freeze(frozen) => rig.freeze(frozen),
            Step::Headroom(frames) => {
                // Also below what is used.
                let used = rig.charged();
                rig.model.set_limit(Frames::new((used + frames).saturating_sub(100)));
            }
            Step::Squeeze(left) => rig.model.host_take_all_but(Frames::new(left)),
            Step::Relax => rig.model.host_give_back(),
            Step::Evict => drop(rig.model.tmem_evict()),
            Step::Fail(fault) => rig.model.tmem_fail(fault),
            Step::Refuse(error) => rig.model.refuse(hypercall::TMEM_OP, None, error),
            Step::Compress(on) => drop(rig.model.tmem_control(Control::SetCompress(own, on))),
        }
        assert_eq!(front.curr_pages(), day.slots.borrow().len() as u64, "after {step:?}");
    }
    rig.model.validate().expect("the model's books balance");
    for at in 0..SLOTS {
        day.load_in_the_end(at);
        day.invalidate(at);
    }
    rig.freeze(false);
    rig.model.host_give_back();
    // Refusals that are still to come are used up.
    for _ in 0..200 {
        let _ = front.invalidate_area(swap(1));
    }
    let _ = fs.invalidate_fs();
    assert_eq!(open.close(), Ok(()));
    rig.is_clean(charged);
    assert!(rig.model.now_ns() - began >= DAY_NS * 9 / 10 || pause == DAY_NS, "a day has passed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn a_day_on_xen_412(steps in prop::collection::vec(step(), 1000..2000), seed: u64) {
        live(Service::Xen412, seed, steps);
    }

    #[test]
    fn a_day_on_a_sound_service(steps in prop::collection::vec(step(), 1000..2000), seed: u64) {
        live(Service::Sound, seed, steps);
    }
}
