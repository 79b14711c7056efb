//! Kernels that serve training: products and sums by strides, masks, packing. Their steps backwards are compared as whole
//! layers in `training.rs`.

use gatewise::cell::{Draw, Mask};

use super::{Case, EDGES, GUARD, POISON, Slot, WORKGROUPS, grid, n, wide};
use crate::support::{Tolerance, uniform};

const EXACT: Tolerance = Tolerance { abs: 0.0, rel: 0.0 };

fn signed(stride: isize) -> u32 {
    i32::try_from(stride).expect("a small stride").cast_unsigned()
}

fn at(offset: usize, steps: &[(usize, isize)]) -> usize {
    let moved = steps.iter().map(|&(count, stride)| count.cast_signed() * stride).sum::<isize>();
    offset.checked_add_signed(moved).expect("an element")
}

/// A product by strides.
#[derive(Clone, Copy, Debug)]
struct Strided {
    size: [usize; 3],
    /// Offset, stride of rows and of the depth.
    a: (usize, isize, isize),
    /// Elements left out before a row and before a place of the depth.
    gap: Option<(usize, Option<usize>, Option<usize>)>,
    /// Offset, stride of the depth and of columns.
    b: (usize, isize, isize),
    y_offset: usize,
    accumulate: bool,
}

impl Strided {
    /// `a [rows, depth] b [depth, columns]`, both row by row.
    fn plain(rows: usize, depth: usize, columns: usize) -> Self {
        let (a, b) = ((0, depth.cast_signed(), 1), (0, columns.cast_signed(), 1));
        Self { size: [rows, depth, columns], a, gap: None, b, y_offset: 0, accumulate: false }
    }

    /// `a` by its columns, as the gradient of a weight reads it, the depth from its end.
    fn transposed(rows: usize, depth: usize, columns: usize) -> Self {
        let (width, last) = (rows + 3, depth.saturating_sub(1));
        Self {
            a: (last * width + 2, 1, -width.cast_signed()),
            b: (last * columns, -columns.cast_signed(), 1),
            y_offset: 5,
            accumulate: true,
            ..Self::plain(rows, depth, columns)
        }
    }

    fn case(self, by_rows: bool, tile: [usize; 2]) -> Case {
        let [rows, depth, columns] = self.size;
        let skipped = |row: usize, k: usize| match self.gap {
            Some((elements, from_row, from_depth))
                if from_row.is_some_and(|from| row >= from) || from_depth.is_some_and(|from| k >= from) =>
            {
                elements
            }
            _ => 0,
        };
        let place_a = |row, k| at(self.a.0, &[(row, self.a.1), (k, self.a.2)]) + skipped(row, k);
        let place_b = |k, column| at(self.b.0, &[(k, self.b.1), (column, self.b.2)]);
        let ends = |len: usize| len.saturating_sub(1);
        let reach =
            |places: [usize; 4]| if self.size.contains(&0) { 1 } else { places.into_iter().max().unwrap_or(0) + 1 };
        let a_len =
            reach([place_a(0, 0), place_a(ends(rows), 0), place_a(0, ends(depth)), place_a(ends(rows), ends(depth))]);
        let b_len = reach([
            place_b(0, 0),
            place_b(ends(depth), 0),
            place_b(0, ends(columns)),
            place_b(ends(depth), ends(columns)),
        ]);
        let (a, b) = (uniform(71, a_len, 1.0), uniform(72, b_len, 1.0));
        let mut before = vec![GUARD; self.y_offset + rows * columns];
        if self.accumulate {
            before[self.y_offset..].copy_from_slice(&uniform(73, rows * columns, 1.0));
        }
        let (a64, b64, y64) = (wide(&a), wide(&b), wide(&before));
        let expected = (0..rows * columns).map(|at| {
            let (row, column) = (at / columns, at % columns);
            let held = if self.accumulate { y64[self.y_offset + at] } else { 0.0 };
            held + (0..depth).map(|k| a64[place_a(row, k)] * b64[place_b(k, column)]).sum::<f64>()
        });
        let (gap, gap_row, gap_depth) = self.gap.unwrap_or((0, None, None));
        let from = |place: Option<usize>| place.map_or(u32::MAX, n);
        let tiles = |size: usize, tile: usize| n(size.div_ceil(tile).max(1));
        Case {
            name: format!("{self:?} by rows {by_rows}"),
            constants: vec![("ACCUMULATE", u32::from(self.accumulate)), ("A_BY_ROWS", u32::from(by_rows))],
            dims: vec![
                n(rows),
                n(depth),
                n(columns),
                n(self.a.0),
                signed(self.a.1),
                signed(self.a.2),
                n(gap),
                from(gap_row),
                from(gap_depth),
                n(self.b.0),
                signed(self.b.1),
                signed(self.b.2),
                n(self.y_offset),
            ],
            buffers: vec![
                Slot::floats(&a),
                Slot::floats(&b),
                Slot::in_place(&before).near(self.y_offset, expected.collect::<Vec<f64>>()),
            ],
            grid: [tiles(columns, tile[1]), tiles(rows, tile[0]), 1],
            tolerance: Tolerance::sum(depth + 1, 1.0),
        }
    }
}

