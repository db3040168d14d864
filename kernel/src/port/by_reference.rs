//! Every port by shared reference is the port itself, so that components can share one hypervisor.

use super::*;

// SAFETY: forwards to an implementation that promises the same.
unsafe impl<M: MemoryOps + ?Sized> MemoryOps for &M {
    fn current_reservation(&self) -> Result<Frames, Errno> {
        (**self).current_reservation()
    }
    fn maximum_reservation(&self) -> Result<Frames, Errno> {
        (**self).maximum_reservation()
    }
    fn maximum_gpfn(&self) -> Result<Gfn, Errno> {
        (**self).maximum_gpfn()
    }
    fn memory_map(&self, entries: &mut [MapEntry]) -> Result<usize, Errno> {
        (**self).memory_map(entries)
    }
    unsafe fn decrease_reservation(&self, order: Order, extents: &[Gfn]) -> Result<Completed, Errno> {
        // SAFETY: the caller's promise is the one that the callee wants.
        unsafe { (**self).decrease_reservation(order, extents) }
    }
    unsafe fn populate_physmap(&self, order: Order, extents: &[Gfn]) -> Result<Completed, Errno> {
        // SAFETY: the caller's promise is the one that the callee wants.
        unsafe { (**self).populate_physmap(order, extents) }
    }
    fn increase_reservation(&self, order: Order, count: usize) -> Result<Completed, Errno> {
        (**self).increase_reservation(order, count)
    }
    unsafe fn map_special(&self, page: SpecialPage, at: Gfn) -> Result<(), Errno> {
        // SAFETY: the caller's promise is the one that the callee wants.
        unsafe { (**self).map_special(page, at) }
    }
    unsafe fn unmap_special(&self, at: Gfn) -> Result<(), Errno> {
        // SAFETY: the caller's promise is the one that the callee wants.
        unsafe { (**self).unmap_special(at) }
    }
}

impl<E: EventOps + ?Sized> EventOps for &E {
    fn alloc_unbound(&self, remote: DomId) -> Result<EventPort, Errno> {
        (**self).alloc_unbound(remote)
    }
    fn bind_interdomain(&self, remote: DomId, port: EventPort) -> Result<EventPort, Errno> {
        (**self).bind_interdomain(remote, port)
    }
    fn bind_virq(&self, virq: u32, vcpu: VcpuId) -> Result<EventPort, Errno> {
        (**self).bind_virq(virq, vcpu)
    }
    fn bind_ipi(&self, vcpu: VcpuId) -> Result<EventPort, Errno> {
        (**self).bind_ipi(vcpu)
    }
    fn close(&self, port: EventPort) -> Result<(), Errno> {
        (**self).close(port)
    }
    fn send(&self, port: EventPort) -> Result<(), Errno> {
        (**self).send(port)
    }
    fn status(&self, port: EventPort) -> Result<ChannelStatus, Errno> {
        (**self).status(port)
    }
    fn unmask(&self, port: EventPort) -> Result<(), Errno> {
        (**self).unmask(port)
    }
}

impl<S: SchedOps + ?Sized> SchedOps for &S {
    fn yield_now(&self) {
        (**self).yield_now();
    }
    fn poll(&self, ports: &[EventPort], deadline_ns: Option<u64>) -> Result<(), Errno> {
        (**self).poll(ports, deadline_ns)
    }
    fn shutdown(&self, reason: ShutdownReason) -> Result<(), Errno> {
        (**self).shutdown(reason)
    }
}

impl<V: VcpuOps + ?Sized> VcpuOps for &V {
    fn is_up(&self, vcpu: VcpuId) -> Result<bool, Errno> {
        (**self).is_up(vcpu)
    }
    fn set_timer(&self, vcpu: VcpuId, deadline_ns: u64) -> Result<Armed, Errno> {
        (**self).set_timer(vcpu, deadline_ns)
    }
    fn stop_timer(&self, vcpu: VcpuId) -> Result<(), Errno> {
        (**self).stop_timer(vcpu)
    }
}

impl<V: VersionOps + ?Sized> VersionOps for &V {
    fn version(&self) -> Result<(u16, u16), Errno> {
        (**self).version()
    }
    fn extra_version<'b>(&self, buffer: &'b mut [u8; 16]) -> Result<&'b [u8], Errno> {
        (**self).extra_version(buffer)
    }
    fn features(&self, index: u32) -> Result<u32, Errno> {
        (**self).features(index)
    }
}

impl<H: HvmOps + ?Sized> HvmOps for &H {
    fn get_param(&self, param: HvmParam) -> Result<u64, Errno> {
        (**self).get_param(param)
    }
    fn set_param(&self, param: HvmParam, value: u64) -> Result<(), Errno> {
        (**self).set_param(param, value)
    }
    fn set_upcall_vector(&self, vcpu: VcpuId, vector: u8) -> Result<(), Errno> {
        (**self).set_upcall_vector(vcpu, vector)
    }
    fn frame_type(&self, frame: Gfn) -> Result<FrameType, Errno> {
        (**self).frame_type(frame)
    }
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }
}

impl<W: Wait + ?Sized> Wait for &W {
    fn wait(&self, port: EventPort, deadline_ns: u64) {
        (**self).wait(port, deadline_ns);
    }
}
