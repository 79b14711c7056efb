// A `product` in which every invocation reads all rows of the tile: neighbours read the same words, which caches broadcast.

fn add_row(m: Matrix, first: u32, k: u32, depth: u32, w: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    if m.gates == 1u {
        var total = weigh(m, four(first, k, depth), only_gate(w[0]), sum);
        total = weigh(m, four(first, k + 4u, depth), only_gate(w[1]), total);
        total = weigh(m, four(first, k + 8u, depth), only_gate(w[2]), total);
        return weigh(m, four(first, k + 12u, depth), only_gate(w[3]), total);
    }
    return weigh(m, four(first, k, depth), w, sum);
}

// The first elements of 4 rows of the tile.
fn four_rows(source: RowSource, row: u32) -> vec4<u32> {
    return vec4(
        source_row(source, row), source_row(source, row + 1u), source_row(source, row + 2u), source_row(source, row + 3u));
}

// The first elements of all rows of the tile.
fn all_rows(source: RowSource) -> array<vec4<u32>, 4> {
    var rows = array<vec4<u32>, 4>();
    rows[0] = four_rows(source, 0u);
    if ROWS > 4u {
        rows[1] = four_rows(source, 4u);
    }
    if ROWS > 8u {
        rows[2] = four_rows(source, 8u);
        rows[3] = four_rows(source, 12u);
    }
    return rows;
}

// Adds a step's products for every row.
fn add_step(m: Matrix, rows: array<vec4<u32>, 4>, k: u32, depth: u32, w: mat4x4<f32>, t: ptr<function, Tile>) {
    (*t).a[0] = add_row(m, rows[0].x, k, depth, w, (*t).a[0]);
    if ROWS > 1u {
        (*t).a[1] = add_row(m, rows[0].y, k, depth, w, (*t).a[1]);
    }
    if ROWS > 2u {
        (*t).a[2] = add_row(m, rows[0].z, k, depth, w, (*t).a[2]);
        (*t).a[3] = add_row(m, rows[0].w, k, depth, w, (*t).a[3]);
    }
    if ROWS > 4u {
        (*t).b[0] = add_row(m, rows[1].x, k, depth, w, (*t).b[0]);
        (*t).b[1] = add_row(m, rows[1].y, k, depth, w, (*t).b[1]);
        (*t).b[2] = add_row(m, rows[1].z, k, depth, w, (*t).b[2]);
        (*t).b[3] = add_row(m, rows[1].w, k, depth, w, (*t).b[3]);
    }
    if ROWS > 8u {
        (*t).c[0] = add_row(m, rows[2].x, k, depth, w, (*t).c[0]);
        (*t).c[1] = add_row(m, rows[2].y, k, depth, w, (*t).c[1]);
        (*t).c[2] = add_row(m, rows[2].z, k, depth, w, (*t).c[2]);
        (*t).c[3] = add_row(m, rows[2].w, k, depth, w, (*t).c[3]);
        (*t).d[0] = add_row(m, rows[3].x, k, depth, w, (*t).d[0]);
        (*t).d[1] = add_row(m, rows[3].y, k, depth, w, (*t).d[1]);
        (*t).d[2] = add_row(m, rows[3].z, k, depth, w, (*t).d[2]);
        (*t).d[3] = add_row(m, rows[3].w, k, depth, w, (*t).d[3]);
    }
}

// Adds the products of a part that begins at depth `k`.
fn add_part(m: Matrix, source: RowSource, k: u32, depth: u32, p: Part, t: ptr<function, Tile>) {
    let rows = all_rows(source);
    add_step(m, rows, k, depth, unpack_step(p.a), t);
    if m.gates > 1u {
        add_step(m, rows, k + 4u, depth, unpack_step(p.b), t);
        add_step(m, rows, k + 8u, depth, unpack_step(p.c), t);
        add_step(m, rows, k + 12u, depth, unpack_step(p.d), t);
    }
}

// The rows' products with a unit's weights over the part `begin .. end` of the depth. Both bounds are multiples of 16, unless `end` is
// the depth.
fn product(m: Matrix, source: RowSource, unit: u32, depth: u32, begin: u32, end: u32) -> Tile {
    var t = Tile();
    let rows = all_rows(source);
    var word = unit_word(m, unit, depth, begin);
    for (var k = begin; k < end; k += step_depth(m)) {
        add_step(m, rows, k, depth, step_weights(m, word), &t);
        word += step_words(m);
    }
    return t;
}
