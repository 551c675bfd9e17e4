//! Single clusters as images, in the detector's coordinates.

use crate::gallery::{Exhibit, Gallery, Kind};
use crate::rows::Rows;

use super::chart::{Content, Figure, Picture};

/// Empty ticks and channels shown around a cluster.
const MARGIN: usize = 2;

/// Said once below each row of pictures.
const COORDINATES: &str = "Channels and ticks count from the image's own first one, as the data hold no absolute channel or time; a tick is 0.512 µs. Colour runs from no signal (dark) to the picture's largest ADC.";

/// A figure for each kind of exhibit that there is.
pub fn exhibits(gallery: &Gallery, rows: &Rows) -> Vec<Figure> {
    Kind::ALL
        .into_iter()
        .filter(|&kind| !gallery.of(kind).is_empty())
        .map(|kind| {
            let (name, title) = words(kind);
            let pictures = gallery.of(kind).iter().map(|e| picture(e, gallery.shape, rows)).collect();
            let axes = ("channel in image".to_owned(), "tick in image (µs)".to_owned());
            let list: Vec<String> = gallery.of(kind).iter().map(|e| origin(e, rows)).collect();
            Figure {
                name,
                title: title.into(),
                caption: format!("{COORDINATES} From the left: {}.", list.join("; ")),
                content: Content::Pictures { pictures, axes },
            }
        })
        .collect()
}

fn words(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Best => ("clusters-best", "Main tracks found with most confidence"),
        Kind::Missed => ("clusters-missed", "Main tracks with the lowest scores"),
        Kind::Fake => ("clusters-fake", "Background with the highest scores"),
    }
}

/// Which cluster it is, and what the simulation knows of its place.
fn origin(exhibit: &Exhibit, rows: &Rows) -> String {
    let at = exhibit.row;
    let event = rows.event[at].map_or_else(String::new, |event| format!(", event {event}"));
    let largest = exhibit.image.iter().copied().fold(0.0, f32::max);
    let [x, y, z] = rows.position.each_ref().map(|axis| axis[at]);
    let place = if (x + y + z).is_finite() {
        format!(", true start at x {x:.0}, y {y:.0}, z {z:.0} cm")
    } else {
        String::new()
    };
    format!("{} row {}{event}, up to {largest:.0} ADC{place}", rows.source_name(at), rows.row[at])
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
        y: (ticks.0 as f64, ticks.1 as f64),
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
