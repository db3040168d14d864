//! Doorbells and timers: by event channels under Xen, by local APICs without.
#![expect(unsafe_code, reason = "the local APIC")]

use super::local::{self, Local};
use super::{SHOOTDOWN, Translations, now_ns};
use crate::machine::Machine;
use core::sync::atomic::{AtomicU64, Ordering};
use ebb::arch::apic::{Ipi, LocalApic};
use ebb::arch::interrupts::{self, FIRST_INTERRUPT};
use ebb::arch::local as gs;
use ebb::port::{Armed, EventOps, SchedOps, VcpuOps};
use ebb::smp::{CpuId, Message};
use ebb::units::{Gfn, PhysAddr, VcpuId};
use ebb::xen::Xen;
use ebb::xen::transport::Instruction;
use spin::once::Once;
use x86_64::instructions::interrupts::without_interrupts;

/// Vectors of the local APIC. The one below is the upcall's.
const DOORBELL: u8 = FIRST_INTERRUPT + 1;
const TIMER: u8 = FIRST_INTERRUPT + 2;
const SPURIOUS: u8 = FIRST_INTERRUPT + 13;

/// What carries interrupts.
#[derive(Clone, Copy, Debug)]
enum Carrier {
    Xen(Xen<Instruction>),
    Apic {
        apic: LocalApic,
        /// The timer's rate, in ticks per millisecond.
        rate: u32,
    },
}

static CARRIER: Once<Carrier> = Once::new();
static KICKED: Once<fn()> = Once::new();
static EXPIRED: Once<fn()> = Once::new();
static THREADS_EXPIRED: Once<fn()> = Once::new();

/// Has `handler` called in the interrupt when another CPU kicks this one. Only the first call counts.
pub fn set_kick_handler(handler: fn()) {
    KICKED.call_once(|| handler);
}

/// Has `handler` called in the interrupt when the timer of a CPU fires at its deadline. Only the first call counts.
pub fn set_timer_handler(handler: fn()) {
    EXPIRED.call_once(|| handler);
}

/// The same for the deadline of [`arm_threads`]. Only the first call counts.
pub(crate) fn set_threads_timer_handler(handler: fn()) {
    THREADS_EXPIRED.call_once(|| handler);
}

/// Uses event channels from now on.
pub(crate) fn use_xen(xen: Xen<Instruction>) {
    CARRIER.call_once(|| Carrier::Xen(xen));
}

/// Uses the local APIC from now on, with interrupts on for this CPU. Says why if there is none to use.
pub(crate) fn use_apic(machine: &Machine) -> Result<(), &'static str> {
    let page = match LocalApic::physical_address() {
        Some(at) => {
            let frame = Gfn::containing(PhysAddr::new(at));
            Some(machine.map_special(frame).map_err(|_| "no room to map its registers")?)
        }
        None => None,
    };
    // SAFETY: mapped just now, for good, and nobody else has an APIC to use; without a page the firmware has
    // chosen x2APIC mode, for all processors alike.
    let apic = unsafe { LocalApic::new(page) };
    for (vector, handler) in [(DOORBELL, apic_doorbell as fn()), (TIMER, apic_timer)] {
        interrupts::set_interrupt_handler(vector, handler).map_err(|_| "its vectors are taken")?;
    }
    apic.enable(SPURIOUS, TIMER);
    let rate = calibrate(apic).ok_or("its timer does not run, or there is no clock to measure it")?;
    CARRIER.call_once(|| Carrier::Apic { apic, rate });
    x86_64::instructions::interrupts::enable();
    Ok(())
}

/// Ticks of the timer per millisecond, by the clock.
fn calibrate(apic: LocalApic) -> Option<u32> {
    const MILLIS: u64 = 5;
    const MOST_ROUNDS: u32 = 10_000_000;
    without_interrupts(|| {
        apic.set_timer(u32::MAX);
        let start_ns = now_ns();
        let ended = (0..MOST_ROUNDS).any(|_| now_ns() >= start_ns + MILLIS * 1_000_000);
        let (end_ns, left) = (now_ns(), apic.timer());
        apic.set_timer(0);
        let passed_us = (end_ns - start_ns) / 1000;
        let rate = u64::from(u32::MAX - left) * 1000 / passed_us.max(1);
        u32::try_from(rate).ok().filter(|rate| ended && *rate > 0)
    })
}

/// The APIC, if that carries interrupts.
pub(super) fn apic() -> Option<LocalApic> {
    match CARRIER.get() {
        Some(Carrier::Apic { apic, .. }) => Some(*apic),
        _ => None,
    }
}

