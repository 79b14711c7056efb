//! Truncated back-propagation through time.

use std::ops::Range;

use super::graph::{Graph, Var};
use super::layers::RecurrentModule;
use crate::cell::{Direction, Sequence};
use crate::error::{Error, Result, check_shape};
use crate::nn::{State, TrainingOptions};
use crate::ops::Slice;

const OP: &str = "tbptt";

/// `tbptt(k1, k2)` (Williams & Peng 1990; Sutskever 2013): one update per `k1` steps of a sequence, with gradients through the
/// last `k2` steps. The state is carried through the whole sequence; only gradients are truncated.
///
/// | | |
/// | --- | --- |
/// | `k1 = k2` | The usual chunks: every step runs once. |
/// | `k1 < k2` | Gradients reach further back than one chunk. Before each update the last `k2` steps run again with the current parameters, from the state that the window before reached there. |
/// | `k1 > k2` | Only the last `k2` of every `k1` steps are trained on. The others only carry the state. |
///
/// The loss of a step counts at most once: each window counts the losses of its last `min(k1, k2)` steps.
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
    /// The steps before `steps`, which only carry the state.
    pub carried: Range<usize>,
    /// The steps that gradients flow through.
    pub steps: Range<usize>,
    /// The steps whose loss counts: the last ones of `steps`.
    pub losses: Range<usize>,
    /// The first step of the next window, which starts from the state before this step.
    next: usize,
}

impl Window {
    /// The steps whose input the window reads.
    pub fn inputs(&self) -> Range<usize> {
        self.carried.start..self.steps.end
    }
}

impl Tbptt {
    /// Updates after every `k1` steps, with gradients through the last `k2` steps.
    ///
    /// # Errors
    /// [`Error::Value`] if either is 0.
    pub fn new(k1: usize, k2: usize) -> Result<Self> {
        for (what, k) in [("k1", k1), ("k2", k2)] {
            if k == 0 {
                return Err(Error::Value { op: OP, what, expected: "at least 1", found: "0".to_owned() });
            }
        }
        Ok(Self { k1, k2 })
    }

    /// The windows of a sequence of `time` steps, one per update. The last one may be shorter.
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

/// The state of a recurrent stack between the windows of a sequence.
///
/// # Examples
/// ```
/// use gatewise::cell::Sequence;
/// use gatewise::nn::{Gru, TrainingOptions};
/// use gatewise::train::{CarriedState, LossOptions, Parameters, RecurrentModule, Sgd, Tbptt, Trainer};
/// use gatewise::{Device, Tensor};
/// use ndarray::{Array3, s};
///
/// let device = Device::Cpu;
/// let mut parameters = Parameters::new(&device, 7);
/// let gru = RecurrentModule::new(&mut parameters, "gru.", &Gru::config(1, 1))?;
/// let mut trainer = Trainer::new(parameters, Sgd::default(), 0.1)?;
/// let x = Array3::from_shape_fn((10, 2, 1), |(t, b, _)| (t + b) as f32 / 10.0); // [T, B, I]
/// let upload = |steps: std::ops::Range<usize>| Tensor::from_array(&device, &x.slice(s![steps, .., ..]));
/// let mut carry = CarriedState::new(gru.zero_state(&device, 2)?);
/// for window in Tbptt::new(4, 6)?.windows(10) {
///     trainer.step(|graph| {
///         let x = graph.input(&upload(window.inputs())?);
///         let y = carry.forward(graph, &gru, x, &window, &Sequence::new(), &TrainingOptions::default())?;
///         graph.mean_squared_error(y, &upload(window.losses.clone())?, &LossOptions::default())
///     })?;
///     carry.advance();
/// }
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Debug)]
pub struct CarriedState {
    state: State,
    /// The first step of the next window.
    at: usize,
    /// The start state and the first step of the window after the current one, for [`CarriedState::advance`].
    next: Option<(State, usize)>,
}

/// The arguments of one window.
struct WindowPass<'a> {
    stack: &'a RecurrentModule,
    /// The input at the steps of [`Window::inputs`].
    x: Var,
    window: &'a Window,
    sequence: &'a Sequence,
    options: &'a TrainingOptions,
}

