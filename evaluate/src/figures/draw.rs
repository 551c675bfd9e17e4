//! Figures drawn by kuva; no other module knows the plotting library.

use std::fmt::Write;
use std::sync::Arc;

use kuva::backend::svg::SvgBackend;
use kuva::plot::annotations::{ReferenceLine, TextAnnotation};
use kuva::plot::{ColorMap, Heatmap, LegendPosition, LinePlot, LineStyle, ScatterPlot};
use kuva::render::color::Color;
use kuva::render::figure::Figure as Grid;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, Scene, render_multiple};
use kuva::render::theme::Theme;

use super::chart::{Axis, Content, Figure, Mark, Picture, Series};

/// Width of a letter in a legend.
const LETTER: f64 = 7.5;
/// Microseconds of a tick.
const TICK_US: f64 = 0.512;
/// Pixels of a PNG for each of the figure's units.
const PNG_SCALE: f32 = 2.0;
/// Stands for the text's colour until the page's own is put in; no figure uses it otherwise.
const TEXT: &str = "#010203";
/// Stands for the grid's colour.
const GRID: &str = "#040506";
/// Stands for the background.
const PAPER: &str = "#070809";

/// A figure as files.
#[derive(Debug)]
pub struct Drawn {
    /// For the page: colours follow the reader's light or dark setting
    pub inline: String,
    /// Dark on white
    pub svg: String,
    /// Dark on white
    pub png: Vec<u8>,
    /// Dark on white
    pub pdf: Vec<u8>,
}

/// Draw a figure in all formats.
///
/// # Errors
/// What kuva says.
pub fn draw(figure: &Figure) -> Result<Drawn, String> {
    let scene = scene(figure, &theme("#1b1f24", "#d0d7de", "white"));
    let svg = own_ids(&SvgBackend::default().render_scene(&scene), figure.name);
    let png = kuva::backend::raster::RasterBackend::new().with_scale(PNG_SCALE).render_scene(&scene)?;
    let pdf = kuva::backend::pdf::PdfBackend::new().render_scene(&scene)?;
    let themed = self::scene(figure, &theme(TEXT, GRID, PAPER));
    let inline = own_ids(&SvgBackend::default().render_scene(&themed), figure.name);
    Ok(Drawn { inline: follow_the_page(&inline, figure, &themed), svg, png, pdf })
}

/// kuva numbers its clip paths through the whole process; here they are numbered in each figure, so that the same
/// report has the same bytes, and named after it, so that figures on one page don't share them.
fn own_ids(svg: &str, name: &str) -> String {
    const PREFIX: &str = "kuva-clip-";
    let mut known: Vec<&str> = Vec::new();
    let mut pieces = svg.split(PREFIX);
    let mut result = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = piece.split_at(digits);
        let at = known.iter().position(|k| *k == number).unwrap_or_else(|| {
            known.push(number);
            known.len() - 1
        });
        let _ = write!(result, "{name}-clip-{at}{rest}");
    }
    result
}

fn theme(text: &str, grid: &str, paper: &str) -> Theme {
    Theme {
        background: paper.into(),
        axis_color: text.into(),
        grid_color: grid.into(),
        tick_color: text.into(),
        text_color: text.into(),
        legend_bg: paper.into(),
        legend_border: grid.into(),
        colorbar_border: grid.into(),
        ..Theme::light()
    }
}