/// Prepares this CPU, which has just come up, to take interrupts.
pub(super) fn start_here() {
    if let Some(apic) = apic() {
        apic.enable(SPURIOUS, TIMER);
    }
}

/// Interrupts `cpu`, to see its messages. Any context.
pub(super) fn ring(cpu: CpuId, local: &Local) {
    match CARRIER.get() {
        Some(Carrier::Xen(xen)) => {
            if let Some(port) = local.doorbell() {
                // An IPI port that is open takes every event; were it not, whoever waits for an answer says so.
                let _ = xen.send(port);
            }
        }
        Some(Carrier::Apic { .. }) => send_apic(local, Ipi::Vector(DOORBELL)),
        None => unreachable!("{cpu} was started without a way to interrupt it"),
    }
}

/// Interrupts a CPU that takes no interrupts, as the last resort.
pub(super) fn send_nmi(cpu: CpuId, local: &Local) {
    match CARRIER.get() {
        Some(Carrier::Xen(xen)) => {
            // The count of CPUs that stopped tells whether it came.
            let _ = xen.send_nmi(VcpuId::new(cpu.get() as u32));
        }
        Some(Carrier::Apic { .. }) => send_apic(local, Ipi::Nmi),
        None => {}
    }
}

fn send_apic(local: &Local, ipi: Ipi) {
    let (Some(apic), Ok(target)) = (apic(), u8::try_from(local.apic.load(Ordering::Relaxed))) else { return };
    // SAFETY: the doorbell's vector, for which every CPU has an entry, or the NMI; neither INIT nor startup. If it does
    // not go out, whoever waits for an answer says so.
    let _ = without_interrupts(|| unsafe { apic.send(target, ipi) });
}

/// Whether CPUs that wait for others should [`nap`].
pub(super) fn naps() -> bool {
    matches!(CARRIER.get(), Some(Carrier::Xen(_)))
}

/// Leaves this CPU's processor to the host until somebody rings here, or for `most_ns`. Any context.
pub(super) fn nap(most_ns: u64) {
    let Some(Carrier::Xen(xen)) = CARRIER.get() else { return };
    if let Some(port) = local::mine().doorbell() {
        // A refusal is a nap that is over at once.
        let _ = xen.poll(&[port], Some(now_ns() + most_ns));
    }
    if !x86_64::instructions::interrupts::are_enabled() {
        // A ring that is not answered yet has ended the nap, and would end the next one.
        xen.yield_now();
    }
}

/// Reads messages and acts on them. In the interrupt, with interrupts off.
pub(crate) fn doorbell() {
    let (cpu, local) = (gs::cpu(), local::mine());
    local.doorbell_count.fetch_add(1, Ordering::Relaxed);
    let messages = local.messages.take();
    if messages.has(Message::Stop) {
        super::stop::stop_here(cpu);
    }
    // Not only if there is a message: one may have been answered while its doorbell was on the way.
    SHOOTDOWN.serve(cpu, &Translations);
    if messages.has(Message::Call) {
        local.calls.serve();
    }
    if messages.has(Message::Frames) {
        crate::frames::answer();
    }
    if [Message::Call, Message::Flush, Message::Frames].iter().any(|message| messages.has(*message)) {
        super::wait::wake_nappers(cpu);
    }
    if messages.has(Message::Work) {
        crate::platform::work_posted(cpu);
    }
    if messages.has(Message::Kick)
        && let Some(kicked) = KICKED.get()
    {
        kicked();
    }
}

fn apic_doorbell() {
    // First, so that a ring from now on is a new interrupt.
    if let Some(apic) = apic() {
        apic.end_of_interrupt();
    }
    doorbell();
}

fn apic_timer() {
    if let Some(apic) = apic() {
        apic.end_of_interrupt();
    }
    timer();
}

/// The timer has fired. In the interrupt, with interrupts off. Whatever is not due yet is set again.
pub(crate) fn timer() {
    let local = local::mine();
    let now_ns = now_ns();
    local.armed_ns.store(u64::MAX, Ordering::Relaxed);
    // A deadline at the end of time is none.
    let due = |deadline_ns: &AtomicU64| {
        let due = deadline_ns.load(Ordering::Relaxed) <= now_ns;
        if due {
            deadline_ns.store(u64::MAX, Ordering::Relaxed);
        }
        due
    };
    if due(&local.deadline_ns) {
        local.timer_last_ns.store(now_ns, Ordering::Relaxed);
        local.timer_count.fetch_add(1, Ordering::Release);
        if let Some(expired) = EXPIRED.get() {
            expired();
        }
    }
    if due(&local.threads_ns)
        && let Some(expired) = THREADS_EXPIRED.get()
    {
        expired();
    }
    let next_ns = earliest(local);
    if next_ns < local.armed_ns.load(Ordering::Relaxed) {
        rearm_or_soon(local);
    }
}

