//! Statements 58 to 63, and the hazards of the original that are contained here.

use crate::support::{Reader, machine, one_shot, reusable, see};
use percpu::reference::MAX_REFERENCES;
use percpu::{Misuse, PercpuRef, Report, Start};

#[test]
fn s058_s059_a_put_too_many_is_reported_by_name_at_the_fold_and_leaks() {
    let (host, _cpu) = machine(2);
    for (extra, count_then) in [(1, 0), (2, -1)] {
        let (count, log) = one_shot(host);
        // SAFETY: a misuse, contained: the count is poisoned below.
        unsafe { PercpuRef::put_raw(&count, extra) };
        assert!(host.take_reports().is_empty(), "nobody can know yet");
        let dying = count.owner().unwrap().kill();
        host.rcu().barrier().unwrap();
        assert_eq!(host.take_reports(), [Report::FoldUnderflow { name: "one-shot", count: count_then }]);
        assert!(see(&count).poisoned && !dying.is_zero());
        // Whatever comes now is neither reported again nor releases.
        drop(count.tryget());
        // SAFETY: as above.
        unsafe { PercpuRef::put_raw(&count, 3) };
        assert_eq!(dying.wait_zero(), Err(Misuse::Poisoned));
        assert_eq!(log.released(), 0);
        assert!(host.take_reports().is_empty());
        drop(dying);
        drop(count);
        assert!(host.take_reports().is_empty(), "reported once");
    }
}

#[test]
fn s059_a_poisoned_count_does_not_live_again() {
    let (host, _cpu) = machine(2);
    let (count, _) = reusable(host, Start::Percpu);
    // SAFETY: a misuse, contained.
    unsafe { PercpuRef::put_raw(&count, 1) };
    let dying = count.owner().unwrap().kill();
    host.rcu().barrier().unwrap();
    let refused = dying.reinit().expect_err("poisoned");
    assert_eq!(refused.why, Misuse::Poisoned);
    let refused = refused.token.resurrect().expect_err("poisoned");
    assert_eq!(refused.why, Misuse::Poisoned);
    assert_eq!(refused.token.switch_to_percpu(), Err(Misuse::Poisoned));
    assert_eq!(host.take_reports().len(), 1);
}

#[test]
fn s060_leaving_with_a_switch_pending_is_refused_or_left_to_the_switch() {
    let (host, _cpu) = machine(2);
    let (mut count, log) = one_shot(host);
    let reader = Reader::start(host, 1);
    drop(count.owner().unwrap());
    assert_eq!(count.exit(), Err(Misuse::Pending));
    assert!(count.inspect().is_some(), "nothing has happened");
    drop(count);
    assert_eq!(log.released(), 0);
    reader.finish();
    host.rcu().barrier().unwrap();
    assert_eq!(log.released(), 1);
    assert_eq!(std::sync::Arc::strong_count(&log), 1, "the block is freed");
    assert_eq!(host.words_in_use(), 0);
    assert!(host.take_reports().is_empty());
}

#[test]
fn s060_leaving_with_references_is_refused_or_reported() {
    let (host, _cpu) = machine(2);
    for killed in [false, true] {
        let (mut count, _) = one_shot(host);
        count.owner().unwrap().get().into_raw();
        if killed {
            drop(count.dying().expect("the owner was dropped above"));
            host.rcu().barrier().unwrap();
        }
        let refused = count.exit();
        if killed {
            assert_eq!(refused, Err(Misuse::NotZero));
        } else {
            assert_eq!(refused, Err(Misuse::Pending));
            host.rcu().barrier().unwrap();
        }
        drop(count);
        assert_eq!(host.take_reports(), [Report::DroppedWithReferences { name: "one-shot" }]);
    }
    assert_eq!(host.words_in_use(), 0);
}

#[test]
fn s061_a_get_after_zero_is_reported() {
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Atomic);
    drop(count.owner().unwrap());
    assert_eq!(log.released(), 1);
    // SAFETY: a misuse, contained: there is no reference.
    unsafe { count.get_raw(1) };
    assert_eq!(host.take_reports(), [Report::GetAfterZero { name: "reusable" }]);
    // SAFETY: as above.
    unsafe { PercpuRef::put_raw(&count, 1) };
    assert_eq!(log.released(), 1, "and does not release again");
    assert!(see(&count).poisoned);
}

