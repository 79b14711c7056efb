// Weights that an invocation reads once per chunk and keeps in registers: its slice of a unit's weights, up to 8 parts of 16 elements of
// the depth. The array is indexed by constants only, because otherwise drivers do not keep it in registers. The words stay packed, so
// that narrow weights take fewer registers.

override KEPT: u32 = 0u;    // parts that an invocation keeps; if 0, the product reads the weights at every step

fn load_part(m: Matrix, word: u32) -> Part {
    let step = step_words(m);
    var p = Part();
    p.a = load_step(m, word);
    if m.gates > 1u {
        p.b = load_step(m, word + step);
        p.c = load_step(m, word + 2u * step);
        p.d = load_step(m, word + 3u * step);
    }
    return p;
}

// Reads a unit's weights from depth `begin` on. Parts beyond the depth repeat its last part, because the rows are zeros there. A single
// place in the code reads all parts, because llvmpipe generates much code for every read.
fn keep(m: Matrix, unit: u32, depth: u32, begin: u32) -> array<Part, 8> {
    var kept = array<Part, 8>();
    let last = (depth - 1u) & ~15u;
    for (var i = 0u; i < KEPT; i++) {
        let part = load_part(m, unit_word(m, unit, depth, min(begin + 16u * i, last)));
        switch i {
            case 0u: { kept[0] = part; }
            case 1u: { kept[1] = part; }
            case 2u: { kept[2] = part; }
            case 3u: { kept[3] = part; }
            case 4u: { kept[4] = part; }
            case 5u: { kept[5] = part; }
            case 6u: { kept[6] = part; }
            default: { kept[7] = part; }
        }
    }
    return kept;
}

// Computes `product` with the kept weights. The rows are padded to whole parts.
fn kept_product(m: Matrix, source: RowSource, kept: ptr<function, array<Part, 8>>, depth: u32, begin: u32) -> Tile {
    var t = Tile();
    if KEPT > 0u {
        add_part(m, source, begin, depth, (*kept)[0], &t);
    }
    if KEPT > 1u {
        add_part(m, source, begin + 16u, depth, (*kept)[1], &t);
    }
    if KEPT > 2u {
        add_part(m, source, begin + 32u, depth, (*kept)[2], &t);
    }
    if KEPT > 3u {
        add_part(m, source, begin + 48u, depth, (*kept)[3], &t);
    }
    if KEPT > 4u {
        add_part(m, source, begin + 64u, depth, (*kept)[4], &t);
    }
    if KEPT > 5u {
        add_part(m, source, begin + 80u, depth, (*kept)[5], &t);
    }
    if KEPT > 6u {
        add_part(m, source, begin + 96u, depth, (*kept)[6], &t);
    }
    if KEPT > 7u {
        add_part(m, source, begin + 112u, depth, (*kept)[7], &t);
    }
    return t;
}
