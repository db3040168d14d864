//! The pending bits of event channels between Xen and the interrupt handler: nothing that Xen tells is lost.
//!
//! Xen's side is modelled after what its public header promises of the 2-level layout (Xen:
//! `xen/include/public/event_channel.h`, `xen/common/event_2l.c`): the port's bit is set; if it was newly set and the
//! port is not masked, the word's bit in the selector; if that was newly set, the flag of the upcall.

use crate::atomic::{AtomicU8, AtomicU64};
use crate::model::{Mistake, Model, made, tests};
use crate::units::{EventPort, VcpuId};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use events::{Channels, PortSet};
use loom::sync::atomic::AtomicU32;
use loom::thread;
use std::sync::Arc;
use xen_abi::Errno;
use xen_abi::shared_info::{MASK, PENDING, vcpu};

#[allow(dead_code, unreachable_pub, reason = "the kernel's source; the models do not need all of it")]
#[path = "../../src/xen/events.rs"]
pub(crate) mod events;

/// In the place of the kernel's `shared.rs`.
mod shared {
    pub(super) use crate::atomic::AtomicU64;
}

/// What the models need of the shared page: one word of ports, and one vCPU.
#[derive(Debug)]
pub(crate) struct Page {
    pending: AtomicU64,
    masks: AtomicU64,
    selector: AtomicU64,
    upcall: AtomicU8,
}

/// In the place of the kernel's view of it. Never freed: an execution of a model makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedPage(&'static Page);

impl SharedPage {
    fn new() -> Self {
        let page = Page {
            pending: AtomicU64::new(0),
            masks: AtomicU64::new(0),
            selector: AtomicU64::new(0),
            upcall: AtomicU8::new(0),
        };
        let page = Self(Box::leak(Box::new(page)));
        // Makes the words.
        let words = [&page.0.pending, &page.0.masks, &page.0.selector];
        assert!(words.iter().all(|word| word.load(Relaxed) == 0) && page.0.upcall.load(Relaxed) == 0);
        page
    }

    fn u64(&self, offset: usize) -> &AtomicU64 {
        match offset {
            PENDING => &self.0.pending,
            MASK => &self.0.masks,
            vcpu::PENDING_SELECTOR => &self.0.selector,
            _ => unreachable!("the models have one word of ports, and no word at {offset:#x}"),
        }
    }

    fn u8(&self, offset: usize) -> &AtomicU8 {
        assert_eq!(offset, vcpu::UPCALL_PENDING);
        &self.0.upcall
    }

    /// Xen signals a port of the first word.
    fn signal(self, port: EventPort) {
        let bit = 1 << port.get();
        if self.0.pending.signal(bit) & bit == 0 && self.0.masks.load(SeqCst) & bit == 0 {
            self.select();
        }
    }

    fn select(self) {
        if self.0.selector.signal(1) & 1 == 0 {
            self.0.upcall.swap(1, SeqCst);
        }
    }
}

/// Xen, for `unmask`.
struct Xen(SharedPage);

impl crate::port::EventOps for Xen {
    fn unmask(&self, port: EventPort) -> Result<(), Errno> {
        let bit = 1 << port.get();
        let page = self.0.0;
        if made(Mistake::DeafUnmask) {
            // As if the guest had cleared the bit itself.
            page.masks.clear(!bit);
            return Ok(());
        }
        if page.masks.clear(!bit) & bit != 0 && page.pending.load(SeqCst) & bit != 0 {
            self.0.select();
        }
        Ok(())
    }
}

/// The ports of the models.
const PORTS: [EventPort; 2] = [EventPort::new(5), EventPort::new(6)];

/// A domain with two ports, and what was done before each was signalled.
struct Domain {
    page: SharedPage,
    owned: PortSet,
    done: [AtomicU32; 2],
}

impl Domain {
    fn new() -> Arc<Self> {
        let domain = Self { page: SharedPage::new(), owned: PortSet::new(), done: Default::default() };
        PORTS.iter().for_each(|port| domain.owned.insert(*port));
        Arc::new(domain)
    }

    /// Somebody does something, and has Xen tell of it.
    fn tell(&self, which: usize, what: u32) {
        self.done[which].store(what, Relaxed);
        self.page.signal(PORTS[which]);
    }

    /// The upcall, if there is one: what has been done is `seen`.
    fn interrupt(&self, seen: &mut [u32; 2]) {
        let channels = Channels::new(self.page);
        let Some(vcpu) = channels.vcpu(VcpuId::new(0)) else { unreachable!("there is a first vCPU") };
        if vcpu.upcall_pending() {
            channels.scan(&vcpu, &self.owned, |port| {
                let which = usize::from(port == PORTS[1]);
                seen[which] = self.done[which].load(Relaxed);
            });
        }
    }
}

/// Two CPUs have Xen signal a port each, one of them twice, while the handler runs as often as there is an upcall.
/// With the last of them, everything has been seen.
fn upcalls() {
    let domain = Domain::new();
    let senders = [&[1, 2][..], &[1]].into_iter().enumerate().map(|(which, events)| {
        let domain = Arc::clone(&domain);
        thread::spawn(move || events.iter().for_each(|&event| domain.tell(which, event)))
    });
    let senders: Vec<_> = senders.collect();
    let mut seen = [0; 2];
    domain.interrupt(&mut seen);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    domain.interrupt(&mut seen);
    assert_eq!(seen, [2, 1], "an event is lost");
    assert_eq!(
        domain.page.0.pending.load(Relaxed),
        0,
        "a port stays pending, and will never be heard of again"
    );
}

/// A port is masked while it is signalled, and unmasked: the event is told of, once or twice.
fn masked() {
    let domain = Domain::new();
    let channels = Channels::new(domain.page);
    channels.mask(PORTS[0]).unwrap();
    let sender = {
        let domain = Arc::clone(&domain);
        thread::spawn(move || domain.tell(0, 1))
    };
    let mut seen = [0; 2];
    domain.interrupt(&mut seen);
    assert_eq!(seen, [0; 2], "a masked port is handed over");
    channels.unmask(&Xen(domain.page), PORTS[0]).unwrap();
    domain.interrupt(&mut seen);
    sender.join().unwrap();
    domain.interrupt(&mut seen);
    assert_eq!(seen, [1, 0], "an event is lost");
}

const UPCALLS: Model =
    Model { name: "channels: three events and a handler", preemptions: Some(3), run: upcalls };
const MASKED: Model = Model { name: "channels: an event of a masked port", preemptions: None, run: masked };

tests! {
    no_event_is_lost: UPCALLS;
    no_event_is_lost_while_masked: MASKED;
    mutant_split_selector: UPCALLS catches SplitSwap;
    mutant_split_pending: UPCALLS catches SplitTake;
    mutant_unmask_without_xen: MASKED catches DeafUnmask;
}
