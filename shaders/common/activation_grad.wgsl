// Derivatives of the activations. At a corner, where none exists, the value is PyTorch's.
// CPU twin: `reference::activate_derivative`.

fn activate_grad(code: u32, alpha: f32, beta: f32, x: f32) -> f32 {
    if is_nan(x) {
        return x;
    }
    switch code {
        case TANH: {
            let y = tanh_exact(x);
            return 1.0 - y * y;
        }
        case SIGMOID: {
            let y = sigmoid(x);
            return y * (1.0 - y);
        }
        case RELU: { return select(0.0, 1.0, x > 0.0); }
        case LEAKY_RELU: { return select(alpha, 1.0, x > 0.0); }
        case THRESHOLDED_RELU: { return select(0.0, 1.0, x > alpha); }
        case SCALED_TANH: {
            let y = tanh_exact(beta * x);
            return alpha * beta * (1.0 - y * y);
        }
        case HARD_SIGMOID: {
            let y = alpha * x + beta;
            return select(0.0, alpha, y > 0.0 && y < 1.0);
        }
        case ELU: { return select(alpha * exponential(min(x, 0.0)), 1.0, x > 0.0); }
        case SOFTSIGN: {
            let scale = 1.0 + abs(x);
            return 1.0 / (scale * scale);
        }
        case SOFTPLUS: { return sigmoid(x); }
        case AFFINE: { return alpha; }
        default: { return 1.0; }
    }
}
