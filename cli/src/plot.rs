//! The picture of a detection: waveform, speech probability and segments over one time axis.

mod columns;

use std::io;
use std::ops::Range;
use std::path::Path;

use gatewise::{Error, Result};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use self::columns::Column;
pub(crate) use self::columns::Columns;
use crate::chart::{self, FINE, FONT};
use crate::written;

/// Converts pixels to units of the picture's coordinates.
const fn px(pixels: u32) -> u32 {
    pixels * FINE
}

/// Converts a position from pixels to units of the picture's coordinates.
const fn at(pixels: u32) -> i32 {
    px(pixels) as i32
}

/// Width and height in pixels.
const SIZE: (u32, u32) = (1600, 792);
const TITLE_HEIGHT: u32 = px(84);
const LEGEND_HEIGHT: u32 = px(44);
const WAVEFORM_HEIGHT: u32 = px(304);
const MARGIN: u32 = px(32);
const PANEL_GAP: u32 = px(24);
const LABEL_WIDTH: u32 = px(104);
const LABEL_HEIGHT: u32 = px(72);
/// Width of the time axis.
const AXIS: u32 = px(SIZE.0) - LABEL_WIDTH - 2 * MARGIN;
/// The most columns worth drawing: one per pixel of the time axis.
const COLUMNS: u32 = AXIS / FINE;

/// The left end of the time axis.
const LEFT: i32 = (LABEL_WIDTH + MARGIN) as i32;

const TITLE_SIZE: u32 = px(30);
const TEXT_SIZE: u32 = px(25);
/// One sentence that explains the picture.
const CAPTION: &str = "Shaded stretches are speech: there the probability rises above the threshold.";
/// Characters of [`TITLE_SIZE`] that fit on the picture in a wide font.
const TITLE_LENGTH: usize = 90;

// From Okabe and Ito's palette, which people with every common kind of colour blindness can tell apart; greys differ in lightness.
const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);
const WAVEFORM: RGBColor = RGBColor(0x5d, 0x68, 0x75);
const PROBABILITY: RGBColor = RGBColor(0x00, 0x72, 0xb2);
const THRESHOLD: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const SPEECH: RGBColor = RGBColor(0xfb, 0xe6, 0xb0);

/// The content of a picture that [`write_svg`] draws.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpeechPlot<'a> {
    /// The line above the picture.
    pub(crate) title: &'a str,
    /// The recording, one channel.
    pub(crate) samples: &'a Columns,
    /// Samples per second.
    pub(crate) sample_rate: u32,
    /// The probability of speech in every frame.
    pub(crate) probabilities: &'a [f32],
    /// Seconds from one frame to the next.
    pub(crate) frame_seconds: f64,
    /// The smallest probability that counts as speech.
    pub(crate) threshold: f32,
    /// Start and end of every speech segment, in seconds.
    pub(crate) segments: &'a [(f64, f64)],
}

/// Refuses a file name without the extension `.svg`. A stream needs none.
pub(crate) fn check_name(path: &Path) -> Result<()> {
    if chart::Format::of(path).ok() == Some(chart::Format::Svg) || written::is_stream(path) {
        return Ok(());
    }
    let (what, expected, found) = ("--plot", "a name that ends in .svg", path.display().to_string());
    Err(Error::Value { op: "vad", what, expected, found })
}

/// Writes the picture as one SVG file. Its size grows with the number of segments, not with the number of samples.
pub(crate) fn write_svg(path: &Path, plot: &SpeechPlot<'_>) -> Result<()> {
    chart::register_fonts();
    let mut svg = String::new();
    draw(&mut svg, plot).map_err(|e| Error::io(path, io::Error::other(e.to_string())))?;
    written::write(path, chart::in_pixels(&svg, SIZE).as_bytes())
}

