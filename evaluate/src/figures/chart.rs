//! Charts as data: what the figures say, without a word on how they are drawn.

/// What a colour stands for in every figure; the colours are those of Okabe and Ito, safe for colour-blind readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// The model that the report is about
    Model,
    /// The cut on the cluster energy
    Baseline,
    /// Another model, by its number
    Other(usize),
    /// What helps the eye
    Quiet,
}

impl Ink {
    /// As hexadecimal RGB.
    pub const fn hex(self) -> &'static str {
        match self {
            Self::Model => "#0072B2",
            Self::Baseline => "#D55E00",
            Self::Other(n) => ["#009E73", "#CC79A7", "#56B4E9", "#E69F00"][n % 4],
            Self::Quiet => "#888888",
        }
    }
}

/// How the points of a series are drawn; models differ in the line as well as in the colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Joined by a line
    Line,
    /// Joined by dashes
    Dashes,
    /// Joined by a dotted line
    Dots,
    /// A staircase: each point holds until the next
    Steps,
    /// Each by itself
    Points,
}

/// Values over the horizontal axis.
#[derive(Debug, Clone)]
pub struct Series {
    /// For the legend; empty for none
    pub name: String,
    /// Colour
    pub ink: Ink,
    /// Form
    pub mark: Mark,
    /// (x, y)
    pub points: Vec<(f64, f64)>,
    /// Lower and upper end of y for each point; empty without
    pub errors: Vec<(f64, f64)>,
}

impl Series {
    /// A series without error bars.
    pub fn new(name: impl Into<String>, ink: Ink, mark: Mark, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), ink, mark, points, errors: Vec::new() }
    }
}

/// An axis: its name with the unit, and its range.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Such as `cluster energy (MeV)`
    pub label: String,
    /// From and to
    pub range: (f64, f64),
    /// Whether it is logarithmic
    pub log: bool,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: impl Into<String>, range: (f64, f64)) -> Self {
        Self { label: label.into(), range, log: false }
    }
}

/// A picture: `[height][width]` values in cells.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Above it
    pub title: String,
    /// Values of the cells, row by row from below
    pub cells: Vec<Vec<f64>>,
    /// Range of the horizontal axis in channels
    pub x: (f64, f64),
    /// Range of the vertical axis in ticks; labels show the time beside them
    pub y: (f64, f64),
}

/// What a figure shows.
#[derive(Debug, Clone)]
pub enum Content {
    /// Series over common axes, and vertical lines with their names
    Chart {
        /// Horizontal axis
        x: Axis,
        /// Vertical axis
        y: Axis,
        /// What is drawn
        series: Vec<Series>,
        /// Positions to mark, with a name
        marks: Vec<(f64, String, Ink)>,
    },
    /// A table of shares with a name for each row and column, the numbers written in
    Matrix {
        /// Names of the rows from above
        rows: Vec<String>,
        /// Names of the columns
        columns: Vec<String>,
        /// Share from 0 to 1 and what is written there
        values: Vec<Vec<(f64, String)>>,
        /// Names of the two axes
        axes: (String, String),
    },
    /// Pictures side by side
    Pictures {
        /// The pictures
        pictures: Vec<Picture>,
        /// Names of the two axes
        axes: (String, String),
    },
}

/// A figure of the report.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Name of its files, such as `roc`
    pub name: &'static str,
    /// Heading
    pub title: String,
    /// A sentence or two below it
    pub caption: String,
    /// What it shows
    pub content: Content,
}
