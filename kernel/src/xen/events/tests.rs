use super::*;
use crate::port::ChannelStatus;
use crate::units::DomId;
use core::cell::Cell;
use proptest::prelude::*;
use std::vec::Vec;

/// Xen's half of the 2-level layout, for one vCPU.
struct Sender {
    page: SharedPage,
    unmask_calls: Cell<u32>,
}

impl Sender {
    fn new() -> Self {
        Self { page: SharedPage::leaked(), unmask_calls: Cell::new(0) }
    }

    fn channels(&self) -> Channels {
        Channels::new(self.page)
    }

    fn info(&self) -> VcpuInfo {
        self.channels().vcpu(VcpuId::new(0)).unwrap()
    }

    /// Raises the upcall as Xen does, and answers whether the vCPU was kicked.
    fn raise(&self, word: usize) -> bool {
        self.page.u64(vcpu::PENDING_SELECTOR).fetch_or(1 << word, Ordering::SeqCst) & (1 << word) == 0
            && self.page.u8(vcpu::UPCALL_PENDING).swap(1, Ordering::SeqCst) == 0
    }

    fn send(&self, number: u32) -> bool {
        let (word, bit) = slot(EventPort::new(number)).unwrap();
        let was = self.page.u64(PENDING + word * 8).fetch_or(bit, Ordering::SeqCst);
        let masked = self.page.u64(MASK + word * 8).load(Ordering::SeqCst) & bit != 0;
        was & bit == 0 && !masked && self.raise(word)
    }

    fn scan(&self) -> Vec<u32> {
        let owned = all_ports();
        let mut seen = Vec::new();
        let count = self.channels().scan(&self.info(), &owned, |port| seen.push(port.get()));
        assert_eq!(count, seen.len());
        assert!(!self.info().upcall_pending());
        seen
    }
}

fn all_ports() -> PortSet {
    let owned = PortSet::new();
    (1..PORTS).for_each(|number| owned.insert(EventPort::new(number)));
    owned
}

impl EventOps for Sender {
    fn alloc_unbound(&self, _: DomId) -> Result<EventPort, Errno> {
        Err(Errno::ENOSYS)
    }
    fn bind_interdomain(&self, _: DomId, _: EventPort) -> Result<EventPort, Errno> {
        Err(Errno::ENOSYS)
    }
    fn bind_virq(&self, _: u32, _: VcpuId) -> Result<EventPort, Errno> {
        Err(Errno::ENOSYS)
    }
    fn bind_ipi(&self, _: VcpuId) -> Result<EventPort, Errno> {
        Err(Errno::ENOSYS)
    }
    fn close(&self, _: EventPort) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
    fn send(&self, _: EventPort) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
    fn status(&self, _: EventPort) -> Result<ChannelStatus, Errno> {
        Err(Errno::ENOSYS)
    }
    fn unmask(&self, port: EventPort) -> Result<(), Errno> {
        self.unmask_calls.set(self.unmask_calls.get() + 1);
        let (word, bit) = slot(port).ok_or(Errno::EINVAL)?;
        let was = self.page.u64(MASK + word * 8).fetch_and(!bit, Ordering::SeqCst);
        // Xen looks at the pending bit only if the mask was still set.
        if was & bit != 0 && self.page.u64(PENDING + word * 8).load(Ordering::SeqCst) & bit != 0 {
            self.raise(word);
        }
        Ok(())
    }
}

fn port(number: u32) -> EventPort {
    EventPort::new(number)
}

#[test]
fn ports_are_delivered_once_and_in_order() {
    let xen = Sender::new();
    assert!(xen.send(65));
    assert!(!xen.send(3), "one kick for what is scanned together");
    assert!(!xen.send(4095));
    assert_eq!(xen.scan(), [3, 65, 4095]);
    assert_eq!(xen.scan(), [0; 0]);
}

#[test]
fn nothing_comes_through_after_mask_all() {
    let xen = Sender::new();
    xen.channels().mask_all();
    for number in 1..PORTS {
        assert!(!xen.send(number));
    }
    assert_eq!(xen.scan(), [0; 0]);
}

#[test]
fn every_event_after_a_scan_kicks_again() {
    let xen = Sender::new();
    for _ in 0..3 {
        assert!(xen.send(9), "the scan left nothing that would make Xen silent");
        assert_eq!(xen.scan(), [9]);
    }
}

#[test]
fn an_event_during_its_own_handler_is_a_new_one() {
    let xen = Sender::new();
    xen.send(7);
    let mut seen = Vec::new();
    xen.channels().scan(&xen.info(), &all_ports(), |port| {
        seen.push(port.get());
        if seen.len() == 1 {
            assert!(xen.send(7), "pending, selector and flag were all taken before the handler");
        }
    });
    assert_eq!(seen, [7, 7]);
}

#[test]
fn an_event_on_another_port_of_the_word_during_a_handler_is_found() {
    let xen = Sender::new();
    xen.send(70);
    let mut seen = Vec::new();
    xen.channels().scan(&xen.info(), &all_ports(), |port| {
        seen.push(port.get());
        if seen.len() == 1 {
            xen.send(65);
            xen.send(500);
        }
    });
    assert_eq!(seen, [70, 65, 500]);
}

