//! Plans are pure: the text printed for a shape and a device's limits, and the refusals.

use std::fmt::Write;

use gatewise::Error;
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Reset, RnnCell, WeightType};
use gatewise::plan::{AdapterClass, CooperativeScans, Limits, Matrices, Plan, PlanKind, Problem};

/// A GPU of a data centre.
fn large() -> Limits {
    Limits {
        adapter: "a large GPU".to_owned(),
        subgroup: 32,
        subgroup_most: 32,
        binding_bytes: 4 << 30,
        workgroup_bytes: 48 << 10,
        workgroup_invocations: 1024,
        ..Limits::portable()
    }
}

/// The same where its workgroups may wait for each other.
fn cooperative() -> Limits {
    let cooperative = CooperativeScans { workgroups: 128, ..CooperativeScans::default() };
    Limits { adapter: "a large GPU, cooperative".to_owned(), cooperative, cooperative_by_default: true, ..large() }
}

/// Mesa's software adapter.
fn llvmpipe() -> Limits {
    Limits {
        adapter: "llvmpipe".to_owned(),
        class: AdapterClass::Software,
        subgroup: 8,
        subgroup_most: 8,
        workgroup_bytes: 32 << 10,
        workgroup_invocations: 1024,
        loop_cap: Some(65_535),
        ..Limits::portable()
    }
}

/// A device whose bindings hold 4,096 numbers.
fn small() -> Limits {
    Limits { adapter: "a small GPU".to_owned(), binding_bytes: 16 << 10, ..Limits::portable() }
}

/// A large GPU that lists matrices of these kinds.
fn with_matrices(adapter: &str, matrices: &[Matrices]) -> Limits {
    Limits { adapter: adapter.to_owned(), matrices: matrices.to_vec(), ..large() }
}

fn lstm(input: usize, hidden: usize, time: usize, batch: usize) -> Problem {
    Problem {
        cells: vec![LstmCell::default().into()],
        input,
        hidden,
        layers: 1,
        merged: false,
        weight_type: WeightType::F32,
        time,
        batch,
    }
}

fn of(cell: impl Into<Cell>, problem: Problem) -> Problem {
    Problem { cells: vec![cell.into()], ..problem }
}

fn both(problem: Problem) -> Problem {
    Problem { cells: vec![problem.cells[0]; 2], ..problem }
}

fn stacked(layers: usize, problem: Problem) -> Problem {
    Problem { layers, ..problem }
}

fn typed(weight_type: WeightType, problem: Problem) -> Problem {
    Problem { weight_type, ..problem }
}