#[test]
fn s062_a_put_below_zero_is_reported_and_saturates() {
    let (host, _cpu) = machine(2);
    let (count, log) = reusable(host, Start::Atomic);
    drop(count.owner().unwrap());
    for _ in 0..1_000 {
        // SAFETY: a misuse, contained.
        unsafe { PercpuRef::put_raw(&count, 1) };
    }
    assert_eq!(host.take_reports(), [Report::Underflow { name: "reusable" }], "once");
    assert!(see(&count).poisoned);
    assert_eq!(log.released(), 1);

    let (count, log) = reusable(host, Start::Atomic);
    let owner = count.owner().unwrap();
    // SAFETY: a misuse, contained: two are put where one is.
    unsafe { PercpuRef::put_raw(&count, 2) };
    assert_eq!(host.take_reports(), [Report::Underflow { name: "reusable" }]);
    drop(owner);
    assert_eq!(log.released(), 0, "leaked rather than freed early");
}

#[test]
fn s063_beyond_the_limit_is_reported() {
    let (host, _cpu) = machine(2);
    let overflow = [Report::Overflow { name: "reusable" }];
    // In atomic mode at once.
    let (count, _) = reusable(host, Start::Atomic);
    let owner = count.owner().unwrap();
    std::mem::forget(owner.get_many(MAX_REFERENCES - 1));
    assert!(host.take_reports().is_empty(), "the limit itself is fine");
    std::mem::forget(owner.get());
    assert_eq!(host.take_reports(), overflow);
    assert!(see(&count).poisoned);
    drop(owner);
    // One by one per CPU: at the fold.
    let (count, log) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    std::mem::forget(owner.get_many(MAX_REFERENCES));
    std::mem::forget(owner.get_many(5));
    drop(owner);
    host.rcu().barrier().unwrap();
    assert_eq!(host.take_reports(), overflow);
    assert_eq!(log.released(), 0);
    // More than that in one call: also in per-CPU mode.
    let (count, _) = reusable(host, Start::Percpu);
    let owner = count.owner().unwrap();
    std::mem::forget(owner.get_many(MAX_REFERENCES + 1));
    assert_eq!(host.take_reports(), overflow);
    assert!(count.tryget_many(u64::MAX).is_some(), "a poisoned count is never released");
    std::mem::forget(owner);
}

/// Four times 2^62 is zero, in 64 bits.
#[test]
fn a_count_does_not_go_round() {
    for start in [Start::Percpu, Start::Atomic] {
        let (host, _cpu) = machine(2);
        let (count, log) = reusable(host, start);
        let owner = count.owner().unwrap();
        for _ in 0..4 {
            std::mem::forget(owner.get_many(MAX_REFERENCES));
        }
        drop(owner);
        host.rcu().barrier().unwrap();
        assert_eq!(log.released(), 0, "leaked rather than freed early: there are references");
        assert_eq!(host.take_reports(), [Report::Overflow { name: "reusable" }]);
        assert!(see(&count).poisoned);
    }
}

#[test]
fn use_after_exit_is_reported_and_harmless() {
    let (host, _cpu) = machine(2);
    let (mut count, _) = one_shot(host);
    count.exit().unwrap();
    // SAFETY: a misuse, contained.
    unsafe { count.get_raw(1) };
    // SAFETY: as above.
    unsafe { PercpuRef::put_raw(&count, 1) };
    assert_eq!(host.take_reports(), [Report::UseAfterExit; 2]);
}

#[test]
fn a_kill_where_nothing_may_block_goes_through() {
    let (host, _cpu) = machine(2);
    for pending in [false, true] {
        let (count, log) = reusable(host, Start::Percpu);
        let owner = count.owner().unwrap();
        if pending {
            owner.switch_to_atomic().unwrap();
        }
        let section = host.rcu().read_lock();
        let dying = host.interrupt(|| owner.kill_and_confirm());
        assert_eq!((log.confirmed(), log.released()), (0, 0));
        drop(section);
        host.rcu().barrier().unwrap();
        assert_eq!((log.confirmed(), log.released(), log.switched()), (1, 1, usize::from(pending)));
        drop(dying);
    }
    assert!(host.take_reports().is_empty());
}

#[test]
fn a_count_is_16_bytes_on_a_kernel() {
    // The host's handle of the platform is a pointer; a kernel's is nothing.
    let handle = size_of::<percpu::host::Host>();
    assert_eq!(size_of::<PercpuRef<percpu::host::Host, fn()>>(), 16 + handle);
}