#[test]
fn unmasking_without_an_event_needs_no_hypercall() {
    let xen = Sender::new();
    xen.channels().mask_all();
    xen.channels().unmask(&xen, port(5)).unwrap();
    assert_eq!(xen.unmask_calls.get(), 0);
    assert!(xen.send(5));
    assert_eq!(xen.scan(), [5]);
}

#[test]
fn an_event_that_came_while_masked_is_delivered_at_unmask() {
    let xen = Sender::new();
    xen.channels().mask_all();
    assert!(!xen.send(5));
    assert_eq!(xen.scan(), [0; 0]);
    xen.channels().unmask(&xen, port(5)).unwrap();
    assert_eq!(xen.unmask_calls.get(), 1);
    assert!(xen.info().upcall_pending(), "a port left pending and open would be mute for ever");
    assert_eq!(xen.scan(), [5]);
    assert!(xen.send(5));
}

#[test]
fn a_masked_port_keeps_its_event_through_a_scan_of_its_word() {
    let xen = Sender::new();
    xen.channels().mask(port(64)).unwrap();
    xen.send(64);
    xen.send(65);
    assert_eq!(xen.scan(), [65]);
    xen.channels().unmask(&xen, port(64)).unwrap();
    assert_eq!(xen.scan(), [64]);
}

#[test]
fn a_port_of_another_vcpu_is_left_to_it() {
    let xen = Sender::new();
    let mine = PortSet::new();
    mine.insert(port(3));
    xen.send(3);
    xen.send(4);
    let mut seen = Vec::new();
    xen.channels().scan(&xen.info(), &mine, |port| seen.push(port.get()));
    assert_eq!(seen, [3]);
    assert!(xen.channels().take_pending(port(4)), "still there for its vCPU");
}

#[test]
fn a_spurious_upcall_finds_nothing() {
    let xen = Sender::new();
    // What registering a vcpu_info leaves behind.
    xen.page.u64(vcpu::PENDING_SELECTOR).store(u64::MAX, Ordering::SeqCst);
    xen.page.u8(vcpu::UPCALL_PENDING).store(1, Ordering::SeqCst);
    assert_eq!(xen.scan(), [0; 0]);
}

#[test]
fn ports_outside_the_layout_are_errors() {
    let xen = Sender::new();
    for number in [0, PORTS, u32::MAX] {
        assert_eq!(xen.channels().mask(port(number)), Err(Errno::EINVAL));
        assert_eq!(xen.channels().unmask(&xen, port(number)), Err(Errno::EINVAL));
        assert!(!xen.channels().take_pending(port(number)));
        let set: PortSet = PortSet::new();
        set.insert(port(number));
        assert!(!set.contains(port(number)));
        assert!(!set.take(port(number)));
    }
}

#[test]
fn vcpu_parts_are_where_xen_has_them() {
    let page = SharedPage::leaked();
    let channels = Channels::new(page);
    page.u8(3 * 64).store(1, Ordering::SeqCst);
    assert!(channels.vcpu(VcpuId::new(3)).unwrap().upcall_pending());
    assert!(channels.vcpu(VcpuId::new(32)).is_none());
    assert!(VcpuInfo::registered(page, 4096 - 64).is_some());
    assert!(VcpuInfo::registered(page, 4096 - 56).is_none());
    assert!(VcpuInfo::registered(page, 4).is_none());
}

#[test]
fn one_of_two_takers_gets_the_port() {
    let set: PortSet = PortSet::new();
    set.insert(port(100));
    set.insert(port(100));
    let taken: usize = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..2).map(|_| scope.spawn(|| usize::from(set.take(port(100))))).collect();
        takers.into_iter().map(|taker| taker.join().unwrap()).sum()
    });
    assert_eq!(taken, 1);
}

/// What the other side and we do to ports, one step at a time.
#[derive(Clone, Debug)]
enum Step {
    Send(u32),
    Mask(u32),
    Unmask(u32),
    Scan,
}

fn step() -> impl Strategy<Value = Step> {
    // A few ports, so that they meet.
    let number = prop_oneof![1u32..4, 63u32..66, Just(4095u32)];
    prop_oneof![
        number.clone().prop_map(Step::Send),
        number.clone().prop_map(Step::Mask),
        number.prop_map(Step::Unmask),
        Just(Step::Scan),
    ]
}

proptest! {
    #[test]
    fn no_event_is_lost(steps in prop::collection::vec(step(), 0..60)) {
        let xen = Sender::new();
        let channels = xen.channels();
        channels.mask_all();
        // Ports signalled and not delivered since.
        let mut owed = std::collections::BTreeSet::new();
        let mut open = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Send(number) => { xen.send(number); owed.insert(number); }
                Step::Mask(number) => { channels.mask(port(number)).unwrap(); open.remove(&number); }
                Step::Unmask(number) => { channels.unmask(&xen, port(number)).unwrap(); open.insert(number); }
                Step::Scan => {
                    // A handler runs only if there is an upcall: a lost one shows.
                    if xen.info().upcall_pending() {
                        for number in xen.scan() {
                            prop_assert!(owed.remove(&number));
                        }
                    }
                    prop_assert!(owed.is_disjoint(&open), "an open port has an event and no upcall");
                }
            }
        }
    }
}
