//! Pictures of lines over a common axis, as SVG or PNG.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Once;

use gatewise::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::written;

pub(crate) const FONT: &str = "sans-serif";

const WIDTH: u32 = 1200;
const PANEL_HEIGHT: u32 = 300;
const HEAD: u32 = 56;
const MARGIN: u32 = 24;
const LABELS_LEFT: u32 = 84;
const LABELS_BELOW: u32 = 60;
const LEGEND_WIDTH: i32 = 240;
const TITLE_SIZE: u32 = 26;
const TEXT_SIZE: u32 = 18;

// From Okabe and Ito's palette, told apart with every common kind of colour blindness.
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

/// A picture: a title over panels that share their horizontal axis.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_name: String,
    pub(crate) panels: Vec<Panel>,
}

/// Lines over one vertical axis.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) name: String,
    /// The vertical axis; as far as the lines go where absent.
    pub(crate) range: Option<Range<f64>>,
    pub(crate) lines: Vec<Line>,
}

/// One line. Points that are not finite leave a gap.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// An index into [`COLOURS`], taken around.
    pub(crate) colour: usize,
    pub(crate) dashed: bool,
    pub(crate) points: Vec<(f64, f64)>,
}

/// How a picture is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Svg,
    Png,
}

impl Format {
    /// The format that a file's ending names. Commands ask before they begin to work.
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

/// Writes the picture; the file's ending says how.
pub(crate) fn write(path: &Path, chart: &Chart) -> Result<()> {
    let refused = |error: String| Error::io(path, io::Error::other(error));
    let size = (WIDTH, HEAD + PANEL_HEIGHT * chart.panels.len() as u32 + MARGIN);
    register_fonts();
    match Format::of(path)? {
        Format::Svg => {
            let mut svg = String::new();
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            draw(&area, chart).map_err(|e| refused(e.to_string()))?;
            drop(area);
            written::write(path, svg.as_bytes())
        }
        Format::Png => {
            let mut pixels = vec![0; size.0 as usize * size.1 as usize * 3];
            let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
            draw(&area, chart).map_err(|e| refused(e.to_string()))?;
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

/// Gives the font its name, once; without it no text can be measured.
pub(crate) fn register_fonts() {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let bytes = include_bytes!("../assets/DejaVuSans-latin.ttf");
        // A font that does not parse shows in the first picture.
        let _ = register_font(FONT, FontStyle::Normal, bytes);
    });
}

type Drawn<B> = std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, chart: &Chart) -> Drawn<B> {
    area.fill(&WHITE)?;
    let (head, rest) = area.split_vertically(HEAD);
    let title: String = chart.title.chars().filter(|c| !c.is_control()).collect();
    head.draw(&Text::new(title, ((LABELS_LEFT + MARGIN) as i32, 32), text(TITLE_SIZE)))?;
    let panels = rest.margin(0, MARGIN, 0, 0).split_evenly((chart.panels.len().max(1), 1));
    let all = chart.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let x = extent(all.map(|point| point.0));
    for (area, panel) in panels.iter().zip(&chart.panels) {
        draw_panel(area, panel, x.clone(), &chart.x_name)?;
    }
    area.present()
}

fn draw_panel<B: DrawingBackend>(area: &DrawingArea<B, Shift>, panel: &Panel, x: Range<f64>, x_name: &str) -> Drawn<B> {
    let values = panel.lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let range = panel.range.clone().unwrap_or_else(|| extent(values));
    let width = area.dim_in_pixel().0 as i32 - LEGEND_WIDTH;
    let (plot, legend) = area.split_horizontally(width);
    let mut chart = ChartBuilder::on(&plot)
        .margin(MARGIN / 2)
        .set_label_area_size(LabelAreaPosition::Left, LABELS_LEFT)
        .set_label_area_size(LabelAreaPosition::Bottom, LABELS_BELOW)
        .build_cartesian_2d(x, range.clone())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK.mix(0.6))
        .label_style(text(TEXT_SIZE))
        .axis_desc_style(text(TEXT_SIZE))
        .x_labels(10)
        .y_labels(6)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .x_desc(x_name)
        .y_desc(&panel.name)
        .draw()?;
    for (at, line) in panel.lines.iter().enumerate() {
        let style = COLOURS[line.colour % COLOURS.len()].stroke_width(2);
        for points in line.points.split(|point| !point.1.is_finite()).filter(|points| !points.is_empty()) {
            // The axis ends where a given range does.
            let points = points.iter().map(|&(x, y)| (x, y.clamp(range.start, range.end)));
            if line.dashed {
                chart.draw_series(DashedLineSeries::new(points, 8, 6, style))?;
            } else {
                chart.draw_series([PathElement::new(points.collect::<Vec<_>>(), style)])?;
            }
        }
        let y = 30 + 28 * at as i32;
        if line.dashed {
            legend.draw(&PathElement::new([(8, y), (18, y)], style))?;
            legend.draw(&PathElement::new([(26, y), (36, y)], style))?;
        } else {
            legend.draw(&PathElement::new([(8, y), (36, y)], style))?;
        }
        legend.draw(&Text::new(line.name.clone(), (46, y), text(TEXT_SIZE)))?;
    }
    Ok(())
}

/// The smallest range around all finite values with some room; never empty, which no axis could show.
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

/// The value as short as it goes, without the noise and the signed zero that ticks carry.
fn label(value: &f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6 + 0.0)
}

fn text(size: u32) -> TextStyle<'static> {
    TextStyle::from((FONT, size).into_font()).color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
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
        // Two stretches around the gap, and the legend's.
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
