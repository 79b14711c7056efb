// `matmul_strided` in which 8 lanes of a subgroup share parts of a: a word of a is loaded once per subgroup, and each lane has 4
// columns of b. Every sum has the order of `matmul_strided`. Operands lie in whole words: one stride of each is 1, and these are multiples
// of 4: offsets, the gap and its begin, the columns, and the depth if memory runs along the depth of a. Subgroups have at least 8 lanes,
// all of them active here.
// CPU twin: `reference::matmul`, on strided views.

override UNITS: u32 = 8u;       // invocations of a workgroup, a multiple of the largest subgroup
override ROWS: u32 = 32u;       // rows of a workgroup: 32, or 8 for few rows if not A_BY_ROWS

@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;       // [rows, depth] by its strides
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;       // [depth, columns] by its strides
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // [rows, columns], from y_offset on

// Four elements of a that are adjacent in memory, or zeros beyond the depth. Words read there are dropped, which costs less than a
// branch. Rows beyond the end repeat the last one; their sums are not used.
fn a_word(row: u32, k: u32) -> vec4<f32> {
    let present = min(row, select(dims.rows - 1u, (dims.rows - 1u) & ~3u, A_BY_ROWS));
    let gap = select(0u, dims.gap, present >= dims.gap_row || k >= dims.gap_depth);
    let at = i32(dims.a_offset + gap) + i32(present) * dims.a_row + i32(k) * dims.a_depth;
    return select(vec4<f32>(), a[u32(at) / 4u], k < dims.depth);
}

// A lane's part of a: 4 places of the depth of 4 rows. Each column of the result is a row of a.
fn a_part(first_row: u32, lane: u32, k: u32) -> mat4x4<f32> {
    if A_BY_ROWS {
        let row = first_row + 4u * lane;
        return transpose(mat4x4(a_word(row, k), a_word(row, k + 1u), a_word(row, k + 2u), a_word(row, k + 3u)));
    }
    let row = first_row + lane;
    var part = mat4x4<f32>();
    part[0] = a_word(row, k);
    if ROWS > 8u {
        part[1] = a_word(row + 8u, k);
        part[2] = a_word(row + 16u, k);
        part[3] = a_word(row + 24u, k);
    }
    return part;
}

// The row of a lane's part `column`.
fn row_of(column: u32, lane: u32) -> u32 {
    return select(8u * column + lane, 4u * lane + column, A_BY_ROWS);
}

fn b_word(k: u32, column: u32) -> vec4<f32> {
    let at = i32(dims.b_offset) + i32(k) * dims.b_depth + i32(column);
    return select(vec4<f32>(), b[u32(at) / 4u], k < dims.depth);
}

fn y_word(row: u32, column: u32) -> u32 {
    return (dims.y_offset + row * dims.columns + column) / 4u;
}

fn held(row: u32, column: u32) -> vec4<f32> {
    if ACCUMULATE && row < dims.rows {
        return y[y_word(row, column)];
    }
    return vec4<f32>();
}

fn store(row: u32, column: u32, sum: vec4<f32>) {
    if row < dims.rows {
        y[y_word(row, column)] = sum;
    }
}

// The sums of 8 rows, one per lane, that belong to one column of the lanes' parts. Each column of `low` and `high` is a row.
struct Sums { low: mat4x4<f32>, high: mat4x4<f32> }

fn held_sums(first_row: u32, part: u32, column: u32) -> Sums {
    var sums = Sums();
    for (var i = 0u; i < 4u; i++) {
        sums.low[i] = held(first_row + row_of(part, i), column);
        sums.high[i] = held(first_row + row_of(part, 4u + i), column);
    }
    return sums;
}

fn store_sums(first_row: u32, part: u32, column: u32, sums: Sums) {
    for (var i = 0u; i < 4u; i++) {
        store(first_row + row_of(part, i), column, sums.low[i]);
        store(first_row + row_of(part, 4u + i), column, sums.high[i]);
    }
}

// Adds 4 places of the depth to a row's sums.
fn add(w: vec4<f32>, v: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return sum + w.x * v[0] + w.y * v[1] + w.z * v[2] + w.w * v[3];
}

// Adds the products of the rows of all lanes.
fn add_rows(w: vec4<f32>, v: mat4x4<f32>, sums: Sums) -> Sums {
    return Sums(
        mat4x4(
            add(subgroupBroadcast(w, 0u), v, sums.low[0]),
            add(subgroupBroadcast(w, 1u), v, sums.low[1]),
            add(subgroupBroadcast(w, 2u), v, sums.low[2]),
            add(subgroupBroadcast(w, 3u), v, sums.low[3])),
        mat4x4(
            add(subgroupBroadcast(w, 4u), v, sums.high[0]),
            add(subgroupBroadcast(w, 5u), v, sums.high[1]),
            add(subgroupBroadcast(w, 6u), v, sums.high[2]),
            add(subgroupBroadcast(w, 7u), v, sums.high[3])));
}

@compute @workgroup_size(UNITS)
fn matmul_strided_lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let first_row = group.y * ROWS;
    let column = (group.x * UNITS + local.x) * 4u;
    let present = min(column, dims.columns - 4u);
    var s0 = held_sums(first_row, 0u, present);
    var s1 = Sums();
    var s2 = Sums();
    var s3 = Sums();
    if ROWS > 8u {
        s1 = held_sums(first_row, 1u, present);
        s2 = held_sums(first_row, 2u, present);
        s3 = held_sums(first_row, 3u, present);
    }
    for (var k = 0u; k < dims.depth; k += 4u) {
        let w = a_part(first_row, lane % 8u, k);
        let v = mat4x4(b_word(k, present), b_word(k + 1u, present), b_word(k + 2u, present), b_word(k + 3u, present));
        s0 = add_rows(w[0], v, s0);
        if ROWS > 8u {
            s1 = add_rows(w[1], v, s1);
            s2 = add_rows(w[2], v, s2);
            s3 = add_rows(w[3], v, s3);
        }
    }
    if column < dims.columns {
        store_sums(first_row, 0u, column, s0);
        if ROWS > 8u {
            store_sums(first_row, 1u, column, s1);
            store_sums(first_row, 2u, column, s2);
            store_sums(first_row, 3u, column, s3);
        }
    }
}