impl WindowPass<'_> {
    /// The input at some steps of the window.
    fn input(&self, graph: &mut Graph, steps: &Range<usize>) -> Result<Var> {
        let start = steps.start - self.window.inputs().start;
        graph.slice(self.x, Slice { axis: 0, start, step: 1, count: steps.len() })
    }

    /// Runs the steps of [`Window::carried`], through which no gradients flow.
    fn carry(&self, graph: &mut Graph, state: &mut State) -> Result<()> {
        let carried = &self.window.carried;
        if carried.is_empty() {
            return Ok(());
        }
        let x = self.input(graph, carried)?;
        let x = graph.input(&graph.value(x)?.clone());
        let sequence = self.sequence.part(carried.clone());
        self.stack.forward(graph, x, Some(state), &sequence, self.options).map(|_| ())
    }

    /// Runs [`Window::steps`], through which gradients flow; returns their output and the start state of the next window.
    fn run(&self, graph: &mut Graph, mut state: State) -> Result<(Var, State)> {
        let Window { steps, next, .. } = self.window;
        if *next == steps.end || *next == steps.start {
            let before = state.record_clone(graph.recorder())?;
            let x = self.input(graph, steps)?;
            let sequence = self.sequence.part(steps.clone());
            let y = self.stack.forward(graph, x, Some(&mut state), &sequence, self.options)?;
            return Ok((y, if *next == steps.end { state } else { before }));
        }
        // The next window begins inside this one, so the state there is a value that gradients flow through.
        let (before, after) = (steps.start..*next, *next..steps.end);
        let (x_before, x_after) = (self.input(graph, &before)?, self.input(graph, &after)?);
        let part = |steps: Range<usize>| self.sequence.part(steps);
        let first = self.stack.forward_within(graph, x_before, &state, None, &part(before), self.options)?;
        let h = graph.value(first.h)?.clone();
        let s = first.s.map(|s| graph.value(s).cloned()).transpose()?;
        let kept = state.record_at(graph.recorder(), &h, s.as_ref())?;
        let from = Some((first.h, first.s));
        let rest = self.stack.forward_within(graph, x_after, &state, from, &part(after), self.options)?;
        Ok((graph.concat(&[first.y, rest.y], 0)?, kept))
    }
}

impl CarriedState {
    /// The state before the first step of a sequence.
    pub fn new(state: State) -> Self {
        Self { state, at: 0, next: None }
    }

    /// The state before the first step of the next window.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs a stack over a window; returns the output at the steps whose loss counts. [`CarriedState::advance`] must follow once
    /// the update is made.
    ///
    /// # Shapes
    /// `x [T, B, input]` holds the steps of [`Window::inputs`]; `sequence` describes all windows together. Returns
    /// `[losses, B, output_size]`.
    ///
    /// # Errors
    /// [`Error::Value`] if the window does not follow the last one; [`Error::Unsupported`] for a stack with a reverse direction,
    /// whose state cannot be carried; as [`RecurrentModule::forward`].
    pub fn forward(
        &mut self,
        graph: &mut Graph,
        stack: &RecurrentModule,
        x: Var,
        window: &Window,
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<Var> {
        // If this window fails, `advance` must not take the state of an earlier one.
        self.next = None;
        if stack.config().parameter_places().iter().any(|place| place.direction == Direction::Reverse) {
            let option = "a reverse direction".to_owned();
            return Err(Error::Unsupported { op: OP, option, by: "by truncated back-propagation" });
        }
        if window.inputs().start != self.at {
            let found = format!("{} instead of {}", window.inputs().start, self.at);
            return Err(Error::Value { op: OP, what: "window", expected: "the one after the last", found });
        }
        let length = graph.value(x)?.shape().first().copied().unwrap_or_default();
        check_shape(OP, "steps of x", &[window.inputs().len()], &[length])?;

        let pass = WindowPass { stack, x, window, sequence, options };
        let mut state = self.state.record_clone(graph.recorder())?;
        pass.carry(graph, &mut state)?;
        let (y, kept) = pass.run(graph, state)?;
        self.next = Some((kept, window.next));
        let skipped = window.losses.start - window.steps.start;
        if skipped == 0 {
            return Ok(y);
        }
        graph.slice(y, Slice { axis: 0, start: skipped, step: 1, count: window.losses.len() })
    }

    /// Advances to the next window, once the update of the last one has been made. After a window that failed the state stays.
    pub fn advance(&mut self) {
        if let Some((state, at)) = self.next.take() {
            (self.state, self.at) = (state, at);
        }
    }
}
