//! Planted faults: a kernel with one of them must not pass its parity cases. A fault whose original text is gone fails the test, too.

mod cell;
mod cooperative;
mod scan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::parity::{self, Case, can_run, kernel_cases};
use crate::support::gpu;
use gatewise::gpu::{KERNELS, Kernel};

/// One fault.
#[derive(Clone, Copy)]
struct Slip {
    kernel: &'static str,
    /// The text as it is.
    right: &'static str,
    /// The text with the fault.
    wrong: &'static str,
    /// A part of the names of cases that are likely to see the fault: such cases run first.
    likely: &'static str,
}

/// Kernel, the text as it is, the text with the fault.
const SLIPS: &[(&str, &str, &str)] = &[
    ("matmul", "a[(dims.a_row + row) * dims.depth + k]", "a[row * dims.depth + k]"),
    ("matmul", "b[k * dims.columns + column]", "b[k * dims.depth + column]"),
    ("matmul", "value += bias[column + j];", "value += bias[column];"),
    ("matmul", "if dims.has_bias != 0u", "if dims.has_bias == 0u"),
    ("matmul", "y[dims.y_offset + row", "y[row"),
    ("matmul", "j < 4u && column + j < dims.columns", "j < 4u"),
    ("matmul", "sums[3] += a_word.w * b_word;", "sums[3] += a_word.z * b_word;"),
    ("matmul", "k += DEPTH", "k += DEPTH + 1u"),
    ("matmul", "a[k * dims.rows + row]", "a[k * dims.depth + row]"),
    ("matmul", "b[column * dims.depth + k]", "b[column * dims.columns + k]"),
    ("matmul_rows", "let row = at / dims.columns;", "let row = at % dims.columns;"),
    ("matmul_rows", "select(1u, dims.rows, A_TRANSPOSED)", "1u"),
    ("matmul_rows", "select(column, column * dims.depth, B_TRANSPOSED)", "column"),
    ("matmul_rows", "var k = 0u; k < dims.depth", "var k = 1u; k < dims.depth"),
    ("matmul_rows", "sum += bias[column];", "sum -= bias[column];"),
    ("matmul_rows", "at >= dims.rows * dims.columns", "at > dims.rows * dims.columns"),
    ("conv1d", "var sum = bias[o];", "var sum = -bias[o];"),
    ("conv1d", "let begin = l * dims.stride;", "let begin = l;"),
    ("conv1d", "max(begin, dims.padding) - begin", "0u"),
    ("conv1d", "dims.padding + dims.length);", "dims.padding + dims.length + 1u);"),
    ("conv1d", "(o * dims.channels + c) * dims.kernel", "(c * dims.channels + o) * dims.kernel"),
    ("conv1d", "x[signal + k]", "x[signal + taps - 1u - k + first]"),
    ("pad1d", "dims.left - place;", "dims.left - place - 1u;"),
    ("pad1d", "2u * (dims.length - 1u)", "2u * dims.length - 1u"),
    ("pad1d", "y[at] = 0.0;", "y[at] = x[0];"),
    ("unary", "clamp(x, -15.0, 15.0)", "x * 0.99"),
    ("unary", "-clamp(x, -87.0, 87.0)", "clamp(x, -87.0, 87.0)"),
    ("unary", "abs(x) < 0.25", "abs(x) < 2.5"),
    ("unary", "case RELU: { return max(x, 0.0); }", "case RELU: { return x; }"),
    ("unary", "alpha * x, x, x >= 0.0", "beta * x, x, x >= 0.0"),
    ("unary", "select(0.0, x, x >= alpha)", "select(x, 0.0, x >= alpha)"),
    ("unary", "alpha * tanh_exact(beta * x)", "alpha * tanh_exact(x)"),
    ("unary", "clamp(alpha * x + beta, 0.0, 1.0)", "clamp(alpha * x + beta, -1.0, 1.0)"),
    ("unary", "select(alpha * expm1_negative", "select(expm1_negative"),
    ("unary", "x / (1.0 + abs(x))", "x / (1.0 + x)"),
    ("unary", "max(x, 0.0) + log1p_unit", "log1p_unit"),
    ("unary", "case AFFINE: { return alpha * x + beta; }", "case AFFINE: { return beta * x + alpha; }"),
    ("unary", "id.y * (groups.x * workgroup_size) + id.x", "id.x"),
    ("unary", "at >= dims.count", "at > dims.count"),
    ("binary", "return a - b;", "return b - a;"),
    ("binary", "(a + b) * 0.5", "a + b * 0.5"),
    ("binary", "sqrt(a * a + b * b)", "sqrt(a * a - b * b)"),
    ("binary", "row * dims.b_stride", "row * dims.a_stride"),
    ("binary", "+ dims.a_offset + column", "+ column"),
    ("reduce_rows", "partial[0] / f32(dims.columns)", "partial[0] / f32(dims.rows)"),
    ("reduce_rows", "value = x[row * dims.columns];", "value = 0.0;"),
    ("reduce_rows", "&& !is_nan(a)", ""),
    ("reduce_rows", "&& !is_nan(b)", ""),
    ("reduce_rows", "column += WORKGROUP_SIZE", "column += WORKGROUP_SIZE + 1u"),
    ("reduce_rows", "var width = WORKGROUP_SIZE / 2u", "var width = WORKGROUP_SIZE / 4u"),
    ("sum_columns", "row += SIDE", "row += SIDE + 1u"),
    ("sum_columns", "var height = SIDE / 2u", "var height = SIDE / 4u"),
    ("sum_columns", "if column < dims.columns {", "if column < dims.columns - 1u {"),
    ("sum_columns", "x[row * dims.columns + column]", "x[column * dims.rows + row]"),
    ("strided_copy", "axis / 4u][axis % 4u];\n        place", "axis / 4u][axis % 4u] + 1;\n        place"),
    ("strided_copy", "var source = i32(dims.from_offset);", "var source = 0;"),
    ("strided_copy", "var place = i32(dims.to_offset);", "var place = 0;"),
    ("gather_rows", "at % dims.columns];", "at % (dims.columns + 1u)];"),
    ("gather_rows", "rows[at / dims.columns]", "rows[at % dims.columns]"),
    ("unary_grad", "dy[at] * activate_grad", "dy[0] * activate_grad"),
    ("unary_grad", "dims.alpha, dims.beta, x[at]", "dims.alpha, dims.beta, x[0]"),
    ("unary_grad", "select(alpha, 1.0, x > 0.0)", "select(alpha, 1.0, x < 0.0)"),
    ("unary_grad", "alpha * beta * (1.0 - y * y)", "alpha * (1.0 - y * y)"),
    ("unary_grad", "select(0.0, alpha, y > 0.0 && y < 1.0)", "select(0.0, alpha, y > 0.0)"),
    ("unary_grad", "1.0 / (scale * scale)", "1.0 / scale"),
    ("gather_rows_grad", "pick < end", "pick + 1u < end"),
    ("gather_rows_grad", "dy[places[pick] * dims.columns", "dy[places[0] * dims.columns"),
    ("gather_rows_grad", "let end = begins[row + 1u];", "let end = begins[dims.rows];"),
    ("conv1d_grad_input", "place - l * dims.stride]", "dims.kernel - 1u - place + l * dims.stride]"),
    ("conv1d_grad_input", "at % dims.length + dims.padding", "at % dims.length"),
    ("conv1d_grad_input", "place / dims.stride + 1u, dims.out_length", "place / dims.stride + 1u, dims.length"),
    ("conv1d_grad_input", "(place - dims.kernel) / dims.stride + 1u", "(place - dims.kernel) / dims.stride"),
    ("conv1d_grad_weight", "place < dims.padding + dims.length", "place <= dims.padding + dims.length"),
    ("conv1d_grad_weight", "let place = l * dims.stride + k;", "let place = l + k;"),
    ("conv1d_grad_weight", "let n = window / dims.out_length;", "let n = 0u;"),
    ("conv1d_grad_weight", "partial[lane] += partial[lane + width];", "partial[lane] = partial[lane + width];"),
    ("mean_steps", "weights[step * dims.rows + row]", "weights[row]"),
    ("mean_steps", "if weight != 0.0 {", "{"),
    ("mean_steps_grad", "weights[at / dims.columns]", "weights[at % dims.rows]"),
    ("mean_steps_grad", "dy[at % (dims.rows * dims.columns)]", "dy[at % dims.columns]"),
    ("softmax_cross_entropy", "exponential(x[begin + column] - largest)", "exponential(x[begin + column])"),
    ("softmax_cross_entropy", "u32(max(target_class, 0.0))", "0u"),
    ("softmax_cross_entropy", "0.0, target_class < 0.0", "0.0, false"),
    ("softmax_cross_entropy", "(score - terms.x)", "score"),
    ("softmax_cross_entropy_grad", "f32(column) == target_class", "column == 0u"),
    ("softmax_cross_entropy_grad", "dims.scale * dy[0]", "(dims.scale + dy[0])"),
    ("softmax_cross_entropy_grad", "/ terms.y", "/ terms.x"),
    ("softmax_cross_entropy_grad", "0.0, target_class < 0.0", "0.0, false"),
    ("point_loss", "(x - y) * (x - y)", "(x - y)"),
    ("point_loss", "- x * y + activate", "- y + activate"),
    ("point_loss", "0.0, weight == 0.0", "0.0, false"),
    ("point_loss", "weights[at / dims.columns]", "weights[at % dims.rows]"),
    ("point_loss_grad", "2.0 * (x - y)", "(x - y)"),
    ("point_loss_grad", "activate(SIGMOID, 0.0, 0.0, x) - y", "activate(SIGMOID, 0.0, 0.0, x) + y"),
    ("point_loss_grad", "dims.scale * dy[0]", "(dims.scale + dy[0])"),
    ("point_loss_grad", "0.0, weight == 0.0", "0.0, false"),
    ("partial_sums", "if NORM {", "if !NORM {"),
    ("partial_sums", "most = max(most, bitcast<u32>(element(at)) & MAGNITUDE);", ""),
    ("partial_sums", "let scaled = element(at) * scale;", "let scaled = element(at);"),
    ("partial_sums", "bitcast<f32>(exponent << 23u)", "1.0"),
    ("partial_sums", "clamp(most >> 23u, 1u, 253u)", "max(most >> 23u, 1u)"),
    ("partial_sums", "clip(value, dims.limit)", "value"),
    ("partial_sums", "y[dims.y_offset + run]", "y[run]"),
    ("partial_sums", "min(begin + RUN * WORKGROUP_SIZE, dims.count)", "begin + RUN * WORKGROUP_SIZE"),
    ("total_sum", "at += WORKGROUP_SIZE", "at += WORKGROUP_SIZE + 1u"),
    ("total_sum", "dims.scale * sum", "sum"),
    ("judge_step", "sqrt(sum_of_lanes(sum, lane))", "sum_of_lanes(sum, lane)"),
    ("judge_step", "let scaled = element(at) * scale;", "let scaled = element(at);"),
    ("judge_step", "min(1.0, dims.limit / (whole + 1e-6))", "dims.limit / (whole + 1e-6)"),
    ("judge_step", "is_finite(loss[0]) && is_finite(whole)", "is_finite(whole)"),
    ("judge_step", "is_finite(loss[0]) && is_finite(whole)", "is_finite(loss[0])"),
    ("judge_step", "if before[GOOD] != ONE {", "if false {"),
    ("judge_step", "after[STEP] = dims.step;", "after[STEP] = before[STEP];"),
    (
        "optimizer_step",
        "select(dims.momentum * slots[at] + dims.dampened * g, g, dims.first != 0u)",
        "dims.momentum * slots[at] + dims.dampened * g",
    ),
    ("optimizer_step", "g + dims.momentum * buffer, NESTEROV", "g + dims.momentum * buffer, false"),
    ("optimizer_step", "dims.dampened * g, g", "g, g"),
    ("optimizer_step", "let spread = square - mean * mean;", "let spread = square + mean * mean;"),
    ("optimizer_step", "select(max(spread, 0.0), square, is_nan(spread))", "spread"),
    ("optimizer_step", "select(max(spread, 0.0), square, is_nan(spread))", "max(spread, 0.0)"),
    ("optimizer_step", "select(1u, 2u, MOMENTUM)", "1u"),
    ("optimizer_step", "square_root(deviation) + dims.eps", "square_root(deviation + dims.eps)"),
    ("optimizer_step", "sqrt(largest) / dims.root + dims.eps", "sqrt(largest) + dims.eps"),
    ("optimizer_step", "max(slots[2u * dims.count + at], square)", "square"),
    ("optimizer_step", "select(before, before * dims.decay, DECOUPLED)", "before"),
    ("optimizer_step", "select(dims.decay * before, 0.0, DECOUPLED)", "dims.decay * before"),
    ("optimizer_step", "g *= bitcast<f32>(verdict[COEFFICIENT]);", "g *= 1.0;"),
    ("optimizer_step", "g = clip(g, dims.limit);", "g = g * 1.0;"),
    ("optimizer_step", "if verdict[GOOD] != ONE {", "if false {"),
    (
        "optimizer_step",
        "kept[slot * dims.count + at] = slots[slot * dims.count + at];",
        "kept[slot * dims.count + at] = 0.0;",
    ),
    ("peak_copy", "at >= dims.count", "at > dims.count"),
    ("peak_read", "k < dims.reads", "k + 4u < dims.reads"),
    ("peak_read", "x[(word + 2u * dims.step)", "x[(word + 1u * dims.step)"),
    ("peak_fma", "iteration < dims.iterations", "iteration + 1u < dims.iterations"),
    ("peak_fma", "s3 = four_times(s3, m, b);", ""),
    ("peak_step", "+= 1.0", "+= 2.0"),
    ("peak_step", "group.x < dims.count", "group.x <= dims.count"),
    ("matmul_strided", "at += i32(dims.gap);", "at += 0;"),
    ("matmul_strided", "row >= dims.gap_row || k >= dims.gap_depth", "row >= dims.gap_row"),
    ("matmul_strided", "row >= dims.gap_row || k >= dims.gap_depth", "k >= dims.gap_depth"),
    ("matmul_strided", "i32(column) * dims.b_column", "i32(column)"),
    ("matmul_strided", "if ACCUMULATE && row < dims.rows", "if row < 0u"),
    ("matmul_strided", "select(local.xy, local.yx, A_BY_ROWS)", "local.xx"),
    (
        "matmul_strided",
        "y[dims.y_offset + row * dims.columns + column + j] = sum[j]",
        "y[row * dims.columns + column + j] = sum[j]",
    ),
    ("matmul_strided_lanes", "select(0u, dims.gap,", "select(0u, 0u,"),
    ("matmul_strided_lanes", "a[u32(at) / 4u], k < dims.depth", "a[u32(at) / 4u], k <= dims.depth"),
    ("matmul_strided_lanes", "present >= dims.gap_row ||", "false ||"),
    ("matmul_strided_lanes", "k >= dims.gap_depth)", "false)"),
    ("matmul_strided_lanes", "select(8u * column + lane, 4u * lane + column, A_BY_ROWS)", "8u * column + lane"),
    ("matmul_strided_lanes", "part[2] = a_word(row + 16u, k)", "part[2] = a_word(row + 8u, k)"),
    ("matmul_strided_lanes", "if ACCUMULATE && row < dims.rows", "if row < 0u"),
    ("matmul_strided_lanes", "add(subgroupBroadcast(w, 6u)", "add(subgroupBroadcast(w, 5u)"),
    ("matmul_strided_lanes", "dims.y_offset + row", "row"),
    ("matmul_strided_lanes", "if column < dims.columns {", "if true {"),
    ("sum_strided", "if column >= dims.gap_column", "if column > dims.gap_column"),
    ("sum_strided", "place += dims.term_stride;", "place += abs(dims.term_stride);"),
    ("sum_strided", "var k = 0u; k < dims.terms", "var k = 1u; k < dims.terms"),
    ("sum_strided", "(at / dims.columns) * dims.outer_stride", "at / dims.columns"),
    ("dropout", "at % dims.period", "at"),
    ("dropout", "x[dims.from_offset + at]", "x[at]"),
    ("dropout", ">> 8u) >= threshold", ">> 8u) > threshold + 1000000u"),
    ("dropout", "v ^= v >> vec4(16u);", "v ^= v >> vec4(15u);"),
    ("dropout", "select(0.0, dims.scale,", "select(0.0, 1.0,"),
    ("sequence_flags", "(bits << 1u) != 0u", "bits != 0u"),
    ("sequence_flags", "(bits << 1u) != 0u", "(bits << 9u) != 0u"),
    ("sequence_flags", "flag = host_flags[at];", "flag = host_flags[0];"),
    ("sequence_flags", "flag &= ~FLAG_VALID;", "flag = 0u;"),
    ("sequence_flags", "flag |= FLAG_RESET;", "flag = FLAG_RESET;"),
    ("sequence_flags", "is_set(reset[at])", "is_set(reset[at / 2u])"),
    ("sequence_flags", "MASK && !is_set", "MASK && is_set"),
    ("silence", "& FLAG_VALID) != 0u", "& FLAG_VALID) == 0u"),
    ("silence", "flags[at / dims.columns]", "flags[at % dims.columns]"),
    ("pack_weights", "column < dims.columns", "column < dims.columns + 1u"),
    ("pack_weights", "k < dims.depth", "k <= dims.depth"),
    ("pack_weights", "gate * dims.gate_columns", "gate"),
    ("pack_weights", "unit >= dims.units", "unit > dims.units"),
    ("pack_weights", "w[gate]", "w[0]"),
    ("pack_weights", "unit / BLOCK * (dims.padded_depth / 4u)", "unit / BLOCK * (dims.depth / 4u)"),
    ("pack_vectors", "if !RESETS_AFTER || row < BIAS + 2u", "if true"),
    ("pack_vectors", "bias_hh[at - (CANDIDATE_BIAS - 2u) * dims.hidden]", "bias_hh[at - CANDIDATE_BIAS * dims.hidden]"),
    ("pack_vectors", "row < PEEPHOLE_ROWS + 3u", "row < PEEPHOLE_ROWS + 2u"),
    ("pack_vectors", "value = bias_ih[at];", "value = -bias_ih[at];"),
    ("recurrent_step_grad", "var dh = dh_after + d_output + held;", "var dh = dh_after + d_output;"),
    ("recurrent_step_grad", "products += from_other(", "products -= from_other("),
    ("recurrent_step_grad", "dh = within(dh + products", "dh = (dh + products"),
    ("recurrent_step_grad", "if !is_last && is_valid(at) {", "if is_valid(at) {"),
    (
        "recurrent_step_grad",
        "leave(dims.held, dims.out, at, unit, held + d_output);",
        "leave(dims.held, dims.out, at, unit, d_output);",
    ),
    (
        "recurrent_step_grad",
        "leave(dims.carry_h, dims.out, at, unit, past);",
        "leave(dims.carry_h, dims.out, at, unit, 0.0);",
    ),
    (
        "recurrent_step_grad",
        "let place = select(done, dims.steps - done, is_reverse(at.direction));",
        "let place = done;",
    ),
    ("recurrent_step_grad", "store(at, dims.second_row, unit, d.n);", "store(at, dims.second_row, unit, r * d.n);"),
    ("recurrent_step_grad", "leave_gate(at, 2u, unit, r * d.n);", "leave_gate(at, 2u, unit, d.n);"),
    ("recurrent_step_grad", "leave_s(at, unit, within(d.s + kept));", "leave_s(at, unit, d.s + kept);"),
    ("recurrent_step_grad", "di -= df;", "di += df;"),
    ("recurrent_step_grad", "abs(unclipped) > scalars.cell_clip", "abs(unclipped) > 2.0 * scalars.cell_clip"),
    ("recurrent_step_grad", "+ da_o * p.z;", ";"),
    ("recurrent_step_grad", "abs(x) > scalars.gate_clip", "false"),
    ("recurrent_step_grad", "GruGrad(dh * (n - h) * z_slope", "GruGrad(dh * (h - n) * z_slope"),
    ("recurrent_step_grad", "sum * open_gate(dims.scalars, a.x));", "sum);"),
    ("recurrent_step_grad", "let unit = block * GATES + column;", "let unit = block + column * blocks();"),
];