pub(crate) fn matmul_strided() -> Vec<Case> {
    let mut all = Vec::new();
    for [rows, depth, columns] in
        [[1, 1, 1], [3, 5, 2], [16, 17, 65], [64, 16, 64], [66, 33, 67], [130, 7, 3], [5, 0, 4], [4, 3, 0]]
    {
        all.extend([Strided::plain(rows, depth, columns), Strided::transposed(rows, depth, columns)]);
    }
    // A candidate whose input side lies behind its state side, as rows and as depth; every fourth element of words.
    let gap = Some((6, Some(12), None));
    all.push(Strided { a: (0, 1, 24), gap, ..Strided::plain(18, 9, 5) });
    all.push(Strided { a: (0, 24, 1), gap: Some((6, None, Some(12))), ..Strided::plain(9, 18, 5) });
    all.push(Strided { b: (3, 28, 4), accumulate: true, ..Strided::plain(6, 11, 7) });
    all.into_iter().enumerate().map(|(at, strided)| strided.case(at % 2 == 1, [64, 64])).collect()
}

pub(crate) fn matmul_strided_lanes() -> Vec<Case> {
    let mut all = Vec::new();
    let sizes: [[usize; 3]; 7] =
        [[1, 1, 4], [5, 3, 8], [31, 17, 36], [32, 4, 32], [33, 5, 40], [70, 64, 64], [6, 0, 4]];
    for [rows, depth, columns] in sizes {
        // As `Strided::transposed`, in whole words.
        let (width, last) = (rows.next_multiple_of(4) + 4, depth.saturating_sub(1));
        let a = (last * width + 4, 1, -width.cast_signed());
        let b = (last * columns, -columns.cast_signed(), 1);
        all.push((32, Strided { a, b, y_offset: 8, accumulate: true, ..Strided::plain(rows, depth, columns) }));
        let along = Strided::plain(rows, depth.next_multiple_of(4), columns);
        all.push((32, along));
        let last = along.size[1].saturating_sub(1);
        let b = (4 + last * (columns + 4), -(columns + 4).cast_signed(), 1);
        all.push((8, Strided { b, y_offset: 4, accumulate: true, ..along }));
    }
    let by_rows = |a, gap, size: [usize; 3]| Strided { a, gap, ..Strided::plain(size[0], size[1], size[2]) };
    all.push((32, by_rows((0, 1, 56), Some((8, Some(12), None)), [45, 9, 12])));
    all.push((32, by_rows((4, 60, 1), Some((12, None, Some(24))), [9, 40, 4])));
    let cases = all.into_iter().enumerate().map(|(at, (rows, strided))| {
        let units = [8, 32, 64][at % 3];
        let mut case = strided.case(strided.a.1 == 1, [rows, 4 * units]);
        case.constants.extend([("ROWS", n(rows)), ("UNITS", n(units))]);
        case
    });
    cases.collect()
}

