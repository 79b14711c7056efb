//! The GPU path of a build without the feature `gpu`. Its types have no values, so no function that takes one is ever called.
//! Other modules name these types like the real ones, and need no conditional compilation.

#![allow(dead_code, reason = "the fields of values that never exist")]

#[path = "arguments.rs"]
mod arguments;

use std::time::Duration;

pub(crate) use self::arguments::*;
use crate::cell::{Activation, Direction, Draw, Parameters};
use crate::error::{Error, Result};
use crate::op::{Binary, Clip, Conv1dGeometry, Math, PadMode, PointLoss, Reduction, StridedLayout, Update};
use crate::plan::{Limits, Plan, PlanKind, Problem};

#[derive(Clone, Copy, Debug)]
enum Never {}

/// Declares types without values. Their field is private, so that the compiler does not warn that the code for them is
/// unreachable.
macro_rules! absent_types {
    ($($visibility:vis $name:ident),*) => {$(
        #[doc = "Has no values: this build has no GPU path."]
        #[derive(Clone, Debug)]
        $visibility struct $name(Never);
    )*};
}

absent_types!(
    pub GpuDevice, pub(crate) Buffer, pub(crate) Recorder, pub(crate) ReadBack, pub(crate) LayerStack,
    pub(crate) TrainingTape
);

#[derive(Default)]
pub(crate) struct GpuOptions {}

pub(crate) struct AdapterSummary {
    pub(crate) name: String,
    pub(crate) backend: String,
}

impl GpuDevice {
    pub(crate) fn new(_: &GpuOptions) -> Result<Self> {
        Err(Error::NoAdapter { wanted: "a GPU".to_owned(), reason: "this build lacks the feature `gpu`".to_owned() })
    }

    pub(crate) fn adapter(&self) -> &AdapterSummary {
        match self.0 {}
    }

    pub(crate) fn plan_limits(&self) -> &Limits {
        match self.0 {}
    }

    pub(crate) fn plan_kind(&self) -> Option<PlanKind> {
        match self.0 {}
    }

    pub(crate) fn tuned(&self, _: Plan, _forced: bool) -> Plan {
        match self.0 {}
    }

    pub(crate) fn is_same(&self, _: &Self) -> bool {
        match self.0 {}
    }
}

impl Buffer {
    pub(crate) fn new(device: &GpuDevice, _label: &'static str, _len: usize) -> Result<Self> {
        match device.0 {}
    }

    pub(crate) fn from_slice<T>(device: &GpuDevice, _label: &'static str, _data: &[T]) -> Result<Self> {
        match device.0 {}
    }

    pub(crate) fn zeros(device: &GpuDevice, _label: &'static str, _len: usize) -> Result<Self> {
        match device.0 {}
    }

    pub(crate) fn write(&self, _op: &'static str, _bytes: &[u8]) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn is_shared(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn is_of_caller(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn overlaps(&self, _: &Self) -> bool {
        match self.0 {}
    }
}

impl ReadBack {
    pub(crate) fn wait<T>(self) -> Result<Vec<T>> {
        match self.0 {}
    }

    pub(crate) async fn arrive<T>(self) -> Result<Vec<T>> {
        match self.0 {}
    }
}

impl Recorder {
    pub(crate) fn new(device: &GpuDevice) -> Self {
        match device.0 {}
    }

    pub(crate) fn device(&self) -> &GpuDevice {
        match self.0 {}
    }

    pub(crate) fn copy(&mut self, _from: (&Buffer, usize), _to: (&Buffer, usize), _words: usize) {
        match self.0 {}
    }

    pub(crate) fn clear(&mut self, _buffer: &Buffer, _word: usize, _words: usize) {
        match self.0 {}
    }

    pub(crate) fn bound_submissions(&mut self, _longest: Duration) {
        match self.0 {}
    }

    pub(crate) fn submit(self) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn submit_and_read(self, _from: (&Buffer, usize), _words: usize) -> Result<ReadBack> {
        match self.0 {}
    }

