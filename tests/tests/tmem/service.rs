//! The conformance cases where there is no tmem, and on a service without Xen's defects.

use ebb_tests::conformance::{COUNT, Verdict, cases};
use ebb_tests::model::{Config, Model, ModelEnv, Service};

/// Runs the cases about tmem, each in a guest of its own; answers how many passed and how many were skipped.
fn run(tmem: Service) -> (usize, usize) {
    let (mut passed, mut skipped) = (0, 0);
    for number in 0..COUNT {
        let model = Model::new(Config { tmem, ..Config::default() });
        let case = cases().into_iter().nth(number).expect("there are as many cases");
        if !case.id.starts_with("tmem.") {
            continue;
        }
        match case.run(&ModelEnv::new(&model)) {
            Verdict::Pass => passed += 1,
            Verdict::Skip(_) => skipped += 1,
            failed @ Verdict::Fail(_) => unreachable!("{}: {failed}", case.id),
        }
        model.validate().expect("the model's books balance");
    }
    (passed, skipped)
}

#[test]
fn without_tmem_all_but_one_are_skipped() {
    for service in [Service::Absent, Service::Disabled, Service::Denied] {
        assert_eq!(run(service), (1, 113), "{service:?}");
    }
}

#[test]
fn all_on_one_boot_of_xen_412() {
    let model = Model::new(Config { tmem: Service::Xen412, ..Config::default() });
    let env = ModelEnv::new(&model);
    let mut skipped = 0;
    for case in
        cases().into_iter().filter(|case: &ebb_tests::conformance::Case<_>| case.id.starts_with("tmem."))
    {
        match case.run(&env) {
            Verdict::Pass => {}
            Verdict::Skip(_) => skipped += 1,
            failed @ Verdict::Fail(_) => unreachable!("{}: {failed}", case.id),
        }
        model.validate().expect("the model's books balance");
    }
    assert_eq!(skipped, 3, "absent, switched off, denied");
}

#[test]
fn a_sound_service_passes_what_it_must() {
    assert_eq!(run(Service::Sound), (111, 3));
}
