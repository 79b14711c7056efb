//! A dispatch a chunk of time over several workgroups, and one behind it that walks the chunk again, alone, if they did not
//! run at once.

use super::pack::VECTOR_ROWS;
use super::special::{CellScalars, Specialization};
use super::state::{LABEL, RunState, put_initial};
use super::{Call, project};
use crate::cell::Pad;
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::kernel::{Constants, SCAN_WIDE};
use crate::gpu::ops::{cut, word};
use crate::gpu::recorder::Recorder;
use crate::gpu::uniform::uniform;
use crate::plan::{Chunk, HEADER, Wide};

uniform! {
    /// Mirrors `WideDims` in `shaders/cell/exchange_memory.wgsl`.
    struct WideDims {
        scalars: CellScalars,
        time: u32,
        batch: u32,
        hidden: u32,
        out: u32,
        directions: u32,
        direction: u32,
        first_step: u32,
        steps: u32,
        weights: u32,
        weights_stride: u32,
        vectors: u32,
        h: u32,
        h_after: u32,
        h_initial: u32,
        s: u32,
        s_after: u32,
        s_initial: u32,
        exchange: u32,
        looks: u32,
    }
}

/// Regions of a part of the state: two that chunks move it between, and what a reset returns it to.
struct Regions {
    buffer: Buffer,
    len: usize,
}

impl Regions {
    fn new(
        recorder: &mut Recorder,
        call: &Call<'_>,
        now: Option<&Buffer>,
        initial: Option<&Buffer>,
        width: usize,
    ) -> Result<Self> {
        let device = recorder.device().clone();
        let problem = call.plan.problem();
        let Some(now) = now else { return Ok(Self { buffer: Buffer::new(&device, LABEL, 1)?, len: 0 }) };
        let len = problem.layers * problem.cells.len() * call.run.batch * width;
        let buffer = Buffer::new(&device, LABEL, if call.run.resets { 3 } else { 2 } * len)?;
        recorder.copy((now, 0), (&buffer, 0), len);
        if call.run.resets {
            put_initial(recorder, initial, &buffer, 2 * len, len);
        }
        Ok(Self { buffer, len })
    }

    /// Where the state lies before chunk `at`, after it, and initially.
    fn around(&self, at: usize) -> [usize; 3] {
        [at % 2 * self.len, (at + 1) % 2 * self.len, 2 * self.len]
    }
}

/// What the dispatches of a call share.
struct Memory {
    h: Regions,
    s: Regions,
    /// Whether all was given up, then what the workgroups tell each other.
    exchange: Buffer,
}

/// Records a call, a layer at a time.
pub(super) fn layers(recorder: &mut Recorder, call: &Call<'_>, state: &RunState<'_>, x: Buffer) -> Result<Buffer> {
    let device = recorder.device().clone();
    let Some(wide) = call.plan.wide else { return Buffer::new(&device, "y", 0) };
    let problem = call.plan.problem();
    let words = wide.exchange_words(problem);
    let memory = Memory {
        h: Regions::new(recorder, call, Some(state.h), state.initial_h(), call.out)?,
        s: Regions::new(recorder, call, state.s, state.initial_s(), problem.hidden)?,
        exchange: Buffer::new(&device, "exchange", words)?,
    };
    recorder.clear(&memory.exchange, 0, words);
    let gates_x = project::room(&device, call)?;
    let mut x = x;
    for layer in 0..problem.layers {
        let y = call.output(&device)?;
        for (at, &chunk) in call.plan.chunks.iter().enumerate() {
            project::input(recorder, call, layer, &x, chunk, &gates_x)?;
            walk(recorder, call, &wide, &memory, [layer, at], chunk, [&gates_x, &y])?;
        }
        x = call.merged(recorder, y)?;
    }
    for (part, to) in [(&memory.h, Some(state.h)), (&memory.s, state.s)] {
        if let Some(to) = to {
            let [last, ..] = part.around(call.plan.chunks.len());
            recorder.copy((&part.buffer, last), (to, 0), part.len);
        }
    }
    if let Some(together) = call.plan.together() {
        recorder.watch(&memory.exchange, together);
    }
    Ok(x)
}

