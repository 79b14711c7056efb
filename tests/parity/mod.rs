//! The cases of every kernel: its inputs, and the outputs that the reference gives.
//!
//! A new kernel takes a function that returns its cases, in the file of its family, and a line in [`kernel_cases`].

#![allow(dead_code, reason = "the mutants use a part of it")]

mod cell;
mod conv;
mod elementwise;
mod gradient;
mod layout;
mod matmul;
mod passes;
mod peaks;
mod reduce;
mod train;

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use gatewise::gpu::{GpuDevice, KERNELS, Kernel, KernelRun};

use crate::support::Tolerance;

/// Hands every kernel and its cases to another macro.
macro_rules! kernel_cases {
    ($then:ident) => {
        $then! {
            matmul: parity::matmul_tiled;
            matmul_rows: parity::matmul_rows;
            conv1d: parity::conv1d;
            pad1d: parity::pad1d;
            unary: parity::unary;
            binary: parity::binary;
            reduce_rows: parity::reduce_rows;
            sum_columns: parity::sum_columns;
            strided_copy: parity::strided_copy;
            gather_rows: parity::gather_rows;
            math: parity::math;
            argmax_rows: parity::argmax_rows;
            project_rows: parity::project_rows;
            project_lanes: parity::project_lanes;
            project_matrix_half: parity::project_matrix_half;
            project_matrix_float: parity::project_matrix_float;
            recurrent_step: parity::recurrent_step;
            recurrent_step_lanes: parity::recurrent_step_lanes;
            recurrent_step_matrix_half: parity::recurrent_step_matrix_half;
            recurrent_step_matrix_float: parity::recurrent_step_matrix_float;
            recurrent_step_grad: parity::recurrent_step_grad;
            recurrent_step_grad_lanes: parity::recurrent_step_grad_lanes;
            scan_rows: parity::scan_rows;
            scan_lanes: parity::scan_lanes;
            scan_cooperative: parity::scan_cooperative;
            unary_grad: parity::unary_grad;
            gather_rows_grad: parity::gather_rows_grad;
            conv1d_grad_input: parity::conv1d_grad_input;
            conv1d_grad_weight: parity::conv1d_grad_weight;
            mean_steps: parity::mean_steps;
            mean_steps_grad: parity::mean_steps_grad;
            softmax_cross_entropy: parity::softmax_cross_entropy;
            softmax_cross_entropy_grad: parity::softmax_cross_entropy_grad;
            point_loss: parity::point_loss;
            point_loss_grad: parity::point_loss_grad;
            partial_sums: parity::partial_sums;
            total_sum: parity::total_sum;
            judge_step: parity::judge_step;
            optimizer_step: parity::optimizer_step;
            peak_copy: parity::peak_copy;
            peak_read: parity::peak_read;
            peak_fma: parity::peak_fma;
            peak_step: parity::peak_step;
            matmul_strided: parity::matmul_strided;
            matmul_strided_lanes: parity::matmul_strided_lanes;
            sum_strided: parity::sum_strided;
            dropout: parity::dropout;
            silence: parity::silence;
            sequence_flags: parity::sequence_flags;
            pack_weights: parity::pack_weights;
            pack_vectors: parity::pack_vectors;
        }
    };
}
pub(crate) use cell::{
    emulated, project_lanes, project_matrix_float, project_matrix_half, project_rows, recurrent_step,
    recurrent_step_grad, recurrent_step_grad_lanes, recurrent_step_lanes, recurrent_step_matrix_float,
    recurrent_step_matrix_half, scan_cooperative, scan_lanes, scan_rows,
};
pub(crate) use conv::{conv1d, pad1d};
pub(crate) use elementwise::{binary, math, unary};
pub(crate) use gradient::{
    conv1d_grad_input, conv1d_grad_weight, gather_rows_grad, mean_steps, mean_steps_grad, unary_grad,
};
pub(crate) use kernel_cases;
pub(crate) use layout::{gather_rows, strided_copy};
pub(crate) use matmul::{matmul_rows, matmul_tiled};
pub(crate) use passes::{
    dropout, matmul_strided, matmul_strided_lanes, pack_vectors, pack_weights, sequence_flags, silence, sum_strided,
};
pub(crate) use peaks::{peak_copy, peak_fma, peak_read, peak_step};
pub(crate) use reduce::{argmax_rows, reduce_rows, sum_columns};
pub(crate) use train::{
    judge_step, optimizer_step, partial_sums, point_loss, point_loss_grad, softmax_cross_entropy,
    softmax_cross_entropy_grad, total_sum,
};

