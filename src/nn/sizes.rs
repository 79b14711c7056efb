//! The sizes of stacks, from their configurations.

use super::{Recurrent, TrainableRecurrent};
use crate::cell::Cell;

macro_rules! sizes_of {
    ($stack:ident, $configuration:ident) => {
        impl<C: Clone + Into<Cell>> $stack<C> {
            /// Features of the input.
            pub fn input_size(&self) -> usize {
                self.$configuration().input_size()
            }

            /// Units per layer and direction.
            pub fn hidden_size(&self) -> usize {
                self.$configuration().hidden_size()
            }

            /// The number of layers.
            pub fn layers(&self) -> usize {
                self.$configuration().layer_count()
            }

            /// The cell of every layer, in the forward direction.
            pub fn cell(&self) -> &C {
                &self.$configuration().cell
            }

            /// Width of the output.
            pub fn output_size(&self) -> usize {
                self.$configuration().output_size()
            }
        }
    };
}

sizes_of!(Recurrent, configuration);
sizes_of!(TrainableRecurrent, config);
