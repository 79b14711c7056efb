// Packs the biases and peepholes of a layer and direction, in the layout of vector_rows.wgsl.
// CPU twin: `gpu::recurrent::pack`, which packs the scales of narrow weights as well.

override WORKGROUP_SIZE: u32 = 64u;
override BIASED: bool = true;
override PEEPHOLE: bool = false;
override RESETS_AFTER: bool = false;    // a GRU whose reset gate weighs the recurrent part of the candidate, its bias included

struct PackVectorsDims { hidden: u32, gates: u32, to_offset: u32 }

@group(0) @binding(0) var<uniform> dims: PackVectorsDims;
@group(0) @binding(1) var<storage, read> bias_ih: array<f32>;       // [gates, hidden]
@group(0) @binding(2) var<storage, read> bias_hh: array<f32>;       // [gates, hidden]
@group(0) @binding(3) var<storage, read> peephole: array<f32>;      // [3, hidden]
@group(0) @binding(4) var<storage, read_write> vectors: array<f32>; // [VECTOR_ROWS, hidden] from to_offset on

@compute @workgroup_size(WORKGROUP_SIZE)
fn pack_vectors(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = flat_index(id, groups, WORKGROUP_SIZE);
    if at >= VECTOR_ROWS * dims.hidden {
        return;
    }
    let row = at / dims.hidden;
    var value = 0.0;
    if BIASED && row < BIAS + dims.gates {
        value = bias_ih[at];
        if !RESETS_AFTER || row < BIAS + 2u {
            value += bias_hh[at];
        }
    } else if BIASED && RESETS_AFTER && row == CANDIDATE_BIAS {
        value = bias_hh[at - (CANDIDATE_BIAS - 2u) * dims.hidden];
    } else if PEEPHOLE && row >= PEEPHOLE_ROWS && row < PEEPHOLE_ROWS + 3u {
        value = peephole[at - PEEPHOLE_ROWS * dims.hidden];
    }
    vectors[dims.to_offset + at] = value;
}
