//! Matrix products.

use gatewise::reference;
use ndarray::{ArrayView1, ArrayView2};

use super::{Case, POISON, Slot, WORKGROUPS, grid, n, wide};
use crate::support::{Tolerance, uniform};

/// One product: `a` from `a_row` on, `y` from `y_offset` on.
#[derive(Clone, Copy, Debug)]
struct Product {
    rows: usize,
    depth: usize,
    columns: usize,
    a_row: usize,
    y_offset: usize,
    bias: bool,
}

const PRODUCTS: [Product; 18] = [
    product(1, 1, 1, 0, 0, true),
    product(2, 3, 5, 0, 0, true),
    product(2, 3, 5, 0, 0, false),
    product(3, 0, 4, 0, 0, true),
    product(3, 0, 4, 0, 0, false),
    product(0, 5, 4, 0, 0, true),
    product(5, 4, 0, 0, 0, true),
    product(1, 65, 63, 0, 0, true),
    product(15, 16, 64, 0, 0, false),
    product(16, 17, 65, 0, 0, true),
    product(63, 15, 63, 0, 0, true),
    product(64, 16, 64, 0, 0, true),
    product(65, 33, 66, 0, 0, true),
    product(66, 7, 129, 0, 0, false),
    product(130, 64, 3, 0, 0, true),
    product(3, 6, 5, 4, 0, true),
    product(67, 18, 67, 3, 11, true),
    product(5, 9, 70, 2, 131, false),
];

const fn product(rows: usize, depth: usize, columns: usize, a_row: usize, y_offset: usize, bias: bool) -> Product {
    Product { rows, depth, columns, a_row, y_offset, bias }
}

impl Product {
    fn case(self, constants: Vec<(&'static str, u32)>, grid: [u32; 3]) -> Case {
        self.transposed([false; 2], constants, grid)
    }

    /// The same product of operands that lie transposed.
    fn transposed(
        self,
        [a_transposed, b_transposed]: [bool; 2],
        mut constants: Vec<(&'static str, u32)>,
        grid: [u32; 3],
    ) -> Case {
        let Self { rows, depth, columns, a_row, y_offset, bias } = self;
        let a = uniform(1, (a_row + rows) * depth, 1.0);
        let b = uniform(2, depth * columns, 1.0);
        // Without a bias its binding holds numbers that must not be added.
        let bias_words = if bias { uniform(3, columns, 1.0) } else { vec![POISON; columns] };
        let (a64, b64, bias64) = (wide(&a[a_row * depth..]), wide(&b), wide(&bias_words));
        let y = reference::matmul(
            ArrayView2::from_shape((rows, depth), &a64).expect("fits"),
            ArrayView2::from_shape((depth, columns), &b64).expect("fits"),
            bias.then(|| ArrayView1::from(&bias64)),
        )
        .expect("room");
        let lies = |x: &[f32], [rows, columns]: [usize; 2]| -> Vec<f32> {
            ArrayView2::from_shape((rows, columns), x).expect("fits").t().iter().copied().collect()
        };
        let a = if a_transposed { lies(&a, [rows, depth]) } else { a };
        let b = if b_transposed { lies(&b, [depth, columns]) } else { b };
        let flags = [("A_TRANSPOSED", a_transposed), ("B_TRANSPOSED", b_transposed)];
        constants.extend(flags.into_iter().filter(|(_, transposed)| *transposed).map(|(name, _)| (name, 1)));
        Case {
            name: format!("{self:?} {constants:?} {grid:?}"),
            constants,
            dims: [rows, depth, columns, a_row, y_offset, usize::from(bias)].map(n).to_vec(),
            buffers: vec![
                Slot::floats(&a),
                Slot::floats(&b),
                Slot::floats(&bias_words),
                Slot::output(y_offset + rows * columns).near(y_offset, y),
            ],
            grid,
            tolerance: Tolerance::sum(depth, 1.0),
        }
    }
}

/// Which operands lie transposed.
const TRANSPOSED: [[bool; 2]; 3] = [[true, false], [false, true], [true, true]];

/// The products that begin at their first row, with operands transposed each way.
fn each_way(one: impl Fn(&Product, [bool; 2]) -> Case) -> Vec<Case> {
    let from_first = PRODUCTS.iter().filter(|p| p.a_row == 0);
    from_first.enumerate().map(|(at, p)| one(p, TRANSPOSED[at % TRANSPOSED.len()])).collect()
}

pub(crate) fn matmul_tiled() -> Vec<Case> {
    let tiles = |size: usize| n(size.div_ceil(64).max(1));
    let grid = |p: &Product| [tiles(p.columns), tiles(p.rows), 1];
    let plain = PRODUCTS.iter().map(|p| p.case(Vec::new(), grid(p)));
    plain.chain(each_way(|p, transposed| p.transposed(transposed, Vec::new(), grid(p)))).collect()
}

pub(crate) fn matmul_rows() -> Vec<Case> {
    let mut cases = each_way(|p, way| p.transposed(way, Vec::new(), grid(p.rows * p.columns, 64, false)));
    for (at, p) in PRODUCTS.iter().enumerate() {
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        let constants = if size == 64 { Vec::new() } else { vec![("WORKGROUP_SIZE", n(size))] };
        cases.push(p.case(constants, grid(p.rows * p.columns, size, at % 2 == 1)));
    }
    cases
}
