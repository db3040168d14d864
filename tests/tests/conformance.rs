//! The conformance suite on the model hypervisor, one test per case.
#![expect(unsafe_code, reason = "releases the model's frames")]
#![expect(clippy::expect_used, reason = "a test")]

use ebb::port::{Completed, MemoryOps};
use ebb::units::{BLOCK_FRAMES, Gfn, Order};
use ebb_tests::conformance::{COUNT, Verdict, cases};
use ebb_tests::model::{Config, Model, ModelEnv, Service};
use std::collections::BTreeSet;

/// Runs one case in a guest of its own.
fn run(id: &str, config: Config) -> Verdict {
    let model = Model::new(with_tmem(id, config));
    let ports = {
        let env = ModelEnv::new(&model);
        let ports = model.open_ports();
        let case = cases().into_iter().find(|case| case.id == id).expect("the case is in the list");
        let verdict = case.run(&env);
        model.validate().expect("the model's books balance");
        if verdict == Verdict::Pass {
            assert_eq!(model.leaked(), case.leaks, "frames leaked");
        } else {
            return verdict;
        }
        ports
    };
    assert_eq!(model.open_ports(), ports, "ports left open");
    Verdict::Pass
}

/// The hypervisor that a case is about: most know of no tmem, which is served by an older one.
fn with_tmem(id: &str, config: Config) -> Config {
    let tmem = match id {
        id if !id.starts_with("tmem.") => return config,
        "tmem.s001_absent_is_enosys" => Service::Absent,
        "tmem.s002_switched_off_is_enodev" => Service::Disabled,
        "tmem.s010_a_policy_that_refuses_is_eperm" => Service::Denied,
        _ => Service::Xen412,
    };
    Config { tmem, ..config }
}

fn two_vcpus() -> Config {
    Config { vcpus: 2, ..Config::default() }
}

macro_rules! tests {
    ($($area:ident { $($name:ident $([$leaks:literal])?: $fact:literal;)* })*) => {
        $(mod $area {
            $(#[test]
            fn $name() {
                let verdict = super::run(concat!(stringify!($area), ".", stringify!($name)), super::two_vcpus());
                assert_eq!(verdict, ebb_tests::conformance::Verdict::Pass, "{verdict}");
            })*
        })*
    };
}

ebb_tests::for_each_case!(tests);

#[test]
fn names_are_unique() {
    let ids: BTreeSet<_> = cases::<ModelEnv<'_>>().iter().map(|case| case.id).collect();
    assert_eq!(ids.len(), COUNT);
}

/// As in the guest: one boot for all of them, in order.
#[test]
fn all_in_one_guest() {
    let model = Model::new(two_vcpus());
    let env = ModelEnv::new(&model);
    for case in cases() {
        let verdict = case.run(&env);
        let absent = case.id.starts_with("tmem.") && matches!(verdict, Verdict::Skip(_));
        assert!(verdict == Verdict::Pass || absent, "{}: {verdict}", case.id);
        model.validate().expect("the model's books balance");
    }
}

/// A guest that owes memory passes every case that releases none.
#[test]
fn all_in_debt() {
    let config = Config { maximum_mib: 32, memory_mib: 16, ..two_vcpus() };
    for case in cases::<ModelEnv<'_>>() {
        let frames = case.id.starts_with("memory.") || case.id.starts_with("malformed.");
        match run(case.id, config.clone()) {
            Verdict::Skip(_) => assert!(frames, "{}", case.id),
            verdict => assert_eq!((verdict, frames), (Verdict::Pass, false), "{}: {verdict}", case.id),
        }
    }
}

/// Once it has released what it owes, it passes them all.
#[test]
fn all_after_paying_the_debt() {
    let model = Model::new(Config { maximum_mib: 32, memory_mib: 16, ..two_vcpus() });
    let owed: Vec<_> = (1..9).map(|block| Gfn::new(block * BLOCK_FRAMES)).collect();
    // SAFETY: no object of this test lives in the model's RAM.
    let released = unsafe { model.xen().decrease_reservation(Order::BLOCK, &owed) };
    assert_eq!(released, Ok(Completed::new(8)));
    let env = ModelEnv::new(&model);
    for case in cases() {
        let verdict = case.run(&env);
        let absent = case.id.starts_with("tmem.") && matches!(verdict, Verdict::Skip(_));
        assert!(verdict == Verdict::Pass || absent, "{}: {verdict}", case.id);
        model.validate().expect("the model's books balance");
    }
}

/// Page-table pages as the toolstack gives them are enough for every case.
#[test]
fn all_with_the_toolstacks_paging_pool() {
    let model = Model::new(Config { paging_pool: Some(256 + 16), ..two_vcpus() });
    let env = ModelEnv::new(&model);
    for case in cases() {
        let verdict = case.run(&env);
        let absent = case.id.starts_with("tmem.") && matches!(verdict, Verdict::Skip(_));
        assert!(verdict == Verdict::Pass || absent, "{}: {verdict}", case.id);
    }
}