/// Put the page's colours in, and let the figure shrink with the page.
fn follow_the_page(svg: &str, figure: &Figure, scene: &Scene) -> String {
    let from = svg.find("<svg").unwrap_or(0);
    let (width, height) = (scene.width, scene.height);
    let title = escape(&figure.title);
    let label = format!("<svg role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 {width} {height}\"");
    svg[from..]
        .replacen("<svg", &label, 1)
        .replace(TEXT, "var(--fg)")
        .replace(GRID, "var(--line)")
        .replace(PAPER, "var(--bg)")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn scene(figure: &Figure, theme: &Theme) -> Scene {
    match &figure.content {
        Content::Chart { x, y, series, marks } => {
            let plots: Vec<Plot> = series.iter().flat_map(|series| plots(series, x, y)).collect();
            let longest = series.iter().map(|s| s.name.chars().count()).max().unwrap_or(0);
            let mut layout = axes(x, y, longest, theme);
            for (at, name, ink) in marks {
                let line = ReferenceLine::vertical(*at).with_color(ink.hex()).with_label(plain(name));
                layout = layout.with_reference_line(line);
            }
            render_multiple(plots, layout)
        }
        Content::Matrix { rows, columns, values, axes } => matrix_scene(rows, columns, values, axes, theme),
        Content::Pictures { pictures, axes } => pictures_scene(pictures, axes, theme),
    }
}

fn axes(x: &Axis, y: &Axis, legend_letters: usize, theme: &Theme) -> Layout {
    let mut layout = Layout::new(x.range, y.range)
        .with_x_axis_min(x.range.0)
        .with_x_axis_max(x.range.1)
        .with_y_axis_min(y.range.0)
        .with_y_axis_max(y.range.1)
        .with_x_label(plain(&x.label))
        .with_y_label(plain(&y.label))
        // Long names widen the figure and leave the curves their place.
        .with_width(620.0 + LETTER * legend_letters.saturating_sub(12) as f64)
        .with_height(400.0)
        .with_theme(theme.clone());
    layout.show_legend = legend_letters > 0;
    layout = layout
        .with_legend_position(LegendPosition::OutsideRightTop)
        .with_legend_width(45.0 + LETTER * legend_letters as f64);
    if x.log {
        layout = layout.with_log_x();
    }
    if y.log {
        layout = layout.with_log_y();
    }
    layout
}

fn plots(series: &Series, x: &Axis, y: &Axis) -> Vec<Plot> {
    // What a logarithmic axis can't show is left out.
    let shown = |&(px, py): &(f64, f64)| (!x.log || px > 0.0) && (!y.log || py > 0.0) && py.is_finite();
    let points: Vec<(f64, f64)> = series.points.iter().copied().filter(shown).collect();
    if points.is_empty() {
        return Vec::new();
    }
    if series.mark == Mark::Points || !series.errors.is_empty() {
        let mut plot =
            ScatterPlot::new().with_data(points.clone()).with_color(series.ink.hex()).with_size(4.0);
        if !series.errors.is_empty() {
            let arms = series.points.iter().zip(&series.errors).filter(|(point, _)| shown(point));
            plot = plot.with_y_err_asymmetric(arms.map(|(&(_, y), &(low, high))| (y - low, high - y)));
        }
        if !series.name.is_empty() {
            plot = plot.with_legend(plain(&series.name));
        }
        return vec![plot.into()];
    }
    let mut plot = LinePlot::new().with_data(points).with_color(series.ink.hex()).with_stroke_width(2.0);
    plot = match series.mark {
        Mark::Dashes => plot.with_line_style(LineStyle::Dashed),
        Mark::Dots => plot.with_line_style(LineStyle::Dotted),
        Mark::Steps => plot.with_step(),
        Mark::Line | Mark::Points => plot,
    };
    if !series.name.is_empty() {
        plot = plot.with_legend(plain(&series.name));
    }
    vec![plot.into()]
}

fn matrix_scene(
    rows: &[String],
    columns: &[String],
    values: &[Vec<(f64, String)>],
    axes: &(String, String),
    theme: &Theme,
) -> Scene {
    // kuva's rows go up; a matrix is read from above.
    let rows: Vec<String> = rows.iter().rev().cloned().collect();
    let values: Vec<&Vec<(f64, String)>> = values.iter().rev().collect();
    let shares = values.iter().map(|row| row.iter().map(|cell| cell.0).collect::<Vec<f64>>());
    let map = Heatmap::new()
        .with_data(shares)
        .with_labels(rows.clone(), columns.to_vec())
        .with_color_map(ColorMap::Cividis)
        .with_cell_size(1.0);
    let plots = vec![Plot::from(map)];
    let mut layout = Layout::auto_from_plots(&plots)
        .with_x_categories(columns.to_vec())
        .with_y_categories(rows)
        .with_x_label(plain(&axes.0))
        .with_y_label(plain(&axes.1))
        .with_width(560.0)
        .with_height(400.0)
        .with_theme(theme.clone());
    let mut inks = Vec::new();
    for (y, row) in values.iter().enumerate() {
        for (x, (share, text)) in row.iter().enumerate() {
            let note = TextAnnotation::new(plain(text), (x + 1) as f64, (y + 1) as f64);
            layout = layout.with_annotation(note.with_font_size(14));
            // Dark on the light end of the colours, light on the dark one, whatever the page's setting.
            inks.push((plain(text), if *share > 0.5 { "#111111" } else { "#ffffff" }));
        }
    }
    let mut scene = render_multiple(plots, layout);
    // kuva has a colour for an annotation's arrow and none for its text.
    for primitive in &mut scene.elements {
        if let Primitive::Text { content, color, .. } = primitive {
            let ink = inks.iter().find(|(text, _)| text == content).map(|(_, ink)| Color::from(*ink));
            *color = ink.or(color.take());
        }
    }
    scene
}

fn pictures_scene(pictures: &[Picture], axes: &(String, String), theme: &Theme) -> Scene {
    let mut plots = Vec::new();
    let mut layouts = Vec::new();
    for picture in pictures {
        let map = Heatmap::new()
            .with_data(picture.cells.clone())
            .with_x_range(picture.x.0, picture.x.1)
            .with_y_range(picture.y.0, picture.y.1)
            .with_cell_size(1.0)
            .with_color_map(ColorMap::Viridis);
        let mut layout = Layout::new(picture.x, picture.y)
            .with_x_axis_min(picture.x.0)
            .with_x_axis_max(picture.x.1)
            .with_y_axis_min(picture.y.0)
            .with_y_axis_max(picture.y.1)
            .with_title(plain(&picture.title))
            .with_title_size(10)
            .with_tick_size(9)
            .with_label_size(11)
            .with_ticks(4)
            .with_x_tick_format(TickFormat::Integer)
            .with_y_tick_format(TickFormat::Custom(Arc::new(tick_and_time)))
            .with_x_label(plain(&axes.0))
            .with_y_label(plain(&axes.1))
            .with_show_grid(false)
            .with_theme(theme.clone());
        layout.show_colorbar = false;
        plots.push(vec![Plot::from(map)]);
        layouts.push(layout);
    }
    Grid::new(1, pictures.len()).with_plots(plots).with_layouts(layouts).with_cell_size(180.0, 300.0).render()
}

/// A number of ticks with the time it stands for.
fn tick_and_time(tick: f64) -> String {
    format!("{tick:.0} ({:.1})", tick * TICK_US)
}

/// kuva reads `$` as the start of a formula; names from files are no formulas.
fn plain(text: &str) -> String {
    text.replace('$', "\\$")
}
