// A loss of one prediction and one target, and its derivative with respect to the prediction.
// CPU twins: `reference::point_loss`, `reference::point_loss_grad`; the codes mirror `PointLoss`.

override LOSS: u32 = 0u;

const SQUARED_ERROR: u32 = 0u;

fn loss_of(x: f32, y: f32) -> f32 {
    if LOSS == SQUARED_ERROR {
        return (x - y) * (x - y);
    }
    // Written with ln(1 + e^-|x|), the cross-entropy overflows for no x.
    return max(x, 0.0) - x * y + activate(SOFTPLUS, 0.0, 0.0, -abs(x));
}

fn loss_grad_of(x: f32, y: f32) -> f32 {
    if LOSS == SQUARED_ERROR {
        return 2.0 * (x - y);
    }
    return activate(SIGMOID, 0.0, 0.0, x) - y;
}