    pub(crate) fn submit_and_read_all(self, _parts: &[(&Buffer, usize)]) -> Result<Vec<ReadBack>> {
        match self.0 {}
    }
}

/// Declares operations. Each is a function that takes a recorder.
macro_rules! absent_operations {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {$(
        pub(crate) fn $name(recorder: &mut Recorder, $(_: $argument),*) -> Result<$result> {
            match recorder.0 {}
        }
    )*};
}

absent_operations! {
    unary(Activation, &Buffer, usize) -> Buffer;
    unary_grad(Activation, [&Buffer; 2], usize) -> Buffer;
    math(Math, &Buffer, usize) -> Buffer;
    binary(Binary, Operand<'_>, Operand<'_>, [usize; 2]) -> Buffer;
    matmul((&Buffer, bool), (&Buffer, bool), Option<&Buffer>, MatmulSize) -> Buffer;
    conv1d((&Buffer, [usize; 3]), (&Buffer, [usize; 3]), &Buffer, Conv1dGeometry) -> Buffer;
    conv1d_grad_input([usize; 3], (&Buffer, [usize; 2]), &Buffer, Conv1dGeometry) -> Buffer;
    conv1d_grad_weight([usize; 3], (&Buffer, [usize; 2]), &Buffer, Conv1dGeometry) -> Buffer;
    pad1d((&Buffer, [usize; 2]), (usize, usize), PadMode) -> Buffer;
    reduce_rows(Reduction, &Buffer, [usize; 2]) -> Buffer;
    argmax_rows(&Buffer, [usize; 2]) -> Buffer;
    sum_columns(&Buffer, [usize; 2]) -> Buffer;
    sum(&Buffer, usize, f32) -> Buffer;
    strided_copy(&[usize], (&Buffer, &StridedLayout), (&Buffer, &StridedLayout)) -> ();
    gather_rows(&Buffer, (&Buffer, RowWords), [usize; 2]) -> Buffer;
    gather_rows_grad(usize, &[usize], &Buffer, usize) -> Buffer;
    dropout(&Draw, &Buffer, usize) -> Buffer;
    sequence_flags(Option<&Buffer>, Option<&Buffer>, Option<&Buffer>, usize) -> Buffer;
    mean_steps(&Buffer, &Buffer, [usize; 3]) -> Buffer;
    mean_steps_grad(&Buffer, &Buffer, [usize; 3]) -> Buffer;
    point_loss(PointLoss, [&Buffer; 3], [usize; 2]) -> Buffer;
    point_loss_grad(PointLoss, [&Buffer; 4], [usize; 2], f32) -> Buffer;
    softmax_cross_entropy(&Buffer, &Buffer, [usize; 2]) -> Buffer;
    softmax_cross_entropy_grad([&Buffer; 3], [usize; 2], f32) -> Buffer;
    judge_step(&Clip, u32, &Buffer, &[(&Buffer, usize)], &Buffer, usize) -> Buffer;
    optimizer_step(&Update, &Clip, [&Buffer; 4], usize) -> [Buffer; 2];
    forward(&LayerStack, &SequenceInput<'_>, &StateBuffers<'_>, Option<&Buffer>) -> Buffer;
    forward_training(TrainingStack<'_>, TrainingInput<'_>, &StateBuffers<'_>) -> (Buffer, TrainingTape);
}

impl LayerStack {
    pub(crate) fn new(
        device: &GpuDevice,
        _: Problem,
        _: &[Direction],
        _merge: Option<Binary>,
        _: Option<PlanKind>,
        _: &[Vec<Parameters>],
    ) -> Result<Self> {
        match device.0 {}
    }

    pub(crate) fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        match self.0 {}
    }
}

impl TrainingTape {
    pub(crate) fn backward(&self, _: &mut Recorder, _: &IncomingGradient<'_>) -> Result<TrainingGradient> {
        match self.0 {}
    }
}
