//! The input projection by an adapter's own matrices. No adapter of the machines that run these tests has any: the kernel runs
//! with all that is its own, and with a stand-in for the four functions by which a subgroup reads, multiplies and writes a
//! matrix. So nothing here speaks of what hardware does in those.

use gatewise::gpu::Kernel;
use gatewise::plan::Matrices;

/// The stand-in, for workgroups of a subgroup of 8 a gate. Sums lie in the workgroup's memory, an eighth of every matrix' elements
/// to an invocation; a matrix of sums is known by the operands that it is the sum of.
const STAND_IN: &str = "
alias Left = u32;
alias Right = u32;
alias Sums = u32;

var<private> invocation: u32;
var<workgroup> totals: array<f32, 4u * STRIPES * AREA>;     // [gates, STRIPES, SIDE rows, SIDE units]

fn left_at(at: u32) -> Left { return at; }
fn right_at(at: u32) -> Right { return at; }

fn part_of_sum(row: u32, column: u32) -> f32 {
    return left[row] * right[column] + left[row + 1u] * right[column + 1u]
        + left[row + 2u] * right[column + 2u] + left[row + 3u] * right[column + 3u];
}

fn multiply(a: Left, b: Right, sums: Sums) -> Sums {
    let first = b * STRIPES + a % (STRIPES * AREA);
    for (var i = invocation % 8u; i < AREA; i += 8u) {
        var sum = totals[first + i];
        for (var k = 0u; k < SIDE; k += 4u) {
            sum += part_of_sum(a + i / SIDE * SIDE + k, b + i % SIDE * SIDE + k);
        }
        totals[first + i] = sum;
    }
    return first;
}

fn put_sums(sums: Sums, at: u32) {
    for (var i = invocation % 8u; i < AREA; i += 8u) { found[at + i] = totals[sums + i]; }
}
";

/// The kind of matrices that a kernel multiplies by, if it does.
fn matrices(kernel: &Kernel) -> Option<Matrices> {
    Matrices::ALL.into_iter().find(|kind| kernel.name.strip_prefix("project_matrix_") == Some(kind.name()))
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
    // What follows the two files that the stand-in replaces.
    let rest = kernel.source.find("// A tile of a matrix product").expect("common/tile.wgsl comes third");
    let entry =
        kernel.source[rest..].replace("    project_matrix(group", "    invocation = lane;\n    project_matrix(group");
    let source = Box::leak((head + STAND_IN + &entry).into_boxed_str());
    Box::leak(Box::new(Kernel { name: kernel.name, files: kernel.files, source }))
}
