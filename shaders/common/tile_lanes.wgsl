// A `product` in which 8 lanes of a subgroup each read a part of the tile's rows and broadcast it: a source word is loaded once per
// subgroup instead of once per invocation. Subgroups have at least 8 lanes, all of them active here.

// Adds the products of the 8 rows whose parts the first 8 lanes hold with one step's weights.
fn add_eight(m: Matrix, v: vec4<f32>, w: mat4x4<f32>, low: ptr<function, mat4x4<f32>>, high: ptr<function, mat4x4<f32>>) {
    (*low)[0] = weigh(m, subgroupBroadcast(v, 0u), w, (*low)[0]);
    (*low)[1] = weigh(m, subgroupBroadcast(v, 1u), w, (*low)[1]);
    (*low)[2] = weigh(m, subgroupBroadcast(v, 2u), w, (*low)[2]);
    (*low)[3] = weigh(m, subgroupBroadcast(v, 3u), w, (*low)[3]);
    (*high)[0] = weigh(m, subgroupBroadcast(v, 4u), w, (*high)[0]);
    (*high)[1] = weigh(m, subgroupBroadcast(v, 5u), w, (*high)[1]);
    (*high)[2] = weigh(m, subgroupBroadcast(v, 6u), w, (*high)[2]);
    (*high)[3] = weigh(m, subgroupBroadcast(v, 7u), w, (*high)[3]);
}

// Adds the products of up to 4 rows. Lanes 0 to 3 hold a part of a row each, lanes 4 to 7 the part that follows it along the depth.
fn add_four(m: Matrix, v: vec4<f32>, w: mat4x4<f32>, w_next: mat4x4<f32>, rows: ptr<function, mat4x4<f32>>) {
    (*rows)[0] = weigh(m, subgroupBroadcast(v, 4u), w_next, weigh(m, subgroupBroadcast(v, 0u), w, (*rows)[0]));
    if ROWS > 1u {
        (*rows)[1] = weigh(m, subgroupBroadcast(v, 5u), w_next, weigh(m, subgroupBroadcast(v, 1u), w, (*rows)[1]));
    }
    if ROWS > 2u {
        (*rows)[2] = weigh(m, subgroupBroadcast(v, 6u), w_next, weigh(m, subgroupBroadcast(v, 2u), w, (*rows)[2]));
        (*rows)[3] = weigh(m, subgroupBroadcast(v, 7u), w_next, weigh(m, subgroupBroadcast(v, 3u), w, (*rows)[3]));
    }
}

// Adds the products of the row whose part lanes 0 to 3 hold; lanes 4 to 7 hold that of another row (`add_odd_row`).
fn add_even_row(m: Matrix, v: vec4<f32>, w: array<mat4x4<f32>, 4>, sum: vec4<f32>) -> vec4<f32> {
    var total = weigh(m, subgroupBroadcast(v, 0u), w[0], sum);
    total = weigh(m, subgroupBroadcast(v, 1u), w[1], total);
    total = weigh(m, subgroupBroadcast(v, 2u), w[2], total);
    return weigh(m, subgroupBroadcast(v, 3u), w[3], total);
}

fn add_odd_row(m: Matrix, v: vec4<f32>, w: array<mat4x4<f32>, 4>, sum: vec4<f32>) -> vec4<f32> {
    var total = weigh(m, subgroupBroadcast(v, 4u), w[0], sum);
    total = weigh(m, subgroupBroadcast(v, 5u), w[1], total);
    total = weigh(m, subgroupBroadcast(v, 6u), w[2], total);
    return weigh(m, subgroupBroadcast(v, 7u), w[3], total);
}

// The word that the lane holds of a part of two rows.
fn lane_word(source: RowSource, row: u32, k: u32, depth: u32) -> vec4<f32> {
    return four(source_row(source, row + source.lane / 4u % 2u), k + 4u * (source.lane % 4u), depth);
}