/// Every printed plan is compared with the text in `fixtures/plans.txt`.
fn table() -> Vec<(Limits, Problem, Option<PlanKind>)> {
    let before = GruCell { reset: Reset::Before, ..GruCell::default() };
    let projected = LstmCell { projection: Some(64), ..LstmCell::default() };
    let relu = RnnCell { activation: Activation::Relu, ..RnnCell::default() };
    let mixed = Problem { cells: vec![RnnCell::default().into(), relu.into()], ..lstm(40, 32, 20, 2) };
    let cases = [
        (lstm(64, 128, 100, 1), None),
        (lstm(64, 128, 100, 1), Some(PlanKind::Step)),
        (typed(WeightType::Int8, lstm(64, 128, 100, 33)), None),
        (typed(WeightType::F16, lstm(32, 1024, 25, 4)), None),
        (of(before, lstm(48, 96, 12, 7)), None),
        (of(projected, lstm(48, 96, 12, 7)), None),
        (of(relu, lstm(32, 32, 672, 1)), None),
        (both(of(GruCell::default(), lstm(80, 64, 300, 16))), None),
        (Problem { merged: true, ..both(stacked(2, lstm(80, 256, 300, 3))) }, None),
        (mixed, None),
        (stacked(3, of(GruCell::default(), lstm(80, 512, 300, 4))), None),
        (stacked(3, of(GruCell::default(), lstm(80, 512, 300, 4))), Some(PlanKind::Step)),
        (stacked(2, lstm(16, 64, 50, 2)), None),
        (lstm(16, 64, 50_000, 2), None),
        (typed(WeightType::F16, lstm(16, 128, 50, 300)), None),
        (lstm(3, 4, 0, 1), None),
        (lstm(3, 4, 5, 0), None),
    ];
    let everywhere = [Limits::portable(), large(), llvmpipe()];
    let mut table: Vec<_> = cases
        .iter()
        .flat_map(|(problem, kind)| everywhere.iter().map(|limits| (limits.clone(), problem.clone(), *kind)))
        .collect();
    for problem in [
        lstm(64, 1024, 100, 1),
        typed(WeightType::F16, lstm(32, 1024, 25, 4)),
        both(of(GruCell::default(), lstm(80, 512, 300, 3))),
        stacked(3, of(RnnCell::default(), lstm(64, 384, 1600, 16))),
        // (1) More weights than registers hold; (2) two products per step; (3) a layer that one workgroup takes.
        lstm(64, 2048, 25, 1),
        of(before, lstm(48, 256, 12, 1)),
        lstm(64, 128, 100, 1),
    ] {
        table.push((cooperative(), problem, None));
    }
    table.push((Limits::portable(), typed(WeightType::Int8, lstm(64, 300, 100, 20)), Some(PlanKind::CooperativeScan)));
    table.push((llvmpipe(), lstm(64, 300, 100, 2), Some(PlanKind::CooperativeScan)));
    let half = || with_matrices("a large GPU with matrices of f16", &[Matrices::Half]);
    let both_kinds = || with_matrices("a large GPU with matrices of both kinds", &[Matrices::Half, Matrices::Float]);
    for kind in WeightType::ALL {
        table.push((half(), typed(kind, lstm(512, 512, 25, 16)), None));
        table.push((both_kinds(), typed(kind, both(of(GruCell::default(), lstm(80, 100, 40, 2)))), None));
    }
    table.push((half(), typed(WeightType::F16, lstm(512, 512, 25, 64)), None));
    table.push((half(), stacked(3, typed(WeightType::Int8, of(GruCell::default(), lstm(80, 512, 25, 32)))), None));
    // With a single row, a tile would mostly be padding.
    table.push((both_kinds(), lstm(64, 128, 1, 1), None));
    table.push((small(), lstm(3, 16, 60, 4), None));
    table.push((small(), stacked(3, lstm(3, 8, 60, 4)), Some(PlanKind::Wave)));
    table
}

#[test]
fn plans_are_printed_as_they_were() {
    let mut text = String::new();
    for (limits, problem, kind) in table() {
        let plan = Plan::new(problem, &limits, kind).expect("fits");
        writeln!(text, "adapter     {}\n{plan}\n", limits.adapter).expect("a string takes everything");
    }
    assert_eq!(text, include_str!("fixtures/plans.txt"), "what is printed now:\n{text}");
}

/// The message of a refused plan.
#[track_caller]
fn refusal(problem: Problem, limits: &Limits, kind: Option<PlanKind>) -> String {
    Plan::new(problem, limits, kind).expect_err("must be refused").to_string()
}

