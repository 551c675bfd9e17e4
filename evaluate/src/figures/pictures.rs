//! Single clusters as images, in the detector's coordinates.

use crate::gallery::{Exhibit, Gallery, Kind};
use crate::rows::Rows;

use super::chart::{Content, Figure, Picture};

/// Microseconds of a tick.
const TICK_US: f64 = 0.512;
/// Empty ticks and channels shown around a cluster.
const MARGIN: usize = 2;

/// A figure for each kind of exhibit that there is.
pub fn exhibits(gallery: &Gallery, rows: &Rows) -> Vec<Figure> {
    Kind::ALL
        .into_iter()
        .filter(|&kind| !gallery.of(kind).is_empty())
        .map(|kind| {
            let (name, title, caption) = words(kind);
            let pictures = gallery.of(kind).iter().map(|e| picture(e, gallery.shape, rows)).collect();
            let axes = ("channel in image".to_owned(), "time (µs)".to_owned());
            let list: Vec<String> = gallery.of(kind).iter().map(|e| origin(e, rows)).collect();
            Figure {
                name,
                title: title.into(),
                caption: format!("{caption} From the left: {}.", list.join("; ")),
                content: Content::Pictures { pictures, axes },
            }
        })
        .collect()
}

fn words(kind: Kind) -> (&'static str, &'static str, &'static str) {
    match kind {
        Kind::Best => ("clusters-best", "Main tracks found with most confidence", "Colour is ADC."),
        Kind::Missed => ("clusters-missed", "Main tracks with the lowest scores", "Colour is ADC."),
        Kind::Fake => ("clusters-fake", "Background with the highest scores", "Colour is ADC."),
    }
}

fn origin(exhibit: &Exhibit, rows: &Rows) -> String {
    format!("{} row {}", rows.source_name(exhibit.row), rows.row[exhibit.row])
}

/// The part of the image with a signal; time goes up.
fn picture(exhibit: &Exhibit, (height, width): (usize, usize), rows: &Rows) -> Picture {
    let hit = |tick: usize, channel: usize| exhibit.image[tick * width + channel] > 0.0;
    let ticks = span(height, |tick| (0..width).any(|channel| hit(tick, channel)));
    let channels = span(width, |channel| (0..height).any(|tick| hit(tick, channel)));
    let cells = (ticks.0..ticks.1)
        .map(|tick| (channels.0..channels.1).map(|c| f64::from(exhibit.image[tick * width + c])).collect())
        .collect();
    Picture {
        title: format!("score {:.3}, {:.1} MeV", exhibit.score, rows.cluster_energy[exhibit.row]),
        cells,
        x: (channels.0 as f64, channels.1 as f64),
        y: (ticks.0 as f64 * TICK_US, ticks.1 as f64 * TICK_US),
    }
}

/// From the first to behind the last that is hit, with a margin.
fn span(len: usize, hit: impl Fn(usize) -> bool) -> (usize, usize) {
    let first = (0..len).find(|&at| hit(at)).unwrap_or(0);
    let last = (0..len).rfind(|&at| hit(at)).unwrap_or(len - 1);
    (first.saturating_sub(MARGIN), (last + 1 + MARGIN).min(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cut_out_keeps_a_margin_and_stays_in_the_image() {
        assert_eq!(span(10, |at| at == 1 || at == 4), (0, 7));
        assert_eq!(span(10, |_| false), (0, 10), "an empty image is shown whole");
    }
}
