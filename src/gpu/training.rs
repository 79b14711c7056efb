//! The host side of the training kernels around the cells: gradients of the operations, losses, the end of a step.

mod gradient;
mod loss;
mod update;

pub(crate) use gradient::{
    conv1d_grad_input, conv1d_grad_weight, gather_rows_grad, mean_steps, mean_steps_grad, unary_grad,
};
pub(crate) use loss::{point_loss, point_loss_grad, softmax_cross_entropy, softmax_cross_entropy_grad, sum};
pub(crate) use update::{judge_step, optimizer_step};