type Drawn<T = ()> = std::result::Result<T, DrawingAreaErrorKind<io::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw(svg: &mut String, plot: &SpeechPlot<'_>) -> Drawn {
    let root = SVGBackend::with_string(svg, (px(SIZE.0), px(SIZE.1))).into_drawing_area();
    root.fill(&WHITE)?;
    let (title, rest) = root.split_vertically(TITLE_HEIGHT);
    let (legend, rest) = rest.split_vertically(LEGEND_HEIGHT);
    let (waveform, probability) = rest.split_vertically(WAVEFORM_HEIGHT);
    title.draw(&Text::new(shortened(plot.title), (LEFT, at(34)), text(TITLE_SIZE)))?;
    title.draw(&Text::new(CAPTION, (LEFT, at(70)), text(TEXT_SIZE)))?;
    draw_legend(&legend, plot.threshold)?;
    draw_waveform(&waveform, plot)?;
    draw_probability(&probability, plot)?;
    root.present()
}

fn draw_waveform(area: &Area<'_>, plot: &SpeechPlot<'_>) -> Drawn {
    let limit = round_limit(plot.samples.peak());
    let seconds = duration(plot);
    let mut panel = panel(area, 0, seconds, -limit..limit)?;
    panel.draw_series(shading(plot.segments, seconds, -limit..limit))?;
    grid(&mut panel, "amplitude / full scale", "", 5)?;
    let columns = plot.samples.drawn(1.0 / f64::from(plot.sample_rate.max(1)), seconds);
    let outline = outline(&columns, -limit..limit);
    panel.draw_series([Polygon::new(outline.clone(), WAVEFORM.filled())])?;
    // The stroke makes columns visible whose least and greatest value coincide.
    panel.draw_series([PathElement::new(outline, WAVEFORM.stroke_width(px(1)))])?;
    Ok(())
}

fn draw_probability(area: &Area<'_>, plot: &SpeechPlot<'_>) -> Drawn {
    // The range leaves room for the width of a line at 0 and 1.
    let range = -0.03..1.03;
    let seconds = duration(plot);
    let mut panel = panel(area, LABEL_HEIGHT, seconds, range.clone())?;
    panel.draw_series(shading(plot.segments, seconds, range))?;
    grid(&mut panel, "speech probability", "time (s)", 6)?;
    let columns = Columns::of(plot.probabilities).drawn(plot.frame_seconds, seconds);
    panel.draw_series([Polygon::new(outline(&columns, 0.0..1.0), PROBABILITY.mix(0.25).filled())])?;
    let means: Vec<_> = columns.iter().map(|column| (column.time, column.mean.clamp(0.0, 1.0))).collect();
    panel.draw_series([PathElement::new(means, PROBABILITY.stroke_width(px(3)))])?;
    let threshold = f64::from(plot.threshold).clamp(0.0, 1.0);
    let line = [(0.0, threshold), (seconds, threshold)];
    panel.draw_series(DashedLineSeries::new(line, px(14), px(9), THRESHOLD.stroke_width(px(2))))?;
    Ok(())
}

/// A panel with axes; `bottom` units are reserved for the labels of the time axis.
fn panel<'a, 'b>(area: &'a Area<'b>, bottom: u32, seconds: f64, range: Range<f64>) -> Drawn<Panel<'a, 'b>> {
    ChartBuilder::on(area)
        .margin_left(MARGIN)
        .margin_right(MARGIN)
        .margin_top(PANEL_GAP / 2)
        .margin_bottom(PANEL_GAP / 2)
        .set_label_area_size(LabelAreaPosition::Left, LABEL_WIDTH)
        .set_label_area_size(LabelAreaPosition::Bottom, bottom)
        .build_cartesian_2d(0.0..seconds, range)
}

fn grid(panel: &mut Panel<'_, '_>, name: &str, time: &str, labels: usize) -> Drawn {
    panel
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(px(1)))
        .axis_style(INK.mix(0.6).stroke_width(px(1)))
        .set_all_tick_mark_size(px(5))
        .label_style(text(TEXT_SIZE))
        .axis_desc_style(text(TEXT_SIZE))
        .x_labels(12)
        .x_label_formatter(&chart::label)
        .y_label_formatter(&chart::label)
        .y_labels(labels)
        .x_desc(time)
        .y_desc(name)
        .draw()
}

