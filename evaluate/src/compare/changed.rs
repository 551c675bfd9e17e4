//! The clusters that two models call differently.

use std::fmt::Write;

use crate::numbers::Judged;
use crate::rows::Rows;
use crate::tables::field;

/// A cluster that two models call differently.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Place in the set
    pub at: usize,
    /// Score of the first model and of the second
    pub scores: (f32, f32),
    /// Whether the first and the second call it main track
    pub called: (bool, bool),
}

/// All clusters that change, in the order of the set.
pub fn changed(a: &Judged, b: &Judged) -> Vec<Changed> {
    let change = |at: usize| {
        let scores = (a.scores[at], b.scores[at]);
        let called = (scores.0 >= a.threshold, scores.1 >= b.threshold);
        (called.0 != called.1).then_some(Changed { at, scores, called })
    };
    (0..a.labels.len()).filter_map(change).collect()
}

/// As CSV.
pub fn csv(changed: &[Changed], rows: &Rows) -> String {
    let mut text =
        String::from("source,row,event,is_main_track,cluster_energy,score_first,score,called_first,called\n");
    for &Changed { at, scores, called } in changed {
        let event = rows.event[at].map_or_else(String::new, |event| event.to_string());
        let source = field(rows.source_name(at));
        let (row, label, energy) = (rows.row[at], rows.label[at], rows.cluster_energy[at]);
        let _ = writeln!(
            text,
            "{source},{row},{event},{label},{energy},{},{},{},{}",
            scores.0, scores.1, called.0, called.1
        );
    }
    text
}
