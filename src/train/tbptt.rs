//! Truncated back-propagation through time.

use std::ops::Range;

use super::graph::{Graph, Var};
use super::layers::Recurrent;
use crate::cell::{Direction, Sequence};
use crate::error::{Error, Result, check_shape};
use crate::nn::{State, TrainingOptions};
use crate::ops::Slice;

const OP: &str = "tbptt";

/// `tbptt(k1, k2)` (Williams & Peng 1990; Sutskever 2013): after every `k1` steps of a sequence the loss of these steps is
/// propagated back, through the `k2` steps that end with them. The state is carried from step to step across the whole sequence; only
/// gradients are cut.
///
/// | | |
/// | --- | --- |
/// | `k1 = k2` | the usual chunks: each step is run once |
/// | `k1 < k2` | gradients reach further back than one chunk: before each update the last `k2` steps are run again with the parameters as they are by then, from the state that the window before had there |
/// | `k1 > k2` | only the last `k2` steps of each `k1` are learned from; the others only carry the state |
///
/// A loss counts once: that of the last `min(k1, k2)` steps of each window.
///
/// # Examples
/// ```
/// use gatewise::train::Tbptt;
/// let windows: Vec<_> = Tbptt::new(4, 6)?.windows(10).collect();
/// assert_eq!(windows.iter().map(|w| w.steps.clone()).collect::<Vec<_>>(), [0..4, 2..8, 6..10]);
/// assert_eq!(windows.iter().map(|w| w.losses.clone()).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tbptt {
    k1: usize,
    k2: usize,
}

/// One update of [`Tbptt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Steps before `steps` that only carry the state.
    pub carried: Range<usize>,
    /// Steps that gradients flow through.
    pub steps: Range<usize>,
    /// Steps whose loss counts, the last ones of `steps`.
    pub losses: Range<usize>,
    /// Where the next window begins: the state is kept as it is before this step.
    next: usize,
}

impl Window {
    /// The steps whose input the window reads.
    pub fn inputs(&self) -> Range<usize> {
        self.carried.start..self.steps.end
    }
}

impl Tbptt {
    /// Back-propagates through `k2` steps after every `k1`.
    ///
    /// # Errors
    /// [`Error::Value`] where either is 0.
    pub fn new(k1: usize, k2: usize) -> Result<Self> {
        for (what, k) in [("k1", k1), ("k2", k2)] {
            if k == 0 {
                return Err(Error::Value { op: OP, what, expected: "at least 1", found: "0".to_owned() });
            }
        }
        Ok(Self { k1, k2 })
    }

    /// The updates over a sequence of `time` steps; the last chunk may be shorter.
    pub fn windows(self, time: usize) -> impl Iterator<Item = Window> + use<> {
        let Self { k1, k2 } = self;
        let end = move |at: usize| time.min((at + 1) * k1);
        let start = move |at: usize| match k2.checked_sub(k1) {
            Some(further) => (at * k1).saturating_sub(further),
            None => end(at).saturating_sub(k2).max(at * k1),
        };
        (0..time.div_ceil(k1)).map(move |at| {
            let (begin, start, end) = (at * k1, start(at), end(at));
            let next = if end == time { end } else { end.saturating_sub(k2.saturating_sub(k1)) };
            Window { carried: begin.min(start)..start, steps: start..end, losses: begin.max(start)..end, next }
        })
    }
}

/// A recurrent stack's state on its way through a sequence's windows.
///
/// # Examples
/// ```
/// use gatewise::cell::Sequence;
/// use gatewise::nn::{Gru, TrainingOptions};
/// use gatewise::train::{Carry, Loss, Parameters, Recurrent, Sgd, Tbptt, Trainer};
/// use gatewise::{Device, Tensor};
/// use ndarray::{Array3, s};
///
/// let device = Device::Cpu;
/// let mut parameters = Parameters::new(&device, 7);
/// let gru = Recurrent::new(&mut parameters, "gru.", &Gru::config(1, 1))?;
/// let mut trainer = Trainer::new(parameters, Sgd::default(), 0.1)?;
/// let x = Array3::from_shape_fn((10, 2, 1), |(t, b, _)| (t + b) as f32 / 10.0); // [T, B, I]
/// let upload = |steps: std::ops::Range<usize>| Tensor::from_array(&device, &x.slice(s![steps, .., ..]));
/// let mut carry = Carry::new(gru.zero_state(&device, 2)?);
/// for window in Tbptt::new(4, 6)?.windows(10) {
///     trainer.step(|graph| {
///         let x = graph.input(&upload(window.inputs())?);
///         let y = carry.forward(graph, &gru, x, &window, &Sequence::new(), &TrainingOptions::default())?;
///         graph.mean_squared_error(y, &upload(window.losses.clone())?, &Loss::default())
///     })?;
///     carry.advance();
/// }
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Debug)]
pub struct Carry {
    state: State,
    at: usize,
    /// Where the last window leads to, once the caller says that it went well.
    next: Option<(State, usize)>,
}

