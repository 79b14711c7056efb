//! Pictures of lines over a common axis, as SVG or PNG.

mod axis;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Once;

use gatewise::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use self::axis::{TICKS, WholeAxis};
use crate::written;

pub(crate) const FONT: &str = "sans-serif";

const WIDTH: u32 = 1200;
const PANEL_HEIGHT: u32 = 300;
const HEAD: u32 = 88;
const MARGIN: u32 = 24;
const LABELS_LEFT: u32 = 84;
const LABELS_BELOW: u32 = 60;
const LEGEND_WIDTH: u32 = 240;
const TITLE_SIZE: u32 = 26;
const TEXT_SIZE: u32 = 18;

// From Okabe and Ito's palette, which people with every common kind of colour blindness can tell apart.
pub(crate) const COLOURS: [RGBColor; 6] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];
const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);

/// A picture: a title and a caption over panels that share their horizontal axis, which counts epochs or steps.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// One sentence that explains the picture.
    pub(crate) caption: String,
    pub(crate) x_name: String,
    pub(crate) panels: Vec<Panel>,
}

/// Lines over one vertical axis.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) name: String,
    /// The range of the vertical axis; if absent, the range of the lines.
    pub(crate) range: Option<Range<f64>>,
    pub(crate) lines: Vec<Line>,
}

/// One line. Points that are not finite leave a gap.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// An index into [`COLOURS`], modulo its length.
    pub(crate) colour: usize,
    pub(crate) dashed: bool,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The file format of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Svg,
    Png,
}

impl Format {
    /// The format that a file's extension names. Commands check it before they begin to work.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        match path.extension().map(|ending| ending.to_ascii_lowercase()) {
            Some(ending) if ending == "svg" => Ok(Self::Svg),
            Some(ending) if ending == "png" => Ok(Self::Png),
            _ => Err(Error::Value {
                op: "picture",
                what: "file",
                expected: "a name that ends in .svg or .png",
                found: path.display().to_string(),
            }),
        }
    }
}

/// Writes the picture in the format that the file's extension names.
pub(crate) fn write(path: &Path, chart: &Chart) -> Result<()> {
    let refused = |error: String| Error::io(path, io::Error::other(error));
    let size = (WIDTH, HEAD + PANEL_HEIGHT * chart.panels.len() as u32 + MARGIN);
    register_fonts();
    match Format::of(path)? {
        Format::Svg => {
            let mut svg = String::new();
            let area = SVGBackend::with_string(&mut svg, (size.0 * FINE, size.1 * FINE)).into_drawing_area();
            draw(&area, chart, Scale(FINE)).map_err(|e| refused(e.to_string()))?;
            drop(area);
            written::write(path, in_pixels(&svg, size).as_bytes())
        }
        Format::Png => {
            let mut pixels = vec![0; size.0 as usize * size.1 as usize * 3];
            let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
            draw(&area, chart, Scale(1)).map_err(|e| refused(e.to_string()))?;
            drop(area);
            let mut encoded = Vec::new();
            let mut png = png::Encoder::new(&mut encoded, size.0, size.1);
            png.set_color(png::ColorType::Rgb);
            let mut writer = png.write_header().map_err(|e| refused(e.to_string()))?;
            writer.write_image_data(&pixels).map_err(|e| refused(e.to_string()))?;
            writer.finish().map_err(|e| refused(e.to_string()))?;
            written::write(path, &encoded)
        }
    }
}

/// Units of an SVG's coordinates per pixel. plotters rounds coordinates to whole units; with one unit per pixel, a gentle slope
/// would become stairs.
pub(crate) const FINE: u32 = 10;

/// Sets the displayed size of an SVG that was drawn [`FINE`] times as large.
pub(crate) fn in_pixels(svg: &str, (width, height): (u32, u32)) -> String {
    let drawn = format!(r#"width="{}" height="{}""#, width * FINE, height * FINE);
    svg.replacen(&drawn, &format!(r#"width="{width}" height="{height}""#), 1)
}

/// The number of units of the drawing area per pixel.
#[derive(Clone, Copy)]
struct Scale(u32);

impl Scale {
    fn px(self, pixels: u32) -> u32 {
        pixels * self.0
    }

    fn at(self, pixels: u32) -> i32 {
        self.px(pixels) as i32
    }

    /// The style of text of this height in pixels.
    fn text(self, size: u32) -> TextStyle<'static> {
        TextStyle::from((FONT, self.px(size)).into_font()).color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
    }

    /// The stroke of one of several lines. Lines drawn later are thinner, so that lines that coincide are all visible.
    fn stroke(self, colour: RGBColor, at: usize, lines: usize) -> ShapeStyle {
        let tenths = if lines < 2 { 25 } else { 50 - 35 * at.min(lines - 1) as u32 / (lines as u32 - 1) };
        colour.stroke_width((self.px(tenths) / 10).max(1))
    }
}

/// Registers the font once; without it plotters cannot measure text.
pub(crate) fn register_fonts() {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let bytes = include_bytes!("../assets/DejaVuSans-latin.ttf");
        // The error is ignored: the font is a part of the program, and a broken one would show in the first picture.
        let _ = register_font(FONT, FontStyle::Normal, bytes);
    });
}

