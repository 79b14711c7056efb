//! Products by cooperative matrices. No adapter of the machines that run these tests has any. So the kernels run with a stand-in
//! for the four functions by which a subgroup reads, multiplies and writes a matrix. The tests say nothing about the hardware's
//! own functions.

use gatewise::cell::WeightType;
use gatewise::gpu::Kernel;
use gatewise::plan::Matrices;

use super::super::n;
use super::Tile;

/// The stand-in, for workgroups with one subgroup of 8 per gate. An invocation has an eighth of the elements of every matrix of
/// sums. A matrix is known by a number, from 1 on, which its first product assigns.
const STAND_IN: &str = "
alias Left = u32;
alias Right = u32;
alias Sums = u32;

var<private> invocation: u32;
var<private> numbers: u32;
var<private> totals: array<f32, 2u * STRIPES * AREA / 8u>;  // [sides, STRIPES, AREA / 8]

fn left_at(at: u32) -> Left { return at; }
fn right_at(at: u32) -> Right { return at; }

// The place of an element that belongs to the invocation.
fn own_at(sums: Sums, i: u32) -> u32 { return (sums - 1u) * AREA / 8u + i / 8u; }

fn part_of_sum(row: u32, column: u32) -> f32 {
    return left[row] * right[column] + left[row + 1u] * right[column + 1u]
        + left[row + 2u] * right[column + 2u] + left[row + 3u] * right[column + 3u];
}

fn multiply(a: Left, b: Right, sums: Sums) -> Sums {
    var number = sums;
    if number == 0u {
        numbers++;
        number = numbers;
    }
    for (var i = invocation % 8u; i < AREA; i += 8u) {
        var sum = totals[own_at(number, i)];
        for (var k = 0u; k < SIDE; k += 4u) {
            sum += part_of_sum(a + i / SIDE * SIDE + k, b + i % SIDE * SIDE + k);
        }
        totals[own_at(number, i)] = sum;
    }
    return number;
}

fn put_sums(sums: Sums, at: u32) {
    for (var i = invocation % 8u; i < AREA; i += 8u) {
        found[at + i] = 0.0;
        if sums > 0u {
            found[at + i] = totals[own_at(sums, i)];
        }
    }
}
";

/// The `override`s of a product by matrices, a subgroup of 8 for every gate.
pub(super) fn constants(tile: Tile, kind: WeightType, gates: usize, depth: usize) -> Vec<(&'static str, u32)> {
    vec![
        ("GATES", n(gates)),
        ("WEIGHT_TYPE", kind as u32),
        ("STRADDLE", u32::from(!depth.is_multiple_of(4))),
        ("TAIL", u32::from(!depth.is_multiple_of(tile.units))),
        ("WORKGROUP_SIZE", n(8 * gates)),
    ]
}

/// The kind of matrices that a kernel multiplies by, if it does.
fn matrices(kernel: &Kernel) -> Option<Matrices> {
    let (_, name) = kernel.name.split_once("_matrix_")?;
    Matrices::ALL.into_iter().find(|kind| kind.name() == name)
}

/// A kernel with the stand-in in the place of matrices; any other kernel as it is. A slip that it may have been given stays.
pub(crate) fn emulated(kernel: &'static Kernel) -> &'static Kernel {
    let Some(kind) = matrices(kernel) else { return kernel };
    let (side, parts, narrow) = match kind {
        // Rounded to an f16, as a number of f32.
        Matrices::Half => (16, 2, "unpack2x16float(pack2x16float(vec2(x, 0.0))).x"),
        Matrices::Float => (8, 1, "x"),
    };
    let head = format!(
        "alias Operand = f32;\nconst SIDE: u32 = {side}u;\nconst PARTS: u32 = {parts}u;\nfn narrow(x: f32) -> Operand {{ return {narrow}; }}\n"
    );
    // The text behind the two files that the stand-in replaces.
    let (_, rest) = kernel.source.split_once("coopStoreT(sums, &found[at], SIDE);\n}\n").expect("common/matrix.wgsl");
    let (call, body) =
        (format!("    {}(group", kernel.name.replace(&format!("_{}", kind.name()), "")), "    invocation = lane;\n");
    let rest = rest.replace(&call, &format!("{body}{call}"));
    assert!(rest.contains(body), "{}: an entry point that calls what both kinds share", kernel.name);
    let source = Box::leak((head + STAND_IN + &rest).into_boxed_str());
    Box::leak(Box::new(Kernel { name: kernel.name, files: kernel.files, source }))
}