pub(crate) fn sum_strided() -> Vec<Case> {
    let mut cases = Vec::new();
    // outer, terms, columns, and whether the terms run backwards, some columns are left out, sums are added.
    let shapes = [
        (1, 1, 1, false, false, false),
        (2, 3, 5, true, false, false),
        (3, 7, 21, false, true, true),
        (1, 40, 65, true, true, false),
        (5, 2, 64, true, false, true),
        (4, 9, 33, false, false, true),
        (2, 0, 3, false, false, true),
        (0, 4, 3, false, false, false),
    ];
    for (index, (outer, terms, columns, backwards, with_gap, accumulate)) in shapes.into_iter().enumerate() {
        let size = WORKGROUPS[index % WORKGROUPS.len()];
        let (gap, gap_column) = if with_gap { (4, columns / 2) } else { (0, columns) };
        let width = columns + gap + 1;
        let (outer_stride, term_stride) = (width, outer * width);
        let x = uniform(74, 2 + terms.max(1) * outer.max(1) * width, 1.0);
        let last = terms.saturating_sub(1);
        let (offset, stride) = if backwards {
            (2 + last * term_stride, -term_stride.cast_signed())
        } else {
            (2, term_stride.cast_signed())
        };
        let mut before = vec![GUARD; 3 + outer * columns];
        if accumulate {
            before[3..].copy_from_slice(&uniform(75, outer * columns, 1.0));
        }
        let (x64, y64) = (wide(&x), wide(&before));
        let expected = (0..outer * columns).map(|place| {
            let (row, column) = (place / columns, place % columns);
            let from = offset + row * outer_stride + column + if column >= gap_column { gap } else { 0 };
            let held = if accumulate { y64[3 + place] } else { 0.0 };
            held + (0..terms).map(|k| x64[at(from, &[(k, stride)])]).sum::<f64>()
        });
        cases.push(Case {
            name: format!("[{outer}, {terms}, {columns}] backwards {backwards} gap {with_gap} added {accumulate}"),
            constants: vec![("ACCUMULATE", u32::from(accumulate)), ("WORKGROUP_SIZE", n(size))],
            dims: vec![
                n(outer),
                n(terms),
                n(columns),
                n(offset),
                n(outer_stride),
                signed(stride),
                n(gap),
                if with_gap { n(gap_column) } else { u32::MAX },
                3,
            ],
            buffers: vec![Slot::floats(&x), Slot::in_place(&before).near(3, expected.collect::<Vec<f64>>())],
            grid: grid(outer * columns, size, index % 2 == 1),
            tolerance: Tolerance::sum(terms + 1, 1.0),
        });
    }
    cases
}

pub(crate) fn dropout() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, (count, period)) in EDGES.into_iter().zip([1, 1, 2, 63, 10, 7, 129, 40]).enumerate() {
        let size = WORKGROUPS[index % WORKGROUPS.len()];
        let draw = Draw::new(5 << 32 | 9, n(index), Mask::Dropout { layer: index }, 0.4).expect("a mask");
        let x = uniform(76, 2 + count, 1.0);
        let expected = (0..count).map(|at| x[2 + at] * draw.factor(at % period));
        let mut dims = draw.key.to_vec();
        dims.extend([draw.threshold, draw.scale().to_bits(), n(count), n(period), 2, 3, 0, 0]);
        cases.push(Case {
            name: format!("{count} by {period}, workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims,
            buffers: vec![
                Slot::floats(&x),
                Slot::output(3 + count).near(3, expected.map(f64::from).collect::<Vec<f64>>()),
            ],
            grid: grid(count, size, index % 2 == 1),
            // A dropped element may be either zero.
            tolerance: Tolerance { abs: 0.0, rel: 1e-7 },
        });
    }
    cases
}

