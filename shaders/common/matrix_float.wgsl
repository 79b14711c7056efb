enable wgpu_cooperative_matrix;

// Cooperative matrices of f32, 8 by 8.

alias Operand = f32;
alias Left = coop_mat8x8<f32, A>;
alias Right = coop_mat8x8<f32, B>;
alias Sums = coop_mat8x8<f32, C>;

const SIDE: u32 = 8u;
const PARTS: u32 = 1u;      // operands per element of the source

fn narrow(x: f32) -> Operand {
    return x;
}