/// One rectangle per segment, at least one column wide, so that none vanishes in a long recording.
fn shading(segments: &[(f64, f64)], seconds: f64, range: Range<f64>) -> impl Iterator<Item = Rectangle<(f64, f64)>> {
    let column = seconds / f64::from(COLUMNS);
    segments.iter().map(move |&(start, end)| {
        let start = start.min(seconds - column).max(0.0);
        let end = end.max(start + column).min(seconds);
        Rectangle::new([(start, range.start), (end, range.end)], SPEECH.filled())
    })
}

/// The closed outline of the band between each column's least and greatest value.
fn outline(columns: &[Column], range: Range<f64>) -> Vec<(f64, f64)> {
    let inside = |value: f32| f64::from(value).max(range.start).min(range.end);
    let above = columns.iter().map(|column| (column.time, inside(column.high)));
    let below = columns.iter().rev().map(|column| (column.time, inside(column.low)));
    above.chain(below).collect()
}

/// The recording's length in seconds; never 0, because an axis needs a length.
fn duration(plot: &SpeechPlot<'_>) -> f64 {
    plot.samples.total().max(1) as f64 / f64::from(plot.sample_rate.max(1))
}

/// The smallest of 1, 2 and 5 times a power of ten that is at least `peak` and at least 0.001; 1 for silence.
fn round_limit(peak: f64) -> f64 {
    let candidates = (-3..=12).flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10.0_f64.powi(exponent)));
    let mut limits = candidates.filter(|_| peak > 0.0);
    limits.find(|limit| *limit >= peak).unwrap_or(1.0)
}

/// The title without control characters, cut to the width of the picture.
fn shortened(title: &str) -> String {
    let printable: String = title.chars().filter(|c| !c.is_control()).collect();
    if printable.chars().count() <= TITLE_LENGTH {
        return printable;
    }
    let start: String = printable.chars().take(TITLE_LENGTH - 1).collect();
    start + "…"
}

fn draw_legend(area: &Area<'_>, threshold: f32) -> Drawn {
    let middle = at(18);
    let threshold = format!("threshold {threshold:.2}");
    let entries = [
        ("waveform", WAVEFORM.stroke_width(px(3))),
        ("speech", SPEECH.filled()),
        ("speech probability", PROBABILITY.stroke_width(px(3))),
        (threshold.as_str(), THRESHOLD.stroke_width(px(2))),
    ];
    let mut x = LEFT;
    for (name, style) in entries {
        if style.filled {
            area.draw(&Rectangle::new([(x, middle - at(10)), (x + at(40), middle + at(10))], style))?;
        } else if style.color == THRESHOLD.to_rgba() {
            area.draw(&PathElement::new([(x, middle), (x + at(16), middle)], style))?;
            area.draw(&PathElement::new([(x + at(24), middle), (x + at(40), middle)], style))?;
        } else {
            area.draw(&PathElement::new([(x, middle), (x + at(40), middle)], style))?;
        }
        area.draw(&Text::new(name, (x + at(52), middle), text(TEXT_SIZE)))?;
        x += at(52) + advance(name) + at(40);
    }
    Ok(())
}

/// The approximate width of `name` in [`TEXT_SIZE`]. The viewer chooses the font, so the exact width is unknown.
fn advance(name: &str) -> i32 {
    name.chars().map(|_| at(11)).sum()
}