/// Records chunk `at` of a layer: for each group of directions the workgroups together, then one of them alone.
fn walk(
    recorder: &mut Recorder,
    call: &Call<'_>,
    wide: &Wide,
    memory: &Memory,
    [layer, at]: [usize; 2],
    chunk: Chunk,
    [gates_x, y]: [&Buffer; 2],
) -> Result<()> {
    let Call { stack, run, plan, out } = *call;
    let problem = plan.problem();
    let device = recorder.device().clone();
    let (hidden, directions) = (problem.hidden, problem.cells.len());
    let n = |size: usize| word(&device, SCAN_WIDE.name, size);
    n(run.time * run.batch * directions * out)?;
    n(memory.h.len * 3)?;
    n(memory.s.len * 3)?;
    n(wide.exchange_words(problem))?;
    let packed = &stack.packed.layers[layer];
    // The binding must hold something; `FLAGS` says that it is not read.
    let flags = run.flags.as_ref().unwrap_or(&stack.packed.vectors);
    let ([h, h_after, h_initial], [s, s_after, s_initial]) = (memory.h.around(at), memory.s.around(at));
    for group in &plan.groups {
        let special = Specialization::of(&problem.cells[group.start]);
        let first = layer * directions + group.start;
        let rows = first * run.batch * hidden;
        let dims = WideDims {
            scalars: special.scalars,
            time: n(run.time)?,
            batch: n(run.batch)?,
            hidden: n(hidden)?,
            out: n(out)?,
            directions: n(directions)?,
            direction: n(group.start)?,
            first_step: n(chunk.first)?,
            steps: n(chunk.steps)?,
            weights: n(packed.recurrent.at + group.start * packed.recurrent.stride)?,
            weights_stride: n(packed.recurrent.stride)?,
            vectors: n(first * VECTOR_ROWS * hidden)?,
            h: n(h + rows)?,
            h_after: n(h_after + rows)?,
            h_initial: n(h_initial + rows)?,
            s: n(s + rows)?,
            s_after: n(s_after + rows)?,
            s_initial: n(s_initial + rows)?,
            exchange: n(HEADER + first * 2 * run.batch * wide.pitch)?,
            looks: wide.looks,
        };
        let buffers = [
            gates_x,
            &packed.recurrent.buffer,
            &stack.packed.vectors,
            flags,
            &memory.h.buffer,
            &memory.s.buffer,
            y,
            &memory.exchange,
        ];
        for redo in [false, true] {
            let mut constants = special.constants.clone();
            constants.extend(layout(call, wide, redo, n)?);
            let bound = recorder.bind(&SCAN_WIDE, &constants, buffers.map(Buffer::clone))?;
            let grid = if redo { plan.redo_grid(chunk) } else { plan.walk_grid(chunk) };
            recorder.dispatch(bound, &dims, &cut(&device, SCAN_WIDE.name, grid)?)?;
        }
    }
    Ok(())
}

/// The `override`s beside the cell's own.
fn layout(call: &Call<'_>, wide: &Wide, redo: bool, n: impl Fn(usize) -> Result<u32>) -> Result<Constants> {
    let Call { stack, run, plan, .. } = *call;
    let problem = plan.problem();
    let gates = problem.gates();
    let [blocks, kept, state] = match redo {
        true => [wide.workgroups, 0, 1],
        false => [1, wide.kept, wide.rows * wide.pitch],
    };
    Ok(vec![
        ("REDO", u32::from(redo)),
        ("BLOCKS", n(blocks)?),
        ("ROWS", n(wide.rows)?),
        ("UNITS", n(wide.units)?),
        ("SLICES", n(wide.slices)?),
        ("PARTIAL", n(wide.partial_elements())?),
        ("GATES", n(gates)?),
        ("USED", (1 << gates) - 1),
        ("WEIGHT_TYPE", problem.weight_type as u32),
        ("KEPT", n(kept)?),
        ("PITCH", n(wide.pitch)?),
        ("STATE", n(state)?),
        ("RESETS", u32::from(run.resets)),
        ("FLAGS", u32::from(run.flags.is_some())),
        ("HOLD", u32::from(run.pad == Pad::Hold)),
        ("REVERSE", stack.reverse),
    ])
}
