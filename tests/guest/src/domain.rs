//! The services of the domain, on real Xen: the clock, sleeping, events to itself.

use crate::{domain_of, ensure, failed};
use alloc::format;
use ebb::port::{Clock, EventOps, Wait};
use ebb::units::DomId;
use ebb::xen::wait::Halt;
use ebb_boot::case;
use ebb_boot::cases::Not;
use ebb_boot::domain::Processor;

/// 2020 and 2100: between them the host's clock is believed.
const PLAUSIBLE_UNIX_S: core::ops::Range<u64> = 1_577_836_800..4_102_444_800;

case!(on Xen: "domain.the_clock_advances_and_never_goes_back", |machine| {
    let clock = domain_of(machine)?.clock();
    let first_ns = clock.now_ns();
    let mut last_ns = first_ns;
    let mut steps = 0_u32;
    for _ in 0..20_000 {
        let now_ns = clock.now_ns();
        ensure(now_ns >= last_ns, "time went back")?;
        steps += u32::from(now_ns > last_ns);
        last_ns = now_ns;
    }
    ensure(steps > 1000, &format!("time moved {steps} times, by {} ns", last_ns - first_ns))
});

case!(on Xen: "domain.the_wall_clock_is_plausible", |machine| {
    let seconds = domain_of(machine)?.wall_clock_ns() / 1_000_000_000;
    ensure(PLAUSIBLE_UNIX_S.contains(&seconds), &format!("{seconds} s since 1970"))
});

case!(on Xen: "domain.a_sleep_ends_at_its_deadline_and_not_before", |machine| {
    let domain = domain_of(machine)?;
    let sleeping = domain.sleeping();
    let port = sleeping.alloc_unbound(DomId::SELF).map_err(|error| failed("a port")(&error))?;
    for wait_ns in [0, 1, 1_000_000, 20_000_000] {
        let deadline_ns = domain.clock().now_ns() + wait_ns;
        sleeping.wait(port, deadline_ns);
        let now_ns = domain.clock().now_ns();
        ensure(now_ns >= deadline_ns, &format!("woke {} ns early", deadline_ns.saturating_sub(now_ns)))?;
    }
    sleeping.close(port).map_err(|error| failed("close")(&error))
});

case!(on Xen: "domain.a_deadline_in_the_past_does_not_sleep", |machine| {
    let domain = domain_of(machine)?;
    let sleeping = domain.sleeping();
    let port = sleeping.alloc_unbound(DomId::SELF).map_err(|error| failed("a port")(&error))?;
    sleeping.wait(port, 1);
    sleeping.close(port).map_err(|error| failed("close")(&error))
});

/// A pair of ports, both ends ours: what is sent on the first fires the second.
fn loopback(domain: &ebb_boot::Domain) -> Result<(ebb::units::EventPort, ebb::units::EventPort), Not> {
    let xen = domain.xen();
    let first = xen.alloc_unbound(DomId::SELF).map_err(|error| failed("alloc_unbound")(&error))?;
    let second = xen.bind_interdomain(DomId::SELF, first).map_err(|error| failed("bind")(&error))?;
    Ok((first, second))
}

case!(on Xen: "domain.an_event_between_the_check_and_the_sleep_ends_it", |machine| {
    let domain = domain_of(machine)?;
    let (sender, receiver) = loopback(domain)?;
    domain.listen(receiver).map_err(|error| failed("listen")(&error))?;
    for _ in 0..1000 {
        domain.fired().take(receiver);
        let before = domain.upcalls();
        // Interrupts are off while the condition is asked: the event comes after the answer, before the sleep.
        Processor.halt_unless(|| {
            let _ = domain.xen().send(sender);
            false
        });
        ensure(domain.upcalls() > before, "awake without an upcall")?;
        ensure(domain.fired().contains(receiver), "the event is lost")?;
    }
    domain.ignore(receiver).map_err(|error| failed("ignore")(&error))?;
    for port in [receiver, sender] {
        domain.xen().close(port).map_err(|error| failed("close")(&error))?;
    }
    Ok(())
});

case!(on Xen: "domain.an_event_that_came_before_the_wait_ends_it_at_once", |machine| {
    let domain = domain_of(machine)?;
    let (sender, receiver) = loopback(domain)?;
    domain.listen(receiver).map_err(|error| failed("listen")(&error))?;
    // Who binds has an event at once, and an earlier case may have left one of this number.
    domain.fired().take(receiver);
    domain.xen().send(sender).map_err(|error| failed("send")(&error))?;
    // Without a deadline: were the event lost, this case would meet its bound.
    domain.sleeping().wait(receiver, u64::MAX);
    domain.ignore(receiver).map_err(|error| failed("ignore")(&error))?;
    for port in [receiver, sender] {
        domain.xen().close(port).map_err(|error| failed("close")(&error))?;
    }
    Ok(())
});