macro_rules! cases_of {
    ($($name:ident: $cases:path;)+) => {
        fn cases_of(kernel: &str) -> Vec<Case> {
            match kernel {
                $(stringify!($name) => $cases(),)+
                other => panic!("no cases of {other}"),
            }
        }
    };
}
kernel_cases!(cases_of);

/// The kernel with one fault; leaked, as a kernel lives as long as the program.
fn with_slip(kernel: &'static Kernel, right: &str, wrong: &str) -> &'static Kernel {
    assert_eq!(kernel.source.matches(right).count(), 1, "{}: {right:?} stands there once", kernel.name);
    let source = kernel.source.replacen(right, wrong, 1);
    Box::leak(Box::new(Kernel { name: kernel.name, files: kernel.files, source: Box::leak(source.into_boxed_str()) }))
}

/// The faults that pass every case of their kernel, and those that do not even run. Drivers compile on the thread that asks them to.
fn survivors(slips: &[Slip]) -> Vec<String> {
    let gpu = gpu();
    let kernel = |name: &str| *KERNELS.iter().find(|kernel| kernel.name == name).expect("in the table");
    let names: BTreeSet<&str> = slips.iter().map(|slip| slip.kernel).collect();
    let cases: HashMap<&str, Vec<Case>> = names.into_iter().map(|name| (name, cases_of(name))).collect();
    let (next, survivors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(Slip { kernel: name, right, wrong, likely }) = slips.get(next.fetch_add(1, Relaxed)) {
                    let slipped = with_slip(kernel(name), right, wrong);
                    if !can_run(&gpu, slipped) {
                        continue;
                    }
                    let (first, then): (Vec<_>, Vec<_>) =
                        cases[name].iter().partition(|case| case.name.contains(likely));
                    let slip = format!("{name}: {wrong:?} for {right:?}");
                    let survives = |how: &str| {
                        survivors.lock().expect("no panic while it is held").push(format!("{slip}{how}"));
                    };
                    let sees = |case: &Case| {
                        case.buffers_after(&gpu, slipped).map(|after| case.check(slipped, &after).is_err())
                    };
                    match first.into_iter().chain(then).map(sees).enumerate().find(|(_, seen)| *seen != Ok(false)) {
                        Some((_, Err(message))) => survives(&format!(" does not run: {message}")),
                        Some((at, Ok(_))) if at > 5 => eprintln!("{slip}: only case {at} sees it"),
                        Some(_) => {}
                        None => survives(""),
                    }
                }
            });
        }
    });
    survivors.into_inner().expect("no panic while it was held")
}

#[test]
fn every_slip_is_caught() {
    let slips: Vec<Slip> =
        SLIPS.iter().map(|&(kernel, right, wrong)| Slip { kernel, right, wrong, likely: "" }).collect();
    let survivors = survivors(&slips);
    assert!(survivors.is_empty(), "{} of {} survive:\n{}", survivors.len(), SLIPS.len(), survivors.join("\n"));
}

#[test]
fn every_slip_in_the_recurrent_layers_is_caught() {
    let survivors = survivors(cell::SLIPS);
    assert!(survivors.is_empty(), "{} of {} survive:\n{}", survivors.len(), cell::SLIPS.len(), survivors.join("\n"));
}

#[test]
fn every_slip_in_the_scan_over_several_workgroups_is_caught() {
    let survivors = survivors(cooperative::SLIPS);
    assert!(
        survivors.is_empty(),
        "{} of {} survive:\n{}",
        survivors.len(),
        cooperative::SLIPS.len(),
        survivors.join("\n")
    );
}

#[test]
fn every_slip_in_the_scans_is_caught() {
    let survivors = survivors(scan::SLIPS);
    assert!(survivors.is_empty(), "{} of {} survive:\n{}", survivors.len(), scan::SLIPS.len(), survivors.join("\n"));
}
