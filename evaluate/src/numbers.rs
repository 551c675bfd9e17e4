//! The numbers of one classifier on one set: scikit-learn's report and what goes with it.

use serde::{Deserialize, Serialize};
use shared::metrics::{self, ClassReport, ClassWeights, Confusion, Ranking};

/// scikit-learn's `classification_report` dictionary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of scikit-learn")]
pub struct Classification {
    pub background: ClassReport,
    pub main_track: ClassReport,
    pub accuracy: f64,
    #[serde(rename = "macro avg")]
    pub macro_avg: ClassReport,
    #[serde(rename = "weighted avg")]
    pub weighted_avg: ClassReport,
}

/// The three F1 that are easily mistaken for each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct F1 {
    /// Of the main-track class
    pub main_track: f64,
    /// Plain mean over the two classes
    #[serde(rename = "macro")]
    pub macro_avg: f64,
    /// Mean over the two classes weighted by support
    pub weighted: f64,
}

impl F1 {
    /// The three F1 of a confusion matrix.
    pub fn of(confusion: &Confusion) -> Self {
        let averages = confusion.averages();
        Self {
            main_track: confusion.f1(),
            macro_avg: averages.macro_avg.f1,
            weighted: averages.weighted_avg.f1,
        }
    }
}

/// All numbers of a classifier at one mix of the classes; what is undefined (or, for the energy cut, what only
/// probabilities have) is null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// What counts as main track: a score, or an energy in MeV, at or above this
    pub threshold: f32,
    /// scikit-learn's report
    pub classification: Classification,
    /// F1 of the main-track class, macro and weighted
    pub f1: F1,
    /// Mean recall of the two classes
    pub balanced_accuracy: Option<f64>,
    /// Matthews correlation coefficient
    pub mcc: f64,
    /// Area under the ROC curve; the same at every mix
    pub roc_auc: Option<f64>,
    /// Area under the precision-recall curve, as steps
    pub average_precision: Option<f64>,
    /// Mean cross-entropy in nats
    pub log_loss: Option<f64>,
    /// Mean squared error of the score
    pub brier: Option<f64>,
    /// Expected calibration error over 10 equal bins
    pub ece: Option<f64>,
    /// The counts behind it (weights, if re-weighted)
    pub confusion: Confusion,
    /// Share of main tracks
    pub prevalence: f64,
}

/// Scores with their labels, sorted once for everything that needs it.
#[derive(Debug)]
pub struct Judged<'a> {
    /// `[rows]`
    pub scores: &'a [f32],
    /// `[rows]`
    pub labels: &'a [bool],
    /// All cuts; `None` for an empty set
    pub ranking: Option<Ranking>,
    /// Whether the scores are probabilities and not energies
    pub probabilities: bool,
    /// A score at or above is called main track
    pub threshold: f32,
}

impl<'a> Judged<'a> {
    /// Scores of a model.
    pub fn model(scores: &'a [f32], labels: &'a [bool], threshold: f32) -> Self {
        let ranking = Ranking::new(scores, labels);
        Self { scores, labels, ranking, probabilities: true, threshold }
    }

    /// Energies in MeV, called main track above a cut.
    pub fn energy_cut(energies: &'a [f32], labels: &'a [bool], cut: f32) -> Self {
        Self { probabilities: false, ..Self::model(energies, labels, cut) }
    }

    /// Counts at the threshold.
    pub fn confusion(&self) -> Confusion {
        Confusion::at(self.scores, self.labels, self.threshold)
    }

    /// The numbers at the set's own mix of classes.
    pub fn numbers(&self) -> Numbers {
        self.weighted(ClassWeights::ONE)
    }

    /// The numbers at another share of main tracks.
    pub fn numbers_at(&self, prevalence: f64) -> Numbers {
        let (background, main) = metrics::class_counts(self.labels);
        self.weighted(ClassWeights::for_prevalence(background, main, prevalence))
    }

    fn weighted(&self, weights: ClassWeights) -> Numbers {
        let confusion = self.confusion().reweighted(weights);
        let averages = confusion.averages();
        let (scores, labels) = (self.scores, self.labels);
        let probability =
            |value: &dyn Fn() -> f64| defined(if self.probabilities { value() } else { f64::NAN });
        let ranked = |value: &dyn Fn(&Ranking) -> f64| self.ranking.as_ref().and_then(|r| defined(value(r)));
        Numbers {
            threshold: self.threshold,
            classification: Classification {
                background: confusion.background(),
                main_track: confusion.main_track(),
                accuracy: confusion.accuracy(),
                macro_avg: averages.macro_avg,
                weighted_avg: averages.weighted_avg,
            },
            f1: F1::of(&confusion),
            balanced_accuracy: defined(confusion.balanced_accuracy()),
            mcc: confusion.mcc(),
            roc_auc: ranked(&|r| r.roc_auc()),
            average_precision: ranked(&|r| r.average_precision(weights)),
            log_loss: probability(&|| metrics::log_loss_weighted(scores, labels, weights)),
            brier: probability(&|| metrics::brier_weighted(scores, labels, weights)),
            ece: probability(&|| {
                metrics::calibration_error(&metrics::reliability(scores, labels, weights, 10))
            }),
            confusion,
            prevalence: confusion.positives() / confusion.total(),
        }
    }
}

fn defined(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
