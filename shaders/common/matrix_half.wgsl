enable f16;
enable wgpu_cooperative_matrix;

// Matrices of f16 with sums in f32, 16 by 16. A source in f32 takes two operands: the nearest f16, and the nearest to what that
// leaves.

alias Operand = f16;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

const SIDE: u32 = 16u;
const PARTS: u32 = 2u;      // operands that a source takes

fn narrow(x: f32) -> Operand {
    return f16(x);
}