impl Carry {
    /// A state at a sequence's first step.
    pub fn new(state: State) -> Self {
        Self { state, at: 0, next: None }
    }

    /// The state at the step that the next window begins with.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs a stack over a window; returns the output at the steps whose loss counts. [`Carry::advance`] then moves on.
    ///
    /// # Shapes
    /// `x [T, B, input]` for the steps of [`Window::inputs`]; `sequence` is that of the whole sequence; returns
    /// `[losses, B, output_size]`.
    ///
    /// # Errors
    /// [`Error::Value`] for a window that does not begin where the last one led to; [`Error::Unsupported`] for a stack with a
    /// reverse direction, which cannot carry a state from window to window; as [`Recurrent::forward`].
    pub fn forward(
        &mut self,
        graph: &mut Graph,
        stack: &Recurrent,
        x: Var,
        window: &Window,
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<Var> {
        // A window that fails must not lead on to where an earlier one led.
        self.next = None;
        let Window { carried, steps, losses, next } = window;
        if stack.config().parameter_places().iter().any(|place| place.direction == Direction::Reverse) {
            let option = "a reverse direction".to_owned();
            return Err(Error::Unsupported { op: OP, option, by: "truncated back-propagation" });
        }
        if window.inputs().start != self.at {
            let found = format!("{} instead of {}", window.inputs().start, self.at);
            return Err(Error::Value { op: OP, what: "window", expected: "the one after the last", found });
        }
        let length = graph.value(x)?.shape().first().copied().unwrap_or_default();
        check_shape(OP, "steps of x", &[window.inputs().len()], &[length])?;
        let part = |graph: &mut Graph, range: &Range<usize>| {
            let (start, count) = (range.start - window.inputs().start, range.len());
            graph.slice(x, Slice { axis: 0, start, step: 1, count })
        };

        let mut state = self.state.record_clone(graph.recorder())?;
        if !carried.is_empty() {
            let x = part(graph, carried)?;
            let x = graph.input(&graph.value(x)?.clone());
            stack.forward(graph, x, Some(&mut state), &sequence.part(carried.clone()), options)?;
        }
        let y = if *next == steps.end || *next == steps.start {
            let kept = state.record_clone(graph.recorder())?;
            let x = part(graph, steps)?;
            let y = stack.forward(graph, x, Some(&mut state), &sequence.part(steps.clone()), options)?;
            self.next = Some((if *next == steps.end { state } else { kept }, *next));
            y
        } else {
            // The next window begins inside this one: the state there is a value that gradients flow through.
            let (before, after) = (steps.start..*next, *next..steps.end);
            let (x_before, x_after) = (part(graph, &before)?, part(graph, &after)?);
            let stepped = stack.forward_within(graph, x_before, &state, None, &sequence.part(before), options)?;
            let h = graph.value(stepped.h)?.clone();
            let s = stepped.s.map(|s| graph.value(s).cloned()).transpose()?;
            let kept = state.record_at(graph.recorder(), &h, s.as_ref())?;
            let from = Some((stepped.h, stepped.s));
            let rest = stack.forward_within(graph, x_after, &state, from, &sequence.part(after), options)?;
            self.next = Some((kept, *next));
            graph.concat(&[stepped.y, rest.y], 0)?
        };
        let skipped = losses.start - steps.start;
        if skipped == 0 {
            return Ok(y);
        }
        graph.slice(y, Slice { axis: 0, start: skipped, step: 1, count: losses.len() })
    }

    /// Moves on behind the last window, once its step has been made. A window that failed leaves the state where it was.
    pub fn advance(&mut self) {
        if let Some((state, at)) = self.next.take() {
            (self.state, self.at) = (state, at);
        }
    }
}