/// The earlier of the two deadlines of a CPU.
fn earliest(local: &Local) -> u64 {
    local.deadline_ns.load(Ordering::Relaxed).min(local.threads_ns.load(Ordering::Relaxed))
}

/// Sets the timer for the earlier deadline, or stops it. Answers whether an interrupt will come.
fn rearm(local: &Local) -> bool {
    let next_ns = earliest(local);
    local.armed_ns.store(next_ns, Ordering::Relaxed);
    set_timer((next_ns != u64::MAX).then_some(next_ns))
}

/// As [`rearm`], for callers that have no other way to see to a deadline that has passed meanwhile: then the interrupt
/// comes soon. The hypervisor refuses a time that is past, and the deadlines would stand with nothing to serve them.
fn rearm_or_soon(local: &Local) {
    /// The first try, and how often it is doubled: to more than a second.
    const SOON_NS: u64 = 20_000;
    const DOUBLED: u32 = 16;
    if rearm(local) || CARRIER.get().is_none() {
        return;
    }
    // A processor that the host has put aside between the look at the clock and the call is late again.
    let _ = (0..=DOUBLED).any(|doubled| {
        let soon_ns = now_ns().saturating_add(SOON_NS << doubled);
        local.armed_ns.store(soon_ns, Ordering::Relaxed);
        set_timer(Some(soon_ns))
    });
}

/// Has the timer of this CPU fire at `deadline_ns`, or soon after if that is past, or stops it. Replaces what was
/// set before. Answers whether an interrupt will come; interrupts are off.
pub(super) fn arm(deadline_ns: Option<u64>) -> bool {
    let local = local::mine();
    local.deadline_ns.store(deadline_ns.unwrap_or(u64::MAX), Ordering::Relaxed);
    let armed = rearm(local);
    if !armed {
        local.deadline_ns.store(u64::MAX, Ordering::Relaxed);
    }
    armed
}

/// As [`arm`], for the threads of this CPU: both deadlines stand, and the timer serves both. Where there is no
/// timer at all, nothing will come, and asking again would not help.
pub(super) fn arm_threads(deadline_ns: u64) -> bool {
    let local = local::mine();
    local.threads_ns.store(deadline_ns, Ordering::Relaxed);
    rearm(local) || CARRIER.get().is_none()
}

/// Somebody else has used this CPU's timer: sets it again. Interrupts are off.
pub(super) fn restore_timer() {
    rearm_or_soon(local::mine());
}

/// One round of waiting for another CPU, which under Xen may not be running. Any context.
pub(super) fn relax() {
    /// Rounds after which the host may let another run.
    const ROUNDS: u32 = 512;
    core::hint::spin_loop();
    if local::mine().waited.fetch_add(1, Ordering::Relaxed).is_multiple_of(ROUNDS)
        && let Some(Carrier::Xen(xen)) = CARRIER.get()
    {
        xen.yield_now();
    }
}

/// Sets the timer itself. Without a deadline the answer is true.
fn set_timer(deadline_ns: Option<u64>) -> bool {
    match CARRIER.get() {
        Some(Carrier::Xen(xen)) => {
            let vcpu = VcpuId::new(gs::cpu().get() as u32);
            match deadline_ns {
                Some(deadline_ns) => xen.set_timer(vcpu, deadline_ns) == Ok(Armed::Pending),
                // It may not have been set, and a timer that fires without a deadline is ignored.
                None => {
                    let _ = xen.stop_timer(vcpu);
                    true
                }
            }
        }
        Some(Carrier::Apic { apic, rate }) => {
            let ticks = deadline_ns.map_or(0, |deadline_ns| {
                let left_ns = u128::from(deadline_ns.saturating_sub(now_ns()));
                // A count that is too large is cut: the timer comes early then and is set again.
                let ticks = (left_ns * u128::from(*rate)).div_ceil(1_000_000).max(1);
                u32::try_from(ticks).unwrap_or(u32::MAX)
            });
            apic.set_timer(ticks);
            true
        }
        None => deadline_ns.is_none(),
    }
}