fn text(size: u32) -> TextStyle<'static> {
    TextStyle::from((FONT, size).into_font()).color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RATE: u32 = 16_000;

    fn plot<'a>(samples: &'a Columns, probabilities: &'a [f32], segments: &'a [(f64, f64)]) -> SpeechPlot<'a> {
        SpeechPlot {
            title: "test",
            samples,
            sample_rate: RATE,
            probabilities,
            frame_seconds: 0.032,
            threshold: 0.5,
            segments,
        }
    }

    fn written(plot: &SpeechPlot<'_>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("speech.svg");
        write_svg(&path, plot).unwrap();
        let svg = fs::read_to_string(path).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        for bad in ["NaN", "inf", "2147483647", "2147483648"] {
            assert!(!svg.contains(bad), "{bad} in {svg}");
        }
        svg
    }

    /// Left edge and width of the shaded rectangles, without the legend's.
    fn shaded(svg: &str) -> Vec<(i32, i32)> {
        let fill = format!("fill=\"#{:02X}{:02X}{:02X}\"", SPEECH.0, SPEECH.1, SPEECH.2);
        let attribute = |line: &str, name: &str| -> i32 {
            let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        let lines = svg.lines().filter(|line| line.starts_with("<rect") && line.contains(&fill));
        lines.skip(1).map(|line| (attribute(line, "x"), attribute(line, "width"))).collect()
    }

    #[test]
    fn segments_are_shaded_in_both_panels() {
        let svg = written(&plot(&Columns::of(&[0.1; 16_000]), &[0.9; 31], &[(0.0, 0.25), (0.5, 1.0)]));
        let axis = i32::try_from(AXIS).unwrap();
        let panel = shaded(&svg)[..2].to_vec();
        assert_eq!(shaded(&svg), [panel.clone(), panel.clone()].concat());
        for ((x, width), (start, length)) in panel.into_iter().zip([(0, axis / 4), (axis / 2, axis / 2)]) {
            assert!((x - LEFT - start).abs() <= 2 && (width - length).abs() <= 2, "{x} {width}");
        }
    }

    #[test]
    fn no_segment_vanishes_or_leaves_the_picture() {
        let samples = Columns::of(&vec![0.0; 16_000 * 3_600]);
        let svg =
            written(&plot(&samples, &[], &[(100.0, 100.1), (3_599.99, 3_600.0), (3_599.0, 4_000.0), (-1.0, 1.0)]));
        assert_eq!(shaded(&svg).len(), 8);
        for (x, width) in shaded(&svg) {
            assert!(width >= 1 && x >= LEFT && x + width <= LEFT + i32::try_from(AXIS).unwrap(), "{x} {width}");
        }
    }

    #[test]
    fn one_sample_is_a_picture() {
        for sample in [0.0, 0.3, -1.0, 1e-30, 1e12, f32::MAX] {
            written(&plot(&Columns::of(&[sample]), &[0.7], &[]));
            written(&plot(&Columns::of(&[sample]), &[0.7], &[(0.0, 0.032)]));
        }
        written(&plot(&Columns::of(&[]), &[], &[]));
    }

    #[test]
    fn the_file_does_not_grow_with_the_recording() {
        let samples: Vec<f32> = (0..16_000 * 60).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
        let probabilities: Vec<f32> = (0..200_000).map(|i| (i % 89) as f32 / 88.0).collect();
        let samples = Columns::of(&samples);
        let long = SpeechPlot { frame_seconds: 60.0 / 200_000.0, ..plot(&samples, &probabilities, &[]) };
        let size = written(&long).len();
        assert!(size < 200_000, "{size} bytes");
    }

    #[test]
    fn the_amplitude_axis_ends_at_a_round_number() {
        for (peak, limit) in
            [(0.0, 1.0), (0.37, 0.5), (0.5, 0.5), (0.51, 1.0), (1.2, 2.0), (1e-9, 0.001), (20_000.0, 20_000.0)]
        {
            assert_eq!(round_limit(peak), limit, "{peak}");
        }
    }

    #[test]
    fn a_title_is_escaped_and_cut_to_fit() {
        let svg = written(&SpeechPlot { title: "<a & b>\u{1}\n", ..plot(&Columns::of(&[0.0]), &[0.5], &[]) });
        assert!(svg.contains("&lt;a &amp; b&gt;\n</text>"), "{svg}");
        let long = "ä".repeat(500);
        let svg = written(&SpeechPlot { title: &long, ..plot(&Columns::of(&[0.0]), &[0.5], &[]) });
        assert!(svg.contains(&format!("{}…", "ä".repeat(TITLE_LENGTH - 1))));
        assert!(!svg.contains(&"ä".repeat(TITLE_LENGTH)));
    }

    #[test]
    fn an_unwritable_path_is_an_io_error() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("missing").join("speech.svg")] {
            let error = write_svg(&path, &plot(&Columns::of(&[0.0; 16]), &[0.5], &[])).unwrap_err();
            assert!(matches!(&error, Error::Io { path: found, .. } if *found == path), "{error}");
        }
    }
}