pub(crate) fn silence() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, (rows, columns)) in [(1, 1), (3, 5), (7, 9), (64, 1), (5, 13), (33, 4), (0, 3)].into_iter().enumerate()
    {
        let size = WORKGROUPS[index % WORKGROUPS.len()];
        // Rows are valid or not, reset or not; rows that are left out hold NaN.
        let flags: Vec<u32> = (0..rows).map(|row| n((row * 7 + index) % 4)).collect();
        let mut x = uniform(77, rows * columns, 1.0);
        for (row, _) in flags.iter().enumerate().filter(|(_, flag)| **flag & 1 == 0) {
            x[row * columns..(row + 1) * columns].fill(f32::NAN);
        }
        let expected: Vec<f32> = x.iter().map(|&x| if x.is_nan() { 0.0 } else { x }).collect();
        cases.push(Case {
            name: format!("[{rows}, {columns}], workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: vec![n(rows * columns), n(columns)],
            buffers: vec![Slot::floats(&x), Slot::words(flags), Slot::output(rows * columns).exactly(0, expected)],
            grid: grid(rows * columns, size, index % 2 == 1),
            tolerance: EXACT,
        });
    }
    cases
}

/// Numbers that say no, then numbers that say yes.
const ANSWERS: [f32; 11] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    f32::from_bits(0x8000_0001),
    f32::MIN_POSITIVE,
    f32::NAN,
    f32::from_bits(0xff80_0001),
    f32::INFINITY,
    f32::NEG_INFINITY,
];

pub(crate) fn sequence_flags() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, count) in [1, 11, 63, 64, 65, 121, 130, 0].into_iter().enumerate() {
        for operands in 1..8 {
            let size = WORKGROUPS[(index + operands) % WORKGROUPS.len()];
            let [host, mask, reset] = [1, 2, 4].map(|bit| operands & bit != 0);
            let host_flags: Vec<u32> = (0..count).map(|at| n((at / 3) % 4)).collect();
            let answers =
                |stride: usize| (0..count).map(|at| (at / stride + index) % ANSWERS.len()).collect::<Vec<_>>();
            let (masked, resets) = (answers(1), answers(11));
            let expected = (0..count).map(|at| {
                let [own_valid, own_reset] = [1, 2].map(|bit| host_flags[at] & bit != 0);
                let valid = (!host || own_valid) && (!mask || masked[at] > 1);
                let is_reset = (host && own_reset) || (reset && resets[at] > 1);
                f32::from_bits(u32::from(valid) + 2 * u32::from(is_reset))
            });
            let numbers = |answers: &[usize]| Slot::words(answers.iter().map(|&at| ANSWERS[at].to_bits()));
            cases.push(Case {
                name: format!("{count}, host {host}, mask {mask}, reset {reset}, workgroup {size}"),
                constants: vec![
                    ("WORKGROUP_SIZE", n(size)),
                    ("HOST_FLAGS", u32::from(host)),
                    ("MASK", u32::from(mask)),
                    ("RESET", u32::from(reset)),
                ],
                dims: vec![n(count)],
                buffers: vec![
                    Slot::words(host_flags.iter().copied()),
                    numbers(&masked),
                    numbers(&resets),
                    Slot::output(count).exactly(0, expected),
                ],
                grid: grid(count, size, index % 2 == 1),
                tolerance: EXACT,
            });
        }
    }
    cases
}

