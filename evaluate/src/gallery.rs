//! The few clusters that a report draws: the most confident hits and the worst errors.

use arrow::buffer::BooleanBuffer;
use shared::split::Images;

/// Clusters of each kind that are kept.
pub const SHOWN: usize = 6;

/// Why a cluster is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Main tracks with the highest scores
    Best,
    /// Main tracks with the lowest scores
    Missed,
    /// Background with the highest scores
    Fake,
}

/// One cluster with its image.
#[derive(Debug, Clone)]
pub struct Exhibit {
    /// Score of the model
    pub score: f32,
    /// Row in the split
    pub row: usize,
    /// Raw ADC, `[height, width]`
    pub image: Vec<f32>,
}

/// The clusters to show, each list with the most telling first.
#[derive(Debug)]
pub struct Gallery {
    /// Height and width of the images
    pub shape: (usize, usize),
    best: Vec<Exhibit>,
    missed: Vec<Exhibit>,
    fake: Vec<Exhibit>,
}

impl Kind {
    /// All kinds in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Best, Self::Missed, Self::Fake];

    /// Smaller is more telling.
    fn rank(self, score: f32) -> f32 {
        match self {
            Self::Best | Self::Fake => -score,
            Self::Missed => score,
        }
    }
}

impl Gallery {
    /// An empty gallery for images of this height and width.
    pub fn new(shape: (usize, usize)) -> Self {
        Self { shape, best: Vec::new(), missed: Vec::new(), fake: Vec::new() }
    }

    /// The clusters of a kind.
    pub fn of(&self, kind: Kind) -> &[Exhibit] {
        match kind {
            Kind::Best => &self.best,
            Kind::Missed => &self.missed,
            Kind::Fake => &self.fake,
        }
    }

    /// Look at a batch, in whatever order the batches come; `first` is the row of its first cluster.
    pub fn offer(&mut self, first: usize, scores: &[f32], labels: &BooleanBuffer, images: &Images) {
        let pixels = self.shape.0 * self.shape.1;
        for (at, (&score, label)) in scores.iter().zip(labels).enumerate() {
            let kinds: &[Kind] = if label { &[Kind::Best, Kind::Missed] } else { &[Kind::Fake] };
            for &kind in kinds {
                let row = first + at;
                let list = self.list(kind);
                let last = list.last().filter(|_| list.len() == SHOWN);
                if last.is_some_and(|last| (kind.rank(last.score), last.row) <= (kind.rank(score), row)) {
                    continue;
                }
                let mut image = vec![0.0; pixels];
                images.write(at, &mut image);
                insert(list, kind, Exhibit { score, row, image });
            }
        }
    }

    fn list(&mut self, kind: Kind) -> &mut Vec<Exhibit> {
        match kind {
            Kind::Best => &mut self.best,
            Kind::Missed => &mut self.missed,
            Kind::Fake => &mut self.fake,
        }
    }
}

fn insert(list: &mut Vec<Exhibit>, kind: Kind, exhibit: Exhibit) {
    list.push(exhibit);
    list.sort_by(|a, b| kind.rank(a.score).total_cmp(&kind.rank(b.score)).then(a.row.cmp(&b.row)));
    list.truncate(SHOWN);
}
