//! The environment of the conformance cases, over the model.
#![expect(unsafe_code, reason = "promises that the cases' frames are nobody else's")]

use super::{Model, Service, Slot, p2m};
use crate::conformance::Env;
use crate::conformance::tmem::{Answer, Control, Fault, Lab};
use core::sync::atomic::Ordering;
use ebb::port::{Clock, EventOps, MemoryOps, SpecialPage};
use ebb::units::{EventPort, FRAME_SIZE, Frames, Gfn, VcpuId};
use ebb::xen::Transport;
use ebb::xen::{SharedPage, Xen};
use xen_abi::hypercall;
use xen_abi::{event, shared_info};

/// Where the shared info page is mapped.
const SHARED_INFO: Gfn = Gfn::new(0xFE000);
/// Frame numbers outside the memory map.
const HOLES: Gfn = Gfn::new(0xFD000);

/// A guest, as far as the cases need one: it has mapped the shared info page, masked all ports and bound its
/// timer.
pub struct ModelEnv<'m> {
    model: &'m Model,
    xen: Xen<&'m Model>,
    timer: EventPort,
    block: Gfn,
}

impl<'m> ModelEnv<'m> {
    /// Boots the guest. The last block of RAM is the cases', populated.
    #[must_use]
    pub fn new(model: &'m Model) -> Self {
        let xen = model.xen();
        // SAFETY: the frame number is outside the memory map, and nobody has mapped anything there.
        unsafe { xen.map_special(SpecialPage::SharedInfo, SHARED_INFO) }
            .expect("the shared info page is mapped");
        for word in 0..shared_info::PORT_WORDS {
            model.shared_info().u64(shared_info::MASK + word * 8).store(u64::MAX, Ordering::SeqCst);
        }
        let timer = xen.bind_virq(event::VIRQ_TIMER, VcpuId::new(0)).expect("the timer is free");
        let block = Gfn::new(model.ram_frames().get() - p2m::BLOCK);
        for index in 0..p2m::BLOCK {
            let _ = model.read(block + Frames::new(index), 0);
        }
        Self { model, xen, timer, block }
    }

    /// What the kernel's upcall handler does: scans, and clears the pending bits of unmasked ports.
    fn scan(&self) {
        let page = self.shared_info();
        page.u8(shared_info::vcpu::UPCALL_PENDING).store(0, Ordering::SeqCst);
        let selector = page.u64(shared_info::vcpu::PENDING_SELECTOR).swap(0, Ordering::SeqCst);
        for word in (0..shared_info::PORT_WORDS).filter(|word| selector & 1 << word != 0) {
            let mask = page.u64(shared_info::MASK + word * 8).load(Ordering::SeqCst);
            page.u64(shared_info::PENDING + word * 8).fetch_and(mask, Ordering::SeqCst);
        }
    }
}

// SAFETY: the block is RAM that no host object lives in, the frame numbers are outside the memory map, and the
// model tolerates every access.
unsafe impl<'m> Env for ModelEnv<'m> {
    type Transport = &'m Model;

    fn xen(&self) -> &Xen<&'m Model> {
        &self.xen
    }
    fn vcpu(&self) -> VcpuId {
        VcpuId::new(0)
    }
    fn block(&self) -> Gfn {
        self.block
    }
    fn holes(&self) -> Gfn {
        HOLES
    }
    fn read(&self, frame: Gfn, index: usize) -> u64 {
        self.model.read(frame, index)
    }
    fn write(&self, frame: Gfn, index: usize, value: u64) {
        self.model.write(frame, index, value);
    }
    fn address(&self, frame: Gfn) -> u64 {
        self.model.ram().as_ptr().addr() as u64 + frame.get() * FRAME_SIZE as u64
    }
    fn unmapped_address(&self) -> u64 {
        0x1000
    }
    fn shared_info(&self) -> SharedPage {
        self.model.shared_info()
    }
    fn shared_info_frame(&self) -> Gfn {
        SHARED_INFO
    }
    fn timer_port(&self) -> EventPort {
        self.timer
    }
    fn now_ns(&self) -> u64 {
        self.model.now_ns()
    }
    fn wait_for_upcall(&self, deadline_ns: u64) -> bool {
        self.model.set_interrupts(self.vcpu(), true);
        let woken = self.model.halt(self.vcpu(), deadline_ns);
        if woken {
            self.scan();
        }
        self.model.set_interrupts(self.vcpu(), false);
        woken
    }
    fn lab(&self) -> Option<&dyn Lab> {
        Some(self)
    }
    fn has_populate_on_demand_debt(&self) -> bool {
        let (cache, entries) = self.model.populate_on_demand();
        entries > cache
    }
}

impl Lab for ModelEnv<'_> {
    fn has_defects(&self) -> bool {
        self.model.state().config.tmem == Service::Xen412
    }
    fn own(&self) -> u16 {
        self.model.state().config.domid
    }
    unsafe fn call(&self, domid: u16, argument: u64) -> i64 {
        // SAFETY: the caller's promise.
        unsafe { self.model.neighbour(domid).call(hypercall::TMEM_OP, [argument, 0, 0, 0, 0]) }
    }
    fn read(&self, domid: u16, frame: Gfn, index: usize) -> u64 {
        self.model.neighbour(domid).read(frame, index)
    }
    fn write(&self, domid: u16, frame: Gfn, index: usize, value: u64) {
        self.model.neighbour(domid).write(frame, index, value);
    }
    fn charged(&self, domid: u16) -> u64 {
        if domid == self.own() {
            self.model.charged().get()
        } else {
            self.model.neighbour(domid).charged().get()
        }
    }
    fn set_limit(&self, domid: u16, frames: u64) {
        let limit = Frames::new(frames);
        if domid == self.own() {
            self.model.set_limit(limit)
        } else {
            self.model.neighbour(domid).set_limit(limit)
        }
    }
    fn doom(&self, domid: u16) {
        self.model.tmem_doom(domid);
    }
    fn kill(&self, domid: u16) {
        self.model.tmem_kill(domid);
    }
    fn control(&self, control: Control) -> Answer {
        self.model.tmem_control(control)
    }
    fn fail(&self, fault: Fault) {
        self.model.tmem_fail(fault);
    }
    fn set_plain(&self, frame: Gfn, plain: bool) {
        self.model.tmem_set_plain(frame, plain);
    }
    fn map_grant(&self, hole: Gfn) {
        self.model.map_foreign(hole, Slot::GrantMapping);
    }
    fn evict(&self) -> bool {
        self.model.tmem_evict()
    }
    fn squeeze(&self, left: u64) {
        self.model.host_take_all_but(Frames::new(left));
    }
    fn relax(&self) {
        self.model.host_give_back();
    }
    fn host_free(&self) -> u64 {
        self.model.host_free().0.get()
    }
    fn restart(&self) {
        self.model.tmem_restart();
    }
}
