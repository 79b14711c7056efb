//! Every kernel against its twin in the reference: edge shapes, every override, guard words behind every buffer.

#![cfg(feature = "gpu")]

#[path = "mutants/mod.rs"]
mod mutants;
#[path = "parity/mod.rs"]
mod parity;
#[path = "parity/support.rs"]
mod support;

use std::time::Instant;

use gatewise::gpu::{KERNELS, Kernel};

use parity::{Case, GUARD, Slot, can_run, kernel_cases};
use support::{Tolerance, gpu};

fn kernel(name: &str) -> &'static Kernel {
    KERNELS.iter().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no kernel {name} in KERNELS"))
}

fn agrees(name: &str, cases: &[Case]) {
    let gpu = gpu();
    let kernel = kernel(name);
    if !can_run(&gpu, kernel) {
        // The plan knows it as well: it chooses the kernel's twin.
        return eprintln!("{name}: {} has no subgroups of 8 lanes or more", gpu.adapter().name);
    }
    let begin = Instant::now();
    let failures: Vec<String> = cases.iter().filter_map(|case| case.run(&gpu, kernel).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
    eprintln!("{name}: {} cases in {:.1} s", cases.len(), begin.elapsed().as_secs_f64());
}

macro_rules! tests {
    ($($name:ident: $cases:path;)+) => {
        $(
            #[test]
            fn $name() {
                agrees(stringify!($name), &$cases());
            }
        )+

        #[test]
        fn every_kernel_has_cases() {
            let table: Vec<(&str, usize)> = vec![$((stringify!($name), $cases().len())),+];
            let few = |kernel: &&&Kernel| !table.iter().any(|(name, cases)| *name == kernel.name && *cases >= 5);
            let without: Vec<&str> = KERNELS.iter().filter(few).map(|kernel| kernel.name).collect();
            assert!(
                without.is_empty(),
                "{without:?} without parity cases: write a function that returns at least 5 `Case`s (what goes in, and what \
                 the reference in f64 says must come out) in the file of the kernel's family in tests/parity/, and name it \
                 in `kernel_cases` in tests/parity/mod.rs; then plant faults in tests/mutants/mod.rs"
            );
            let unknown: Vec<_> = table.iter().filter(|(name, _)| KERNELS.iter().all(|k| k.name != *name)).collect();
            assert!(unknown.is_empty(), "{unknown:?} are not in KERNELS");
        }
    };
}
kernel_cases!(tests);

/// The comparison itself: it must see a wrong number, a NaN and a changed guard word.
#[test]
fn the_comparison_can_fail() {
    let tolerance = Tolerance { abs: 1e-6, rel: 0.0 };
    for wrong in [1.0 + 3e-6, f32::NAN, f32::INFINITY, -1.0] {
        assert!(tolerance.check("y", &[0.5, wrong], &[0.5, 1.0]).is_err(), "{wrong}");
    }
    assert!(tolerance.check("y", &[0.5], &[0.5, 1.0]).is_err());
    assert!(tolerance.check("y", &[f32::NAN, 1.0 + 4e-7], &[f32::NAN, 1.0]).is_ok());

    // A kernel that writes nothing, one that writes too much: 64 zeros for 63, and one in the wrong place.
    let x = vec![0.0; 63];
    let case = |buffers: Vec<Slot>, count: u32| Case {
        name: "self-test".to_owned(),
        constants: Vec::new(),
        dims: vec![count, 0, 0],
        buffers,
        grid: [1, 1, 1],
        tolerance: Tolerance::ELEMENTWISE,
    };
    let right = Slot::output(63).near(0, vec![0.0; 63]);
    let unary = kernel("unary");
    case(vec![Slot::floats(&x), right.clone()], 63).run(&gpu(), unary).expect("right");
    case(vec![Slot::floats(&x), right.clone()], 0).run(&gpu(), unary).expect_err("nothing was written");
    let message = case(vec![Slot::floats(&x), right], 64).run(&gpu(), unary).expect_err("a guard word was written");
    assert!(message.contains("binding 2[63]") && message.contains(&GUARD.to_string()), "{message}");
}
