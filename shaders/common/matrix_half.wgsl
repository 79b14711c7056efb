enable f16;
enable wgpu_cooperative_matrix;

// Cooperative matrices of f16 with sums in f32, 16 by 16. An f32 element of the source takes two operands: the nearest f16, and the f16
// nearest to the remainder.

alias Operand = f16;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

const SIDE: u32 = 16u;
const PARTS: u32 = 2u;      // operands per element of the source

fn narrow(x: f32) -> Operand {
    return f16(x);
}
