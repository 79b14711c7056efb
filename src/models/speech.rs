//! Turns speech probabilities into segments of speech.

use std::time::Duration;

use crate::models::SileroVad;

/// A segment of speech.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Segment {
    /// The start, in seconds from the start of the recording.
    pub start: f64,
    /// The end, in seconds from the start of the recording.
    pub end: f64,
}

/// The rules by which speech begins and ends. Silero publishes the default values for its model.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use gatewise::models::SegmentOptions;
/// let options = SegmentOptions::new().threshold(0.6).min_silence(Duration::from_millis(300));
/// assert_eq!((options.threshold, options.end_threshold), (0.6, 0.35));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentOptions {
    /// A segment begins with a frame of at least this probability.
    pub threshold: f32,
    /// A segment ends at a frame below this probability, if no frame reaches `threshold` for `min_silence` after it.
    pub end_threshold: f32,
    /// The silence that ends a segment.
    pub min_silence: Duration,
    /// Segments that are not longer than this are dropped.
    pub min_speech: Duration,
    /// Time that is added to both ends of a segment. If the silence between two segments is shorter than twice this, each gets half.
    pub pad: Duration,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl SegmentOptions {
    /// Silero's default values.
    pub const fn new() -> Self {
        Self {
            threshold: 0.5,
            end_threshold: 0.35,
            min_silence: Duration::from_millis(100),
            min_speech: Duration::from_millis(250),
            pad: Duration::from_millis(30),
        }
    }

    /// Sets the probability that begins a segment.
    pub const fn threshold(self, threshold: f32) -> Self {
        Self { threshold, ..self }
    }

    /// Sets the probability below which a segment may end.
    pub const fn end_threshold(self, end_threshold: f32) -> Self {
        Self { end_threshold, ..self }
    }

    /// Sets the silence that ends a segment.
    pub const fn min_silence(self, min_silence: Duration) -> Self {
        Self { min_silence, ..self }
    }

    /// Sets the length up to which segments are dropped.
    pub const fn min_speech(self, min_speech: Duration) -> Self {
        Self { min_speech, ..self }
    }

    /// Sets the time that is added to both ends of a segment.
    pub const fn pad(self, pad: Duration) -> Self {
        Self { pad, ..self }
    }
}

/// Finds the speech segments of a recording of `samples` samples (`get_speech_timestamps` of silero-vad). `probabilities` holds
/// one value per frame of [`SileroVad::FRAME`] samples.
///
/// ```
/// use gatewise::models::{SegmentOptions, speech_segments};
/// let mut probabilities = vec![0.0; 50];
/// probabilities[10..30].fill(0.9);
/// let segments = speech_segments(&probabilities, 50 * 512, &SegmentOptions::default());
/// assert_eq!(segments.len(), 1);
/// assert!((segments[0].start - (0.32 - 0.03)).abs() < 1e-9);
/// assert!((segments[0].end - (0.96 + 0.03)).abs() < 1e-9);
/// ```
pub fn speech_segments(probabilities: &[f32], samples: usize, options: &SegmentOptions) -> Vec<Segment> {
    let count = |duration: Duration| (duration.as_secs_f64() * f64::from(SileroVad::SAMPLE_RATE)).round() as usize;
    let (min_silence, min_speech, pad) = (count(options.min_silence), count(options.min_speech), count(options.pad));

    let mut spans: Vec<(usize, usize)> = Vec::new();
    let mut keep = |start: usize, end: usize| {
        if end.saturating_sub(start) > min_speech {
            spans.push((start, end));
        }
    };
    let mut start = None;
    let mut silence = None;
    for (frame, &probability) in probabilities.iter().enumerate() {
        let at = frame * SileroVad::FRAME;
        match start {
            None if probability >= options.threshold => start = Some(at),
            None => {}
            Some(_) if probability >= options.threshold => silence = None,
            Some(begin) if probability < options.end_threshold => {
                let end = *silence.get_or_insert(at);
                if at - end >= min_silence {
                    keep(begin, end);
                    (start, silence) = (None, None);
                }
            }
            Some(_) => {}
        }
    }
    if let Some(begin) = start {
        keep(begin, samples);
    }
    padded(&spans, samples, pad)
}

/// Widens every span by `pad` at both ends, but by at most half of the silence before the next span.
fn padded(spans: &[(usize, usize)], samples: usize, pad: usize) -> Vec<Segment> {
    let seconds = |at: usize| at as f64 / f64::from(SileroVad::SAMPLE_RATE);
    let share = |gap: usize| if gap < 2 * pad { gap / 2 } else { pad };
    (0..spans.len())
        .map(|i| {
            let (start, end) = spans[i];
            let before = if i == 0 { start.min(pad) } else { share(start - spans[i - 1].1) };
            let after = spans.get(i + 1).map_or(samples.saturating_sub(end).min(pad), |next| share(next.0 - end));
            Segment { start: seconds(start - before), end: seconds(end + after) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::SegmentOptions;

    #[test]
    fn every_option_has_a_method_that_sets_it_alone() {
        assert_eq!(SegmentOptions::new(), SegmentOptions::default());
        let [silence, speech, pad] = [1, 2, 3].map(Duration::from_secs);
        let all = SegmentOptions { threshold: 0.7, end_threshold: 0.2, min_silence: silence, min_speech: speech, pad };
        let one_way = SegmentOptions::new().threshold(0.7).end_threshold(0.2).min_silence(silence);
        assert_eq!(one_way.min_speech(speech).pad(pad), all);
        let backwards = SegmentOptions::new().pad(pad).min_speech(speech).min_silence(silence);
        assert_eq!(backwards.end_threshold(0.2).threshold(0.7), all);
    }
}