/// Fills every word that a kernel must not write: no kernel computes this number.
pub(crate) const GUARD: f32 = -12345.678;
/// Fills the words behind every input. This NaN spoils any result that it enters, multiplied by zero or not.
pub(crate) const POISON: f32 = f32::from_bits(0x7fc1_2345);
/// Guard or poison words behind a buffer: as many as a workgroup has invocations at most.
const GUARD_WORDS: usize = 256;

/// The value that a word must hold after the kernel has run.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// These very bits.
    Exactly(u32),
    /// A float near this one.
    Near(f64),
    /// A float near this one whose lowest bit is this.
    Tagged(f64, u32),
}

/// A buffer before and after the run.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    before: Vec<u32>,
    after: Vec<Word>,
}

impl Slot {
    fn new(words: impl IntoIterator<Item = u32>, behind: f32) -> Self {
        let before: Vec<u32> = words.into_iter().chain([behind.to_bits(); GUARD_WORDS]).collect();
        Self { after: before.iter().map(|&word| Word::Exactly(word)).collect(), before }
    }

    /// Words that the kernel reads.
    pub(crate) fn words(words: impl IntoIterator<Item = u32>) -> Self {
        Self::new(words, POISON)
    }

    /// Numbers that the kernel reads.
    pub(crate) fn floats(x: &[f32]) -> Self {
        Self::words(x.iter().map(|x| x.to_bits()))
    }

    /// Numbers that the kernel may change only where `near` or `exactly` say so.
    pub(crate) fn in_place(x: &[f32]) -> Self {
        Self::new(x.iter().map(|x| x.to_bits()), GUARD)
    }

    /// Room for `len` results.
    pub(crate) fn output(len: usize) -> Self {
        Self::in_place(&vec![GUARD; len])
    }

    /// Expects a result within the case's tolerance.
    pub(crate) fn expect_near(&mut self, at: usize, value: f64) {
        self.after[at] = Word::Near(value);
    }

    /// Expects a result within the case's tolerance, its lowest bit a tag where there is one.
    pub(crate) fn expect_tagged(&mut self, at: usize, value: f64, tag: Option<u32>) {
        self.after[at] = tag.map_or(Word::Near(value), |tag| Word::Tagged(value, tag));
    }

    /// Expects these very bits from `offset` on.
    pub(crate) fn expect_bits(&mut self, offset: usize, expected: &[f32]) {
        for (word, value) in self.after[offset..].iter_mut().zip(expected) {
            *word = Word::Exactly(value.to_bits());
        }
    }

    /// Expects results from `offset` on, within the case's tolerance.
    pub(crate) fn near(mut self, offset: usize, expected: impl IntoIterator<Item = f64>) -> Self {
        for (index, value) in (offset..).zip(expected) {
            self.expect_near(index, value);
        }
        self
    }

    /// Expects these very bits from `offset` on.
    pub(crate) fn exactly(mut self, offset: usize, expected: impl IntoIterator<Item = f32>) -> Self {
        for (index, value) in (offset..).zip(expected) {
            self.after[index] = Word::Exactly(value.to_bits());
        }
        self
    }

