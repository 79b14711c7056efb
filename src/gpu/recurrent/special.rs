//! Turns a cell into the `override`s and scalars of the kernels.

use crate::cell::{Activation, Cell, Draw, Forget, Mask, Mix, Noise};
use crate::gpu::kept::kernel::Constants;
use crate::gpu::kept::uniform::uniform;
use crate::gpu::submit::recorder::Recorder;

uniform! {
    /// Mirrors `CellScalars` in `shaders/common/cell.wgsl`.
    pub(super) struct CellScalars {
        gate_alpha: f32,
        gate_beta: f32,
        candidate_alpha: f32,
        candidate_beta: f32,
        output_alpha: f32,
        output_beta: f32,
        gate_clip: f32,
        cell_clip: f32,
    }

    /// Mirrors `Noise` in `shaders/common/noise.wgsl`.
    pub(super) struct NoiseDims {
        seed_low: u32,
        seed_high: u32,
        step: u32,
        row: u32,
        recurrent: u32,
        zoneout_h: u32,
        zoneout_s: u32,
        recurrent_scale: f32,
    }
}

/// The masks of a layer whose first direction is row `row` of its stack, and the `override`s that switch them on.
pub(super) fn noise_of(recorder: &mut Recorder, noise: &Noise, row: usize) -> (NoiseDims, Constants) {
    let recurrent = noise.draw(Mask::Recurrent { row });
    let [zoneout_h, zoneout_s] = [Mask::ZoneoutH { row }, Mask::ZoneoutS { row }].map(|mask| noise.draw(mask));
    let threshold = |draw: Option<Draw>| draw.map_or(0, |draw| draw.threshold);
    let draws = [recurrent, zoneout_h, zoneout_s].iter().any(Option::is_some);
    let [seed_low, seed_high, step, row] = if draws { noise.words(row) } else { [0; 4] };
    if draws {
        // The uniform holds the number of the training step.
        recorder.has_passing_numbers();
    }
    let dims = NoiseDims {
        seed_low,
        seed_high,
        step,
        row,
        recurrent: threshold(recurrent),
        zoneout_h: threshold(zoneout_h),
        zoneout_s: threshold(zoneout_s),
        recurrent_scale: recurrent.map_or(1.0, |draw| draw.scale()),
    };
    let constants = vec![
        ("RECURRENT_DROPOUT", u32::from(recurrent.is_some())),
        ("ZONEOUT_H", u32::from(zoneout_h.is_some())),
        ("ZONEOUT_S", u32::from(zoneout_s.is_some())),
    ];
    (dims, constants)
}

/// A cell as a kernel reads it: `override`s and scalars.
pub(super) struct Specialization {
    pub(super) constants: Constants,
    pub(super) scalars: CellScalars,
}

impl Specialization {
    pub(super) fn of(cell: &Cell) -> Self {
        struct Options {
            kind: u32,
            gate: Activation,
            candidate: Activation,
            output: Activation,
            gate_clip: Option<f32>,
            cell_clip: Option<f32>,
            forget: Forget,
            takes_new: bool,
        }
        let plain = Options {
            kind: 0,
            gate: Activation::Identity,
            candidate: Activation::Identity,
            output: Activation::Identity,
            gate_clip: None,
            cell_clip: None,
            forget: Forget::Gate,
            takes_new: false,
        };
        let options = match *cell {
            Cell::Rnn(c) => Options { kind: 0, candidate: c.activation, gate_clip: c.gate_clip, ..plain },
            Cell::Lstm(c) => Options {
                kind: 1,
                gate: c.gate,
                candidate: c.candidate,
                output: c.output,
                gate_clip: c.gate_clip,
                cell_clip: c.cell_clip,
                forget: c.forget,
                ..plain
            },
            Cell::Gru(c) => Options {
                kind: 2,
                gate: c.gate,
                candidate: c.candidate,
                gate_clip: c.gate_clip,
                takes_new: c.mix == Mix::TakesNew,
                ..plain
            },
        };
        let (gate, gate_alpha, gate_beta) = options.gate.code();
        let (candidate, candidate_alpha, candidate_beta) = options.candidate.code();
        let (output, output_alpha, output_beta) = options.output.code();
        let forget = match options.forget {
            Forget::Gate => 0,
            Forget::Never => 1,
            Forget::Coupled => 2,
        };
        Self {
            constants: vec![
                ("CELL", options.kind),
                ("GATE_ACTIVATION", gate),
                ("CANDIDATE_ACTIVATION", candidate),
                ("OUTPUT_ACTIVATION", output),
                ("GATE_CLIP", u32::from(options.gate_clip.is_some())),
                ("CELL_CLIP", u32::from(options.cell_clip.is_some())),
                ("FORGET", forget),
                ("PEEPHOLE", u32::from(cell.peephole())),
                ("TAKES_NEW", u32::from(options.takes_new)),
                ("PROJECTED", u32::from(cell.projection().is_some())),
            ],
            scalars: CellScalars {
                gate_alpha,
                gate_beta,
                candidate_alpha,
                candidate_beta,
                output_alpha,
                output_beta,
                gate_clip: options.gate_clip.unwrap_or(0.0),
                cell_clip: options.cell_clip.unwrap_or(0.0),
            },
        }
    }
}