type Drawn<B> = std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, chart: &Chart, scale: Scale) -> Drawn<B> {
    area.fill(&WHITE)?;
    let (head, rest) = area.split_vertically(scale.px(HEAD));
    let left = scale.at(LABELS_LEFT + MARGIN);
    let printable = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).collect() };
    head.draw(&Text::new(printable(&chart.title), (left, scale.at(32)), scale.text(TITLE_SIZE)))?;
    head.draw(&Text::new(printable(&chart.caption), (left, scale.at(66)), scale.text(TEXT_SIZE)))?;
    let panels = rest.margin(0, scale.px(MARGIN), 0, 0).split_evenly((chart.panels.len().max(1), 1));
    let all = chart.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let x = extent(all.map(|point| point.0));
    for (area, panel) in panels.iter().zip(&chart.panels) {
        draw_panel(area, panel, x.clone(), &chart.x_name, scale)?;
    }
    area.present()
}

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    x: Range<f64>,
    x_name: &str,
    scale: Scale,
) -> Drawn<B> {
    let values = panel.lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let range = panel.range.clone().unwrap_or_else(|| extent(values));
    let width = area.dim_in_pixel().0 as i32 - scale.at(LEGEND_WIDTH);
    let (plot, legend) = area.split_horizontally(width);
    let mut chart = ChartBuilder::on(&plot)
        .margin(scale.px(MARGIN / 2))
        .set_label_area_size(LabelAreaPosition::Left, scale.px(LABELS_LEFT))
        .set_label_area_size(LabelAreaPosition::Bottom, scale.px(LABELS_BELOW))
        .build_cartesian_2d(WholeAxis::from(x), range.clone())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(scale.px(1)))
        .axis_style(INK.mix(0.6).stroke_width(scale.px(1)))
        .set_all_tick_mark_size(scale.px(5))
        .label_style(scale.text(TEXT_SIZE))
        .axis_desc_style(scale.text(TEXT_SIZE))
        .x_labels(TICKS)
        .y_labels(6)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .x_desc(x_name)
        .y_desc(&panel.name)
        .draw()?;
    for (at, line) in panel.lines.iter().enumerate() {
        let style = scale.stroke(COLOURS[line.colour % COLOURS.len()], at, panel.lines.len());
        for points in line.points.split(|point| !point.1.is_finite()).filter(|points| !points.is_empty()) {
            // A given range bounds the axis, so values outside are drawn at its ends.
            let points = points.iter().map(|&(x, y)| (x, y.clamp(range.start, range.end)));
            if line.dashed {
                chart.draw_series(DashedLineSeries::new(points, scale.px(8), scale.px(6), style))?;
            } else {
                chart.draw_series([PathElement::new(points.collect::<Vec<_>>(), style)])?;
            }
        }
        draw_legend(&legend, line, at as u32, style, scale)?;
    }
    Ok(())
}

/// Draws a line's stroke and name to the right of the panel.
fn draw_legend<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    line: &Line,
    at: u32,
    style: ShapeStyle,
    scale: Scale,
) -> Drawn<B> {
    let y = scale.at(30 + 28 * at);
    let stretches: &[(u32, u32)] = if line.dashed { &[(8, 18), (26, 36)] } else { &[(8, 36)] };
    for &(from, to) in stretches {
        area.draw(&PathElement::new([(scale.at(from), y), (scale.at(to), y)], style))?;
    }
    area.draw(&Text::new(line.name.clone(), (scale.at(46), y), scale.text(TEXT_SIZE)))
}

/// The range of all finite values with some margin; never empty, because an axis needs a length.
fn extent(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let room = if high > low { 0.03 * (high - low) } else { 0.5 * low.abs().max(1.0) };
    low - room..high + room
}