// Adds the products of up to 8 rows with a part that begins at depth `k`.
fn add_part(m: Matrix, source: RowSource, k: u32, depth: u32, p: Part, t: ptr<function, Tile>) {
    let w = part_weights(m, p);
    var v = lane_word(source, 0u, k, depth);
    (*t).a[0] = add_even_row(m, v, w, (*t).a[0]);
    if ROWS > 1u {
        (*t).a[1] = add_odd_row(m, v, w, (*t).a[1]);
    }
    if ROWS > 2u {
        v = lane_word(source, 2u, k, depth);
        (*t).a[2] = add_even_row(m, v, w, (*t).a[2]);
        (*t).a[3] = add_odd_row(m, v, w, (*t).a[3]);
    }
    if ROWS > 4u {
        v = lane_word(source, 4u, k, depth);
        (*t).b[0] = add_even_row(m, v, w, (*t).b[0]);
        (*t).b[1] = add_odd_row(m, v, w, (*t).b[1]);
        v = lane_word(source, 6u, k, depth);
        (*t).b[2] = add_even_row(m, v, w, (*t).b[2]);
        (*t).b[3] = add_odd_row(m, v, w, (*t).b[3]);
    }
}

// The rows' products with a unit's weights over the part `begin .. end` of the depth. Both bounds are multiples of 16, unless `end` is
// the depth.
fn product(m: Matrix, source: RowSource, unit: u32, depth: u32, begin: u32, end: u32) -> Tile {
    var word = unit_word(m, unit, depth, begin);
    if ROWS > 4u {
        var a = mat4x4<f32>();
        var b = mat4x4<f32>();
        var c = mat4x4<f32>();
        var d = mat4x4<f32>();
        let low = source_row(source, source.lane % 8u);
        var high = 0u;
        if ROWS > 8u {
            high = source_row(source, 8u + source.lane % 8u);
        }
        for (var k = begin; k < end; k += step_depth(m)) {
            let w = step_weights(m, word);
            word += step_words(m);
            if m.gates == 1u {
                add_eight(m, four(low, k, depth), only_gate(w[0]), &a, &b);
                add_eight(m, four(low, k + 4u, depth), only_gate(w[1]), &a, &b);
                add_eight(m, four(low, k + 8u, depth), only_gate(w[2]), &a, &b);
                add_eight(m, four(low, k + 12u, depth), only_gate(w[3]), &a, &b);
                if ROWS > 8u {
                    add_eight(m, four(high, k, depth), only_gate(w[0]), &c, &d);
                    add_eight(m, four(high, k + 4u, depth), only_gate(w[1]), &c, &d);
                    add_eight(m, four(high, k + 8u, depth), only_gate(w[2]), &c, &d);
                    add_eight(m, four(high, k + 12u, depth), only_gate(w[3]), &c, &d);
                }
            } else {
                add_eight(m, four(low, k, depth), w, &a, &b);
                if ROWS > 8u {
                    add_eight(m, four(high, k, depth), w, &c, &d);
                }
            }
        }
        return Tile(a, b, c, d);
    }
    var rows = mat4x4<f32>();
    let first = source_row(source, source.lane % 4u);
    let half = 4u * (source.lane / 4u % 2u);
    for (var k = begin; k < end; k += max(8u, step_depth(m))) {
        let w = step_weights(m, word);
        word += step_words(m);
        if m.gates == 1u {
            add_four(m, four(first, k + half, depth), only_gate(w[0]), only_gate(w[1]), &rows);
            add_four(m, four(first, k + 8u + half, depth), only_gate(w[2]), only_gate(w[3]), &rows);
        } else {
            let w_next = step_weights(m, word);
            word += step_words(m);
            add_four(m, four(first, k + half, depth), w, w_next, &rows);
        }
    }
    return Tile(rows, mat4x4<f32>(), mat4x4<f32>(), mat4x4<f32>());
}
