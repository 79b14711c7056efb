//! No dispatch and no submission is longer than a watchdog waits, and calls that are cut up compute the same bits.

mod common;
#[cfg(feature = "gpu")]
#[path = "watchdog/cuts.rs"]
mod cuts;

use std::time::Duration;

use gatewise::Error;
use gatewise::cell::{Cell, GruCell, LstmCell, Reset, RnnCell, WeightType};
use gatewise::plan::{AdapterClass, CooperativeScans, Limits, Plan, PlanKind, Problem, Watchdog};

/// Limits of a GPU and of a software adapter.
fn devices() -> [Limits; 3] {
    let large = Limits {
        subgroup: 32,
        subgroup_most: 32,
        binding_bytes: 4 << 30,
        workgroup_bytes: 48 << 10,
        workgroup_invocations: 1024,
        cooperative: CooperativeScans { workgroups: 128, ..CooperativeScans::default() },
        cooperative_by_default: true,
        ..Limits::portable()
    };
    let software = Limits {
        class: AdapterClass::Software,
        subgroup: 8,
        subgroup_most: 8,
        workgroup_invocations: 1024,
        loop_cap: Some(65_535),
        ..Limits::portable()
    };
    [Limits::portable(), large, software]
}

fn cells() -> [Cell; 5] {
    [
        RnnCell::default().into(),
        LstmCell::default().into(),
        LstmCell { projection: Some(5), ..LstmCell::default() }.into(),
        GruCell::default().into(),
        GruCell { reset: Reset::Before, ..GruCell::default() }.into(),
    ]
}

fn pick(rng: &mut fastrand::Rng, from: &[usize]) -> usize {
    from[rng.usize(..from.len())]
}

fn problem(rng: &mut fastrand::Rng) -> Problem {
    let cell = cells()[rng.usize(..5)];
    Problem {
        cells: vec![cell; rng.usize(1..=2)],
        input: pick(rng, &[1, 40, 512, 2048, 8192]),
        hidden: pick(rng, &[6, 64, 128, 129, 512, 1024, 2048, 4096]),
        layers: rng.usize(1..=4),
        merged: rng.bool(),
        weight_type: WeightType::ALL[rng.usize(..4)],
        time: pick(rng, &[1, 7, 100, 1500, 20_000]),
        batch: pick(rng, &[1, 3, 64, 1000, 30_000, 2_000_000]),
    }
}

#[test]
fn no_dispatch_and_no_submission_of_a_plan_is_longer_than_a_watchdog_waits() {
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut planned, mut cut, mut overlong) = (0, 0, 0);
    for _ in 0..6000 {
        let problem = problem(&mut rng);
        let kind = [None, Some(PlanKind::ALL[rng.usize(..4)])][rng.usize(..2)];
        let watchdog = match rng.usize(..3) {
            0 => Watchdog::default(),
            at => {
                let dispatch = Duration::from_micros(rng.u64(50..20_000));
                Watchdog { dispatch, submission: dispatch * [1, 3][at - 1] }
            }
        };
        let limits = Limits { watchdog, ..devices()[rng.usize(..3)].clone() };
        let plan = match Plan::new(problem.clone(), &limits, kind) {
            Ok(plan) => plan,
            Err(Error::Limit { what, .. }) => {
                overlong += usize::from(what.contains("slow GPU"));
                assert!(!what.contains("slow GPU") || watchdog != Watchdog::default(), "{problem:?} by {kind:?}");
                continue;
            }
            Err(Error::Unsupported { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        let longest = plan.longest();
        assert!(longest.dispatch <= watchdog.dispatch, "{longest:?}, {watchdog:?}: {plan}");
        assert!(longest.submission <= watchdog.submission, "{longest:?}, {watchdog:?}: {plan}");
        assert!(longest.dispatch <= longest.submission, "{longest:?}: {plan}");
        // As many submissions as needed, and hardly more.
        assert!(plan.submits() >= 1 && plan.submits() <= plan.dispatches(), "{plan}");
        (planned, cut) = (planned + 1, cut + usize::from(plan.submits() > 1));
    }
    assert!(planned > 1500 && cut > 500 && planned - cut > 100 && overlong > 10, "{planned}, {cut}, {overlong}");
}

fn lstm(hidden: usize, time: usize, batch: usize) -> Problem {
    Problem {
        cells: vec![LstmCell::default().into()],
        input: hidden,
        hidden,
        layers: 1,
        merged: false,
        weight_type: WeightType::F32,
        time,
        batch,
    }
}

/// An integrated GPU of 0.5 TFLOP/s would take 6 s for the projection and 22 s for the steps.
#[test]
fn long_calls_are_cut_up() {
    let limits = Limits { binding_bytes: 4 << 30, ..Limits::portable() };
    let plan = Plan::new(lstm(2048, 1500, 64), &limits, None).expect("fits");
    assert!((20..200).contains(&plan.submits()), "{plan}");
    assert!((1520..1900).contains(&plan.dispatches()), "{plan}");
    assert!(plan.longest().dispatch > Duration::from_millis(100), "{:?}", plan.longest());
    // A grid beyond the device's 65,535 workgroups is cut up, too.
    let plan = Plan::new(lstm(4, 2, 2_000_000), &limits, Some(PlanKind::Step)).expect("fits");
    assert!(plan.dispatches() > 4, "{plan}");
}

/// Calls of usual sizes are not cut up.
#[test]
fn ordinary_calls_are_one_submission_of_whole_dispatches() {
    for limits in devices() {
        let limits = Limits { binding_bytes: 4 << 30, cooperative_by_default: false, ..limits };
        let endless = Watchdog { dispatch: Duration::from_secs(1000), submission: Duration::from_secs(100_000) };
        let endless = Limits { watchdog: endless, ..limits.clone() };
        for (hidden, time, batch) in [(64, 1000, 1), (128, 100, 64), (256, 1000, 1), (512, 100, 16), (1024, 25, 32)] {
            let [plan, other] =
                [&limits, &endless].map(|limits| Plan::new(lstm(hidden, time, batch), limits, None).expect("fits"));
            assert_eq!(plan.submits(), 1, "{plan}");
            assert_eq!((plan.dispatches(), plan.chunks().len()), (other.dispatches(), other.chunks().len()), "{plan}");
        }
    }
}