/// The shortest text of a tick's value, without rounding noise and negative zero.
pub(crate) fn label(value: &f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6 + 0.0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn chart() -> Chart {
        let line = |name: &str, colour: usize, dashed: bool, slope: f64| Line {
            name: name.to_owned(),
            colour,
            dashed,
            points: (0..20).map(|t| (f64::from(t), if t == 7 { f64::NAN } else { slope * f64::from(t) })).collect(),
        };
        Chart {
            title: "A title & <more>".to_owned(),
            caption: "What to see.".to_owned(),
            x_name: "step".to_owned(),
            panels: vec![
                Panel { name: "one".to_owned(), range: None, lines: vec![line("up", 0, false, 1.0)] },
                Panel { name: "two".to_owned(), range: Some(0.0..1.0), lines: vec![line("dashed", 1, true, 0.1)] },
            ],
        }
    }

    #[test]
    fn a_picture_is_written_as_its_ending_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let (svg, png) = (folder.path().join("a.svg"), folder.path().join("a.png"));
        write(&svg, &chart()).expect("a picture");
        write(&png, &chart()).expect("a picture");
        let svg = fs::read_to_string(svg).expect("text");
        assert!(svg.contains("A title &amp; &lt;more&gt;") && svg.contains("dashed"), "{svg}");
        // Each line has two stretches around its gap, and one in the legend.
        assert!(svg.matches("<polyline").count() > 4, "{svg}");
        let decoder = png::Decoder::new(io::BufReader::new(fs::File::open(png).expect("a file")));
        let mut reader = decoder.read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
        let frame = reader.next_frame(&mut pixels).expect("a frame");
        assert_eq!((frame.width, frame.height), (WIDTH, HEAD + 2 * PANEL_HEIGHT + MARGIN));
        let found = |colour: RGBColor| pixels.chunks_exact(3).filter(|p| *p == [colour.0, colour.1, colour.2]).count();
        assert!(found(COLOURS[0]) > 300 && found(COLOURS[1]) > 100);
        // Letters of the title: dark pixels in the head.
        let head = &pixels[..(WIDTH * HEAD * 3) as usize];
        assert!(head.chunks_exact(3).filter(|p| p[0] < 0x60).count() > 200, "the title is set");
    }

    /// The attributes `points` of an SVG's lines, as numbers.
    fn coordinates(svg: &str) -> Vec<Vec<f64>> {
        let lines = svg.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap_or_default());
        lines.map(|points| points.split([' ', ',']).filter_map(|n| n.parse().ok()).collect()).collect()
    }

    #[test]
    fn a_gentle_slope_is_no_stairs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.svg");
        let points = (0..400).map(|t| (f64::from(t), 0.5 + 0.0002 * f64::from(t))).collect();
        let line = Line { name: "slope".to_owned(), colour: 0, dashed: false, points };
        let panel = Panel { name: "one".to_owned(), range: Some(0.0..1.0), lines: vec![line] };
        write(&path, &Chart { panels: vec![panel], ..chart() }).expect("a picture");
        let svg = fs::read_to_string(path).expect("text");
        assert!(
            svg.starts_with(&format!("<svg width=\"{WIDTH}\" height=\"{}\"", HEAD + PANEL_HEIGHT + MARGIN)),
            "{svg}"
        );
        assert!(svg.contains(&format!("viewBox=\"0 0 {} ", WIDTH * FINE)) && svg.contains("What to see."), "{svg}");
        let longest = coordinates(&svg).into_iter().max_by_key(Vec::len).expect("a line");
        let mut heights: Vec<f64> = longest.iter().skip(1).step_by(2).copied().collect();
        heights.dedup();
        // The line falls by 16 pixels.
        assert!(heights.len() > 100, "{} heights", heights.len());
    }

    #[test]
    fn lines_that_coincide_differ_in_width() {
        let widths: Vec<u32> = (0..3).map(|at| Scale(FINE).stroke(COLOURS[at], at, 3).stroke_width).collect();
        assert_eq!(widths, [50, 33, 15]);
        assert_eq!(Scale(1).stroke(COLOURS[0], 0, 1).stroke_width, 2);
    }

    #[test]
    fn any_other_ending_is_refused() {
        let refused = write(Path::new("picture.bmp"), &chart());
        assert!(refused.expect_err("no such format").to_string().contains(".svg or .png"));
    }

    #[test]
    fn an_axis_is_never_empty() {
        assert_eq!(extent([].into_iter()), 0.0..1.0);
        assert_eq!(extent([f64::NAN, 2.0].into_iter()), 1.0..3.0);
        let range = extent([0.0, 10.0].into_iter());
        assert!(range.start < 0.0 && range.end > 10.0);
    }
}