/// If lanes share rows, no call takes more dispatches than T + L + 2, or than two per layer and a third that merges
/// directions if that is more. A small layer takes two per chunk.
#[test]
fn calls_take_few_dispatches() {
    let before = GruCell { reset: Reset::Before, ..GruCell::default() };
    let projected = LstmCell { projection: Some(100), ..LstmCell::default() };
    let cells: [Cell; 5] = [
        RnnCell::default().into(),
        LstmCell::default().into(),
        projected.into(),
        GruCell::default().into(),
        before.into(),
    ];
    let sizes = [7, 128, 129, 512, 1024].into_iter().flat_map(|hidden| [1, 2, 3, 40].map(|time| (hidden, time)));
    for (hidden, time) in sizes {
        for cell in cells {
            for layers in [1, 2, 4] {
                let one = stacked(layers, of(cell, lstm(20, hidden, time, 3)));
                for problem in [one.clone(), both(one.clone()), Problem { merged: true, ..both(one) }] {
                    let plan = Plan::new(problem, &llvmpipe(), None).expect("fits");
                    let a_layer = 2 + usize::from(plan.problem().merged);
                    assert!(plan.dispatches() <= (time + layers + 2).max(a_layer * layers), "{plan}");
                    let alone = layers == 1 && plan.problem().cells.len() == 1;
                    if alone && hidden <= 128 && time > 1 {
                        assert_eq!(plan.dispatches(), 2 * plan.chunks().len(), "{plan}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_no_binding_holds_is_refused() {
    let few = small();
    let over = |what: &str, needed: u64| format!("plan: {what} needs {needed}, the limit of a small GPU is 16384");
    assert_eq!(refusal(lstm(3, 16, 1, 65), &few, None), over("one step's input projection in bytes", 16_640));
    assert_eq!(refusal(lstm(41, 16, 100, 1), &few, None), over("the input in bytes", 16_400));
    assert_eq!(refusal(both(lstm(3, 16, 129, 1)), &few, None), over("a layer's output in bytes", 16_512));
    assert_eq!(refusal(stacked(65, lstm(3, 16, 1, 4)), &few, None), over("the state in bytes", 16_640));
    // Sizes whose product nobody can count are refused, too.
    let huge = refusal(lstm(1 << 24, 1 << 24, 1 << 40, 1 << 20), &large(), None);
    assert!(huge.starts_with("plan: one step's input projection in bytes needs"), "{huge}");
}

#[test]
fn loops_that_the_driver_would_cut_are_refused() {
    let long = refusal(lstm(270_000, 2, 1, 2), &llvmpipe(), None);
    assert_eq!(long, "plan: loop iterations of one invocation needs 67506, the limit of llvmpipe is 65535");
    Plan::new(lstm(270_000, 2, 1, 2), &large(), None).expect("a GPU without such a cap");
}

/// A loop of n iterations counts n + 2: at this depth llvmpipe would have skipped the last of 16 rows.
#[test]
fn every_loop_of_an_invocation_counts() {
    Plan::new(lstm(262_060, 1, 1, 16), &llvmpipe(), None).expect("65,535 iterations");
    refusal(lstm(262_061, 1, 1, 16), &llvmpipe(), None);
}

#[test]
fn sizes_that_nobody_could_run_are_refused_without_a_batch_too() {
    for (hidden, input, layers) in [(usize::MAX, 1, 1), (1, usize::MAX, 1), (1, 1, usize::MAX), (1 << 40, 1 << 40, 2)] {
        for (time, batch) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            refusal(stacked(layers, lstm(input, hidden, time, batch)), &large(), None);
        }
    }
    refusal(both(stacked(2, lstm(3, usize::MAX, 5, 1))), &large(), None);
    let sizes =
        [1, usize::MAX / 2 + 1, usize::MAX].into_iter().flat_map(|time| [4, 128, 129].map(|hidden| (time, hidden)));
    for (time, hidden) in sizes {
        for limits in [large(), llvmpipe(), cooperative()] {
            let one = lstm(3, hidden, time, 0);
            for problem in [one.clone(), stacked(2, one.clone()), both(stacked(2, one))] {
                let none = Plan::new(problem, &limits, None).expect("nothing to run");
                assert_eq!((none.chunks().len(), none.dispatches(), none.bytes()), (0, 0, 0));
                assert!(none.to_string().contains("0 in 0 submits"), "{none}");
            }
        }
    }
}

#[test]
fn a_matrix_that_no_binding_holds_is_refused() {
    let message = refusal(lstm(64, 4096, 5, 1), &Limits::portable(), None);
    assert_eq!(message, "plan: a layer's weights in bytes needs 268435456, the limit of a WebGPU adapter is 134217728");
    Plan::new(typed(WeightType::F16, lstm(64, 4096, 5, 1)), &Limits::portable(), None).expect("half as many bytes");
}

/// The projection of many rows is cut up along time rather than refused.
#[test]
fn a_dispatch_has_no_more_workgroups_than_the_device_allows() {
    for (limits, rows) in [(large(), 8), (llvmpipe(), 16)] {
        let limits = Limits { binding_bytes: 8 << 30, ..limits };
        let plan = Plan::new(lstm(64, 64, 32, 65_536), &limits, Some(PlanKind::Step)).expect("fits");
        let longest = plan.chunks()[0].steps;
        assert_eq!((longest, plan.chunks().len()), (65_535 * rows / 65_536, 32_usize.div_ceil(longest)), "{plan}");
        // A step that has too many is cut up, too.
        let plan = Plan::new(lstm(64, 64, 2, 65_536 * rows), &limits, Some(PlanKind::Step)).expect("fits");
        assert!(plan.chunks().len() == 2 && plan.dispatches() >= 2 + 2 * 2, "{plan}");
    }
}

/// A workgroup that reads 256 KiB of weights per step ends after 8,192 steps; one that keeps them ends after 16 times as many.
#[test]
fn a_scan_on_a_gpu_ends_before_a_watchdog_does() {
    let longest = |kind| {
        let plan = Plan::new(typed(kind, lstm(8, 128, 200_000, 1)), &large(), None).expect("fits");
        assert_eq!(plan.kind(), PlanKind::Scan, "{plan}");
        plan.chunks()[0].steps
    };
    assert_eq!([WeightType::F32, WeightType::F16].map(longest), [8192, 131_072]);
}

/// Many rows fill a GPU without slices of the depth: then an invocation completes its own sums.
#[test]
fn only_small_batches_cut_the_depth() {
    let slices = |batch| {
        Plan::new(lstm(64, 1024, 3, batch), &large(), None).expect("fits").choice().step().map(|step| step.slices)
    };
    assert_eq!([1, 16, 32, 64, 128, 256].map(slices), [32, 16, 8, 1, 1, 1].map(Some));
}

#[test]
fn workgroups_beyond_the_device_are_refused() {
    let few = Limits { workgroup_invocations: 4, ..Limits::portable() };
    let message = refusal(lstm(3, 8, 2, 1), &few, None);
    assert_eq!(message, "plan: invocations of a workgroup needs 8, the limit of a WebGPU adapter is 4");
}

/// A step takes them from as many rows on as a workgroup has; in a wave it has room for the sums of both products.
#[test]
fn steps_of_many_rows_take_matrices() {
    let chosen = |limits: &Limits, problem, kind| {
        let plan = Plan::new(problem, limits, Some(kind)).expect("fits");
        plan.schedule().step().and_then(|tiles| tiles.matrices)
    };
    let half = with_matrices("half", &[Matrices::Half]);
    let of_batch = |batch| typed(WeightType::F16, stacked(2, lstm(64, 256, 30, batch)));
    for kind in [PlanKind::Step, PlanKind::Wave] {
        assert_eq!(chosen(&half, of_batch(32), kind), Some(Matrices::Half), "{kind}");
        assert_eq!(chosen(&half, of_batch(31), kind), None, "{kind}");
    }
    assert_eq!(chosen(&half, typed(WeightType::F16, lstm(64, 256, 30, 32)), PlanKind::Scan), None);
    let tight = Limits { workgroup_bytes: Matrices::Half.workgroup_bytes(2) - 1, ..half };
    assert_eq!(chosen(&tight, of_batch(32), PlanKind::Step), Some(Matrices::Half));
    assert_eq!(chosen(&tight, of_batch(32), PlanKind::Wave), None);
    let float = with_matrices("float", &[Matrices::Float]);
    let before = GruCell { reset: Reset::Before, ..GruCell::default() };
    assert_eq!(chosen(&float, of(before, lstm(64, 256, 30, 16)), PlanKind::Step), Some(Matrices::Float));
    assert_eq!(chosen(&float, of(before, lstm(64, 256, 30, 15)), PlanKind::Step), None);
}

/// Matrices serve weights that they hold exactly, on adapters whose workgroups have a subgroup for every gate.
#[test]
fn matrices_are_chosen_where_they_keep_the_precision() {
    let chosen = |limits: &Limits, problem| Plan::new(problem, limits, None).expect("fits").project().matrices;
    let half = with_matrices("half", &[Matrices::Half]);
    let of_type = |kind| typed(kind, lstm(64, 256, 30, 4));
    for (kind, held) in [
        (WeightType::F32, None),
        (WeightType::Bf16, None),
        (WeightType::F16, Some(Matrices::Half)),
        (WeightType::Int8, Some(Matrices::Half)),
    ] {
        assert_eq!(chosen(&half, of_type(kind)), held, "{kind}");
        assert_eq!(chosen(&with_matrices("float", &[Matrices::Float]), of_type(kind)), Some(Matrices::Float), "{kind}");
        assert_eq!(chosen(&large(), of_type(kind)), None, "an adapter that lists none");
    }
    let f16 = || of_type(WeightType::F16);
    // Half a tile of rows, and one row less.
    assert_eq!(chosen(&half, Problem { time: 4, ..f16() }), Some(Matrices::Half));
    assert_eq!(chosen(&half, Problem { time: 15, batch: 1, ..f16() }), None);
    for other in [
        Limits { class: AdapterClass::Software, ..half.clone() },
        Limits { subgroup: 0, subgroup_most: 0, ..half.clone() },
        Limits { subgroup_most: 128, ..half.clone() },
        Limits { workgroup_bytes: Matrices::Half.workgroup_bytes(1) - 1, ..half.clone() },
    ] {
        assert_eq!(chosen(&other, f16()), None, "{other:?}");
    }
    // Three gates take less room than four.
    let wide = Limits { subgroup_most: 64, workgroup_invocations: 192, ..half };
    assert_eq!(chosen(&wide, f16()), None);
    assert_eq!(chosen(&wide, of(GruCell::default(), f16())), Some(Matrices::Half));
    for kind in Matrices::ALL {
        assert_eq!(kind.name().parse::<Matrices>().expect("its own name"), kind);
    }
    let error = "quarter".parse::<Matrices>().expect_err("no such kind");
    assert!(matches!(error, Error::Value { what: "matrices", .. }), "{error}");
}

#[test]
fn a_kind_that_cannot_run_the_problem_is_refused() {
    let wave = |problem| refusal(problem, &large(), Some(PlanKind::Wave));
    let two = wave(both(lstm(3, 8, 5, 2)));
    assert!(two.starts_with("plan: the kind wave with two directions is not supported"), "{two}");
    let before = GruCell { reset: Reset::Before, ..GruCell::default() };
    let dependent = wave(stacked(2, of(before, lstm(3, 8, 5, 2))));
    assert!(dependent.starts_with("plan: the kind wave with two dependent products per step"), "{dependent}");
    let error = "shuffle".parse::<PlanKind>().expect_err("no such kind");
    assert!(matches!(error, Error::Value { what: "kind", .. }), "{error}");
    let wide = refusal(lstm(3, 300, 5, 2), &Limits::portable(), Some(PlanKind::Scan));
    assert!(wide.starts_with("plan: the kind scan with more units than a workgroup has invocations"), "{wide}");
    let cooperative_refusal = |problem, limits: &Limits| refusal(problem, limits, Some(PlanKind::CooperativeScan));
    let dependent = cooperative_refusal(of(before, lstm(3, 300, 5, 2)), &large());
    assert!(dependent.starts_with("plan: the kind cooperative with two dependent products per step"), "{dependent}");
    let few = Limits { cooperative: CooperativeScans { workgroups: 3, ..CooperativeScans::default() }, ..large() };
    let units = cooperative_refusal(lstm(3, 1000, 5, 2), &few);
    assert!(
        units.starts_with("plan: the kind cooperative with more units than its workgroups have invocations"),
        "{units}"
    );
    let narrow = Limits { binding_bytes: 4 << 30, cooperative: cooperative().cooperative, ..Limits::portable() };
    let narrow = cooperative_refusal(lstm(3, 8000, 5, 1), &narrow);
    assert!(narrow.starts_with("plan: the kind cooperative with a state beyond the workgroup memory"), "{narrow}");
    let cut = cooperative_refusal(lstm(3, 300, 5, 2), &Limits { loop_cap: Some(200), ..large() });
    assert!(cut.starts_with("plan: the kind cooperative with a step beyond the driver's loop cap"), "{cut}");
    for kind in PlanKind::ALL {
        assert_eq!(kind.name().parse::<PlanKind>().expect("its own name"), kind);
    }
    assert_eq!("wide".parse::<PlanKind>().expect("the former name"), PlanKind::CooperativeScan);
}
