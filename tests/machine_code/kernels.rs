//! The kernels' sources without the rest of the crate, so that a test can compile them to assembly in seconds.
#![allow(dead_code, unreachable_pub, unsafe_code, unused_imports, reason = "the crate's other parts call the rest")]

#[path = "../../src/cpu"]
mod cpu {
    mod outer {
        mod tile;

        pub(super) use tile::OuterBlock;
    }
    mod peaks {
        mod multiply_adds;

        pub(super) use multiply_adds::MultiplyAdds;
    }
    mod product;
    mod simd;
    mod stored;

    use outer::OuterBlock;
    use peaks::MultiplyAdds;
    use product::{DotProduct, OperandRows, Product, ProductTarget, RoundedRows};
    use simd::Instructions;
    use stored::{PanelSlice, PanelWeights};

    /// Strips of weights, and where their products go.
    pub struct Strips<'a> {
        pub floats: &'a [f32],
        pub halves: &'a [u16],
        pub bytes: &'a [i8],
        /// Which of the weights are multiplied.
        pub kind: u8,
        pub columns: &'a [f32],
        /// Depth, registers and count of the strips.
        pub sizes: [usize; 3],
        pub last_first: bool,
        pub strides: [usize; 2],
    }

    impl<'a> Strips<'a> {
        fn panels(&self) -> PanelSlice<'a> {
            let Self { floats, halves, bytes, kind, columns, sizes: [depth, vectors, count], last_first, .. } = *self;
            let weights = match kind {
                0 => PanelWeights::F32(floats),
                1 => PanelWeights::F16(halves),
                2 => PanelWeights::Bf16(halves),
                3 => PanelWeights::Int8(bytes),
                _ => PanelWeights::Dot(bytes, floats),
            };
            PanelSlice { weights, scale: columns, bias: columns, depth, vectors, count, last_first }
        }

        fn target<'b>(&self, numbers: &'b mut [f32]) -> ProductTarget<'b> {
            ProductTarget { numbers, panel_stride: self.strides[0], row_stride: self.strides[1] }
        }
    }

    /// A product, compiled for every instruction set.
    pub fn product(
        set: Instructions,
        strips: &Strips<'_>,
        numbers: &[f32],
        [stride, count]: [usize; 2],
        to: &mut [f32],
    ) {
        let Some(set) = set.verify() else { return };
        let rows = OperandRows { numbers, stride, count };
        set.run(Product { panels: strips.panels(), rows, target: strips.target(to) });
    }

    /// A product of rounded rows with 8-bit weights, compiled for every instruction set.
    pub fn dot_product(set: Instructions, strips: &Strips<'_>, words: &[u32], scales: &[f32], to: &mut [f32]) {
        let Some(set) = set.verify() else { return };
        let rows = RoundedRows::new(words, scales, strips.sizes[0], 0..scales.len());
        set.run(DotProduct { panels: strips.panels(), rows, target: strips.target(to) });
    }

    /// Chains of multiply-adds, compiled for every instruction set.
    pub fn multiply_adds(set: Instructions, rounds: usize) -> (f32, usize) {
        set.verify().map_or((0.0, 0), |set| set.run(MultiplyAdds { rounds }))
    }

    /// Sums of outer products, compiled for every instruction set.
    pub fn outer_products(set: Instructions, [a, b]: [&[f32]; 2], [depth, width]: [usize; 2], into: &mut [f32]) {
        let Some(set) = set.verify() else { return };
        set.run(OuterBlock { a, b, depth, into, width });
    }
}

pub use cpu::{Strips, dot_product, multiply_adds, outer_products, product};