    fn check(&self, tolerance: Tolerance, got: &[u32]) -> Result<(), String> {
        for (index, (&got, &expected)) in got.iter().zip(&self.after).enumerate() {
            let value = f32::from_bits(got);
            match expected {
                Word::Exactly(bits) if bits != got => {
                    let wanted = f32::from_bits(bits);
                    return Err(format!("[{index}]: expected the bits {bits:#x} ({wanted}), got {got:#x} ({value})"));
                }
                Word::Near(wanted) if !tolerance.allows(value.into(), wanted) => {
                    return Err(format!("[{index}]: expected {wanted}, got {value} ({tolerance:?})"));
                }
                Word::Tagged(wanted, tag) if got & 1 != tag || !tolerance.allows(value.into(), wanted) => {
                    return Err(format!(
                        "[{index}]: expected {wanted} tagged {tag}, got {got:#x} ({value}, {tolerance:?})"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// One run of a kernel with the expected contents of its buffers.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Shapes and options, for the message and for the mutants' choice.
    pub(crate) name: String,
    pub(crate) constants: Vec<(&'static str, u32)>,
    /// The uniform.
    pub(crate) dims: Vec<u32>,
    /// The buffers from binding 1 on.
    pub(crate) buffers: Vec<Slot>,
    pub(crate) grid: [u32; 3],
    pub(crate) tolerance: Tolerance,
}

impl Case {
    /// Runs the case and compares every word of every buffer.
    pub(crate) fn run(&self, gpu: &GpuDevice, kernel: &'static Kernel) -> Result<(), String> {
        self.check(kernel, &self.buffers_after(gpu, kernel)?)
    }

    /// Runs the kernel and returns all buffers.
    pub(crate) fn buffers_after(&self, gpu: &GpuDevice, kernel: &'static Kernel) -> Result<Vec<Vec<u32>>, String> {
        let buffers: Vec<Vec<u32>> = self.buffers.iter().map(|slot| slot.before.clone()).collect();
        let run = KernelRun { constants: &self.constants, dims: &self.dims, buffers: &buffers, grid: self.grid };
        gpu.run_kernel(emulated(kernel), &run).map_err(|error| self.named(kernel, &error.to_string()))
    }

    pub(crate) fn check(&self, kernel: &Kernel, after: &[Vec<u32>]) -> Result<(), String> {
        for (binding, (slot, got)) in (1..).zip(self.buffers.iter().zip(after)) {
            slot.check(self.tolerance, got)
                .map_err(|message| self.named(kernel, &format!("binding {binding}{message}")))?;
        }
        Ok(())
    }

    fn named(&self, kernel: &Kernel, message: &str) -> String {
        format!("{} {}: {message}", kernel.name, self.name)
    }
}

/// The words of a kernel's uniform by its fields' names.
struct Fields {
    places: Vec<(String, usize)>,
    words: usize,
}

/// The uniform of a kernel, its fields by the names that the WGSL gives them; fields that are not named are zero.
pub(crate) fn dims(kernel: &str, fields: &[(&str, u32)]) -> Vec<u32> {
    static KNOWN: LazyLock<Mutex<HashMap<&str, Fields>>> = LazyLock::new(Mutex::default);
    let kernel = KERNELS.iter().find(|known| known.name == kernel).expect("in the table");
    let mut known = KNOWN.lock().expect("no panic while it is held");
    let Fields { places, words } = known.entry(kernel.name).or_insert_with(|| {
        let module = naga::front::wgsl::parse_str(kernel.source).expect("valid WGSL");
        let uniform =
            module.global_variables.iter().find(|(_, variable)| variable.space == naga::AddressSpace::Uniform);
        let (_, uniform) = uniform.expect("a uniform");
        let mut places = Vec::new();
        let bytes = uniform_fields(&module, uniform.ty, "", 0, &mut places);
        Fields { places, words: bytes / 4 }
    });
    let places: Vec<Option<usize>> =
        fields.iter().map(|(name, _)| places.iter().find(|(known, _)| known == name).map(|(_, at)| *at)).collect();
    let mut words = vec![0; *words];
    drop(known);
    for ((name, value), at) in fields.iter().zip(places) {
        words[at.unwrap_or_else(|| panic!("{}: no field {name} in its uniform", kernel.name))] = *value;
    }
    words
}

/// Names and words of a struct's fields; returns its size in bytes.
fn uniform_fields(
    module: &naga::Module,
    ty: naga::Handle<naga::Type>,
    parent: &str,
    offset: usize,
    places: &mut Vec<(String, usize)>,
) -> usize {
    let naga::TypeInner::Struct { members, span } = &module.types[ty].inner else {
        places.push((parent.to_owned(), offset / 4));
        return 0;
    };
    for member in members {
        let name = member.name.as_deref().unwrap_or_default();
        let name = if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
        uniform_fields(module, member.ty, &name, offset + member.offset as usize, places);
    }
    *span as usize
}

/// Whether an adapter has what a kernel asks for: those that pass values between lanes need subgroups of at least 8, and so
/// do the workgroups of several subgroups that cases of matrices are laid out for.
pub(crate) fn can_run(gpu: &GpuDevice, kernel: &Kernel) -> bool {
    let subgroups = ["subgroupBroadcast", "subgroup_id"].iter().any(|word| kernel.source.contains(word));
    !subgroups || gpu.plan_limits().subgroup >= 8
}

/// A size as the uniforms hold it.
pub(crate) fn n(size: usize) -> u32 {
    u32::try_from(size).expect("a small size")
}

/// The wider type of the reference's sums.
pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Workgroups of `size` for `count` invocations, in one line or folded into two axes.
pub(crate) fn grid(count: usize, size: usize, folded: bool) -> [u32; 3] {
    let groups = n(count.div_ceil(size).max(1));
    if folded { [groups.div_ceil(2), 2, 1] } else { [groups, 1, 1] }
}

/// Sizes around nothing, one, and the edges of a workgroup.
pub(crate) const EDGES: [usize; 8] = [0, 1, 3, 63, 64, 65, 129, 200];
/// Sizes of a workgroup that every kernel with a `WORKGROUP_SIZE` must work at; the first is its default.
pub(crate) const WORKGROUPS: [usize; 3] = [64, 32, 256];
