// `product` where every invocation reads the tile's rows itself: neighbours read the same words, which caches broadcast.

fn add_row(first: u32, k: u32, depth: u32, w: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
    if GATES == 1u {
        var total = weigh(four(first, k, depth), only_gate(w[0]), sum);
        total = weigh(four(first, k + 4u, depth), only_gate(w[1]), total);
        total = weigh(four(first, k + 8u, depth), only_gate(w[2]), total);
        return weigh(four(first, k + 12u, depth), only_gate(w[3]), total);
    }
    return weigh(four(first, k, depth), w, sum);
}

// Where 4 rows of the tile begin.
fn four_rows(source: Source, row: u32) -> vec4<u32> {
    return vec4(
        source_row(source, row), source_row(source, row + 1u), source_row(source, row + 2u), source_row(source, row + 3u));
}

// The rows' products with a unit's weights over the part `begin .. end` of the depth, both multiples of 16 unless `end` is the
// depth.
fn product(source: Source, weights: u32, unit: u32, depth: u32, begin: u32, end: u32) -> Tile {
    var t = Tile();
    var rows = array<vec4<u32>, 4>();
    rows[0] = four_rows(source, 0u);
    if ROWS > 4u {
        rows[1] = four_rows(source, 4u);
    }
    if ROWS > 8u {
        rows[2] = four_rows(source, 8u);
        rows[3] = four_rows(source, 12u);
    }
    var word = unit_word(weights, unit, depth, begin);
    for (var k = begin; k < end; k += step_depth()) {
        let w = step_weights(word);
        t.a[0] = add_row(rows[0].x, k, depth, w, t.a[0]);
        if ROWS > 1u {
            t.a[1] = add_row(rows[0].y, k, depth, w, t.a[1]);
        }
        if ROWS > 2u {
            t.a[2] = add_row(rows[0].z, k, depth, w, t.a[2]);
            t.a[3] = add_row(rows[0].w, k, depth, w, t.a[3]);
        }
        if ROWS > 4u {
            t.b[0] = add_row(rows[1].x, k, depth, w, t.b[0]);
            t.b[1] = add_row(rows[1].y, k, depth, w, t.b[1]);
            t.b[2] = add_row(rows[1].z, k, depth, w, t.b[2]);
            t.b[3] = add_row(rows[1].w, k, depth, w, t.b[3]);
        }
        if ROWS > 8u {
            t.c[0] = add_row(rows[2].x, k, depth, w, t.c[0]);
            t.c[1] = add_row(rows[2].y, k, depth, w, t.c[1]);
            t.c[2] = add_row(rows[2].z, k, depth, w, t.c[2]);
            t.c[3] = add_row(rows[2].w, k, depth, w, t.c[3]);
            t.d[0] = add_row(rows[3].x, k, depth, w, t.d[0]);
            t.d[1] = add_row(rows[3].y, k, depth, w, t.d[1]);
            t.d[2] = add_row(rows[3].z, k, depth, w, t.d[2]);
            t.d[3] = add_row(rows[3].w, k, depth, w, t.d[3]);
        }
        word += step_words();
    }
    return t;
}
