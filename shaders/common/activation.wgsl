// The activation and elementary functions. The only file that may call `tanh`, `exp`, `log` or `pow`.
// CPU twin: `reference::activate`; the codes mirror `Activation::code` and a test compares them.

const IDENTITY: u32 = 0u;
const TANH: u32 = 1u;
const SIGMOID: u32 = 2u;
const RELU: u32 = 3u;
const LEAKY_RELU: u32 = 4u;
const THRESHOLDED_RELU: u32 = 5u;
const SCALED_TANH: u32 = 6u;
const HARD_SIGMOID: u32 = 7u;
const ELU: u32 = 8u;
const SOFTSIGN: u32 = 9u;
const SOFTPLUS: u32 = 10u;
const AFFINE: u32 = 11u;

// Drivers compute tanh as (e^2x - 1) / (e^2x + 1): NaN once e^2x overflows, and few correct digits near zero.
// In f32 tanh is 1 from 9.02 on, so the clamp only prevents the overflow. Near zero the odd Taylor polynomial is exact to the last
// digits.
fn tanh_exact(x: f32) -> f32 {
    let x2 = x * x;
    let near_zero = x * (1.0 + x2 * (-0.33333333 + x2 * (0.13333333 + x2 * (-0.053968254 + x2 * 0.021869488))));
    let e = exp(2.0 * clamp(x, -15.0, 15.0));
    return select((e - 1.0) / (e + 1.0), near_zero, abs(x) < 0.25);
}

// exp(-x) overflows from 88 on; at the clamp the result already rounds to 0 or 1.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-clamp(x, -87.0, 87.0)));
}

// e^x - 1 for x <= 0 without cancellation near zero.
fn expm1_negative(x: f32) -> f32 {
    let near_zero = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666667 + x * 0.0083333333))));
    return select(exp(max(x, -87.0)) - 1.0, near_zero, x > -0.1);
}

// ln(1 + x) for 0 <= x <= 1 without cancellation near zero.
fn log1p_unit(x: f32) -> f32 {
    return select(log(1.0 + x), x * (1.0 - x * (0.5 - x * (0.33333333 - x * 0.25))), x < 0.02);
}

// `x != x` and `max` do not see a NaN on every driver; its bits do.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// A float by its bits. It is no constant, because a constant expression must not be a NaN or an infinity.
fn from_bits(bits: u32) -> f32 {
    return bitcast<f32>(bits);
}

fn not_a_number() -> f32 {
    return from_bits(0x7fc00000u);
}

// Infinities are made and recognised by their bits, too: a compiler for fast arithmetic (Metal's default, DXC) may assume that there are
// none.
const PLUS_INFINITY: u32 = 0x7f800000u;
const MINUS_INFINITY: u32 = 0xff800000u;

fn is_infinite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == PLUS_INFINITY;
}

// The float of these bits if `asked`, else x.
fn or_bits(x: f32, bits: u32, asked: bool) -> f32 {
    return from_bits(select(bitcast<u32>(x), bits, asked));
}

// e^x is above the largest float from 88.73 on, and rounds to 0 below -104.
fn exponential(x: f32) -> f32 {
    if is_nan(x) {
        return x;
    }
    return or_bits(exp(max(x, -105.0)), PLUS_INFINITY, x > 88.73);
}

fn logarithm(x: f32) -> f32 {
    if is_nan(x) || x < 0.0 {
        return not_a_number();
    }
    return or_bits(log(x), MINUS_INFINITY, x == 0.0);
}

fn square_root(x: f32) -> f32 {
    if is_nan(x) || x < 0.0 {
        return not_a_number();
    }
    return sqrt(x);
}

// `pow` is NaN for every negative base and inexact for squares; small whole exponents are products.
fn power(a: f32, b: f32) -> f32 {
    if b == 0.0 || a == 1.0 {
        return 1.0;
    }
    if is_nan(a) || is_nan(b) {
        return a + b;
    }
    let whole = b == floor(b);
    if whole && abs(b) <= 16.0 {
        var product = a;
        for (var k = 1.0; k < abs(b); k += 1.0) {
            product *= a;
        }
        return select(product, 1.0 / product, b < 0.0);
    }
    let base = abs(a);
    if is_infinite(b) && base == 1.0 {
        return 1.0;
    }
    if a < 0.0 && !whole && !is_infinite(base) {
        return not_a_number();
    }
    var magnitude = pow(base, b);
    if base == 0.0 || is_infinite(base) || is_infinite(b) {
        magnitude = or_bits(0.0, PLUS_INFINITY, (base > 1.0) == (b > 0.0));
    }
    let odd = whole && b - 2.0 * floor(0.5 * b) != 0.0;
    return select(magnitude, -magnitude, a < 0.0 && odd);
}

// A NaN stays a NaN, so that a broken input shows in the output.
fn clip(x: f32, limit: f32) -> f32 {
    return select(clamp(x, -limit, limit), x, is_nan(x));
}

fn activate(code: u32, alpha: f32, beta: f32, x: f32) -> f32 {
    if is_nan(x) {
        return x;
    }
    switch code {
        case TANH: { return tanh_exact(x); }
        case SIGMOID: { return sigmoid(x); }
        case RELU: { return max(x, 0.0); }
        case LEAKY_RELU: { return select(alpha * x, x, x >= 0.0); }
        case THRESHOLDED_RELU: { return select(0.0, x, x >= alpha); }
        case SCALED_TANH: { return alpha * tanh_exact(beta * x); }
        case HARD_SIGMOID: { return clamp(alpha * x + beta, 0.0, 1.0); }
        case ELU: { return select(alpha * expm1_negative(min(x, 0.0)), x, x >= 0.0); }
        case SOFTSIGN: { return x / (1.0 + abs(x)); }
        case SOFTPLUS: { return max(x, 0.0) + log1p_unit(exp(max(-abs(x), -87.0))); }
        case AFFINE: { return alpha * x + beta; }
        default: { return x; }
    }
}