pub(crate) fn pack_weights() -> Vec<Case> {
    const BLOCK: usize = 8;
    let mut cases = Vec::new();
    // Columns per invocation, units, depth; whether a unit's columns are adjacent, as in a transpose.
    let shapes = [
        (4, 1, 1, false),
        (4, 9, 5, false),
        (3, 8, 16, false),
        (1, 11, 17, false),
        (1, 3, 40, true),
        (4, 3, 18, true),
        (4, 16, 33, true),
        // In whole words along the depth, and along the columns.
        (4, 9, 20, false),
        (1, 11, 12, false),
        (4, 18, 21, true),
    ];
    for (index, (gates, units, depth, side_by_side)) in shapes.into_iter().enumerate() {
        let size = WORKGROUPS[index % WORKGROUPS.len()];
        // The last unit of a transpose has a column less than the others.
        let whole = index > 6;
        let columns = if side_by_side && gates > 1 && !whole { gates * units - 1 } else { gates * units };
        let (unit_columns, gate_columns) = if side_by_side { (gates, 1) } else { (1, units) };
        let (column_stride, depth_stride) = if side_by_side { (1, columns) } else { (depth, 1) };
        let (from, to) = (if whole { 4 } else { 2 }, 8);
        let x = uniform(78, from + columns * depth, 1.0);
        let (words, step_depth) = if gates == 1 { (4, 16) } else { (gates, 4) };
        let (padded_units, padded_depth) = (units.next_multiple_of(BLOCK), depth.next_multiple_of(16));
        let steps = padded_depth / step_depth;
        let mut expected = Vec::new();
        for unit in 0..units.div_ceil(BLOCK) {
            for step in 0..steps {
                for word in 0..words {
                    for of_block in 0..BLOCK {
                        for element in 0..4 {
                            let unit = unit * BLOCK + of_block;
                            let (gate, k) = if gates == 1 {
                                (0, step * 16 + word * 4 + element)
                            } else {
                                (word, step * 4 + element)
                            };
                            let column = unit * unit_columns + gate * gate_columns;
                            let there = unit < units && k < depth && column < columns;
                            expected.push(if there {
                                x[from + column * column_stride + k * depth_stride]
                            } else {
                                0.0
                            });
                        }
                    }
                }
            }
        }
        let count = expected.len();
        cases.push(Case {
            name: format!("{gates} columns, {units} units, depth {depth}, side by side {side_by_side}"),
            constants: vec![
                ("GATES", n(gates)),
                ("WORDS", n(usize::from(whole) + usize::from(whole && side_by_side))),
                ("WORKGROUP_SIZE", n(size)),
            ],
            dims: [
                padded_units,
                padded_depth,
                units,
                depth,
                columns,
                unit_columns,
                gate_columns,
                column_stride,
                depth_stride,
                from,
                to / 4,
            ]
            .map(n)
            .to_vec(),
            buffers: vec![Slot::floats(&x), Slot::output(to + count).exactly(to, expected)],
            grid: [n(padded_units.div_ceil(size)), n(padded_depth / 4), 1],
            tolerance: EXACT,
        });
    }
    cases
}

pub(crate) fn pack_vectors() -> Vec<Case> {
    const ROWS: usize = 17;
    let mut cases = Vec::new();
    // Gates, units, and whether there are biases, peepholes, a reset after the matmul.
    let shapes = [
        (1, 1, true, false, false),
        (4, 5, true, true, false),
        (4, 67, false, true, false),
        (3, 9, true, false, true),
        (3, 4, true, false, false),
        (3, 30, false, false, true),
    ];
    for (index, (gates, hidden, biased, peephole, resets_after)) in shapes.into_iter().enumerate() {
        let size = WORKGROUPS[index % WORKGROUPS.len()];
        // An operand that is absent must not be read.
        let rows = |there: bool, seed: u64, rows: usize| {
            if there { uniform(seed, rows * hidden, 1.0) } else { vec![POISON; rows * hidden] }
        };
        let (ih, hh) = (rows(biased, 81, gates), rows(biased, 82, gates));
        let peepholes = rows(peephole, 83, 3);
        let mut expected = vec![0.0; ROWS * hidden];
        if biased {
            for at in 0..gates * hidden {
                let apart = resets_after && at >= 2 * hidden;
                expected[at] = if apart { ih[at] } else { ih[at] + hh[at] };
                if apart {
                    expected[15 * hidden + at - 2 * hidden] = hh[at];
                }
            }
        }
        if peephole {
            expected[12 * hidden..15 * hidden].copy_from_slice(&peepholes);
        }
        let flags = [("BIASED", biased), ("PEEPHOLE", peephole), ("RESETS_AFTER", resets_after)];
        let mut constants: Vec<(&str, u32)> = flags.map(|(name, flag)| (name, u32::from(flag))).to_vec();
        constants.push(("WORKGROUP_SIZE", n(size)));
        cases.push(Case {
            name: format!("{gates} gates of {hidden}: {constants:?}"),
            constants,
            dims: vec![n(hidden), n(gates), 6],
            buffers: vec![
                Slot::floats(&ih),
                Slot::floats(&hh),
                Slot::floats(&peepholes),
                Slot::output(6 + ROWS * hidden).exactly(6, expected),
            ],
            grid: grid(ROWS * hidden, size, index % 2 == 1),
            tolerance: EXACT,
        });
    }
    cases
}
