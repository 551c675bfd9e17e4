//! The study as one web page: history, slices, parallel coordinates, importance and the table of trials.
//!
//! Figures are SVG, drawn here; the page loads nothing.

use std::fmt::Write;

use shared::study::distribution::Distribution;
use shared::study::importance::fanova;
use shared::study::space::Parameter;
use shared::study::{State, Study, StudyError, TrialRecord};

use crate::show::{self, short};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.2rem}svg{max-width:100%;height:auto}
.slices{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:1rem}
table{border-collapse:collapse;font-size:.85rem}th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #e3e6ea}
tr.best{background:#fff3d6;font-weight:600}.scroll{overflow-x:auto}text{font:11px system-ui,sans-serif;fill:#57606a}
@media(prefers-color-scheme:dark){body{background:#15181c;color:#e6e8eb}th,td{border-color:#30363d}tr.best{background:#4a3a10}text{fill:#9aa4af}}";
const BLUE: &str = "#2f6fb3";
const ORANGE: &str = "#d9822b";

/// The whole page.
pub fn page(study: &Study, trials: &[TrialRecord]) -> Result<String, StudyError> {
    let settings = study.settings();
    let objective = settings.experiment.objective.name();
    let best = study.best()?;
    let done: Vec<&TrialRecord> =
        trials.iter().filter(|t| t.state == State::Complete && t.value.is_some_and(f64::is_finite)).collect();
    let name = escape(&settings.study_name);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n<title>{name}</title><style>{STYLE}</style>\n<h1>Study {name}</h1>\n<p>{}</p>\n",
        escape(&show::summary(study, trials, best.as_ref()))
    );
    if done.is_empty() {
        page.push_str("<p>No trial is complete yet.</p>\n");
    } else {
        section(&mut page, &format!("History of {objective}"), &history(&done, settings.maximise()));
        section(&mut page, "Importance (fANOVA)", &importance(study, trials));
        let maximise = settings.maximise();
        let slices: String = study.space().parameters.iter().map(|p| slice(p, &done, maximise)).collect();
        section(&mut page, "Slices", &format!("<div class=\"slices\">{slices}</div>"));
        section(&mut page, "Parallel coordinates", &parallel(study, &done));
    }
    section(&mut page, "Trials", &table(study, trials, best.as_ref().map(|best| best.number)));
    page.push_str("</html>\n");
    Ok(page)
}

fn section(page: &mut String, title: &str, body: &str) {
    let _ = writeln!(page, "<h2>{}</h2>\n{body}", escape(title));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A scale from data to pixels.
#[derive(Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Least and greatest value shown, for the labels
    ends: (f64, f64),
    /// Whether values lie beyond each end
    beyond: (bool, bool),
    from: f64,
    to: f64,
}

impl Scale {
    fn new(values: impl Iterator<Item = f64>, log: bool, from: f64, to: f64) -> Self {
        let ends = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        Self::between(ends, log, from, to)
    }

    fn between(ends: (f64, f64), log: bool, from: f64, to: f64) -> Self {
        let log = log && ends.0 > 0.0;
        let (low, high) = if log { (ends.0.ln(), ends.1.ln()) } else { ends };
        let pad = if high > low { 0.04 * (high - low) } else { low.abs().max(1.0) * 0.05 };
        Self { low: low - pad, high: high + pad, log, ends, beyond: (false, false), from, to }
    }

    /// The axis of a parameter.
    fn of(parameter: &Parameter, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let log = match parameter.distribution {
            Distribution::Int { log, .. } | Distribution::Float { log, .. } => log,
            Distribution::Categorical { .. } => false,
        };
        Self::new(values, log, from, to)
    }

    /// The axis of the objective; the few trials that are far worse than the others don't stretch it.
    fn of_value(done: &[&TrialRecord], maximise: bool, from: f64, to: f64) -> Self {
        let mut values: Vec<f64> = done.iter().filter_map(|trial| trial.value).collect();
        values.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (values.first(), values.last()) else {
            return Self::new(std::iter::empty(), false, from, to);
        };
        let quarter = |share: usize| values[share * (values.len() - 1) / 4];
        let reach = 3.0 * (quarter(3) - quarter(1));
        let ends = match maximise {
            _ if reach == 0.0 => (least, most),
            true => (least.max(quarter(1) - reach), most),
            false => (least, most.min(quarter(3) + reach)),
        };
        let beyond = (least < ends.0, most > ends.1);
        Self { beyond, ..Self::between(ends, false, from, to) }
    }

    /// The pixel of a value; one beyond an end lies at this end.
    fn at(self, value: f64) -> f64 {
        let value = if self.log { value.ln() } else { value.clamp(self.ends.0, self.ends.1) };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Texts for both ends, numbers with so many decimals.
    fn labels(self, decimals: i32) -> (String, String) {
        let number = |value: f64| {
            let unit = 10_f64.powi(decimals);
            short(&serde_json::json!((value * unit).round() / unit))
        };
        let sign = |beyond, sign| if beyond { sign } else { "" };
        (
            format!("{}{}", sign(self.beyond.0, "≤ "), number(self.ends.0)),
            format!("{}{}", sign(self.beyond.1, "≥ "), number(self.ends.1)),
        )
    }
}

/// A frame with the ends of both axes as labels.
fn frame(width: f64, height: f64, x: Scale, y: Scale, label: &str) -> String {
    let ((x_low, x_high), (y_low, y_high)) = (x.labels(6), y.labels(5));
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\"><path d=\"M{} {}V{}H{}\" fill=\"none\" stroke=\"#8c959f\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
         <text x=\"{}\" y=\"{}\">{}</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        x.from,
        y.to,
        y.from,
        x.to,
        x.from - 4.0,
        y.to + 8.0,
        y_high,
        x.from - 4.0,
        y.from,
        y_low,
        x.from,
        y.from + 14.0,
        x_low,
        x.to,
        y.from + 14.0,
        x_high,
        0.5 * (x.from + x.to),
        y.from + 14.0,
        escape(label),
    )
}

fn dot(x: f64, y: f64, trial: &TrialRecord) -> String {
    let value = trial.value.unwrap_or(f64::NAN);
    format!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{BLUE}\" fill-opacity=\".65\"><title>trial {}: {value:.5}</title></circle>",
        trial.number
    )
}

fn history(done: &[&TrialRecord], maximise: bool) -> String {
    let x = Scale::new(done.iter().map(|t| t.number as f64), false, 64.0, 880.0);
    let y = Scale::of_value(done, maximise, 250.0, 12.0);
    let mut svg = frame(900.0, 270.0, x, y, "trial");
    let mut best = f64::NAN;
    let mut line = String::new();
    for trial in done {
        let value = trial.value.unwrap_or(f64::NAN);
        best = if maximise { best.max(value) } else { best.min(value) };
        let command = if line.is_empty() { "M" } else { "H" };
        let (px, py) = (x.at(trial.number as f64), y.at(best));
        let _ = if line.is_empty() {
            write!(line, "{command}{px:.1} {py:.1}")
        } else {
            write!(line, "{command}{px:.1}V{py:.1}")
        };
        svg.push_str(&dot(px, y.at(value), trial));
    }
    let _ = write!(svg, "<path d=\"{line}\" fill=\"none\" stroke=\"{ORANGE}\" stroke-width=\"2\"/></svg>");
    svg
}

fn slice(parameter: &Parameter, done: &[&TrialRecord], maximise: bool) -> String {
    let name = &parameter.name;
    let position = |trial: &TrialRecord| trial.params().get(name).and_then(serde_json::Value::as_f64);
    let points: Vec<(&TrialRecord, f64)> = done.iter().filter_map(|t| Some((*t, position(t)?))).collect();
    if points.is_empty() {
        return String::new();
    }
    let x = Scale::of(parameter, points.iter().map(|(_, px)| *px), 60.0, 290.0);
    let y = Scale::of_value(done, maximise, 160.0, 10.0);
    let mut svg = frame(300.0, 180.0, x, y, name);
    for (trial, px) in points {
        svg.push_str(&dot(x.at(px), y.at(trial.value.unwrap_or(f64::NAN)), trial));
    }
    svg + "</svg>"
}

fn importance(study: &Study, trials: &[TrialRecord]) -> String {
    let importances = fanova(study.space(), trials, study.settings().seed);
    if importances.is_empty() {
        return "<p>Too few complete trials.</p>".into();
    }
    let height = 24 * importances.len() + 8;
    let mut svg = format!("<svg viewBox=\"0 0 900 {height}\" role=\"img\">");
    for (row, (name, share)) in importances.iter().enumerate() {
        let y = 24 * row + 4;
        let width = 640.0 * share.clamp(0.0, 1.0);
        let _ = write!(
            svg,
            "<text x=\"150\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"158\" y=\"{y}\" width=\"{width:.1}\" height=\"16\" fill=\"{BLUE}\"/><text x=\"{:.1}\" y=\"{}\">{share:.3}</text>",
            y + 12,
            escape(name),
            164.0 + width,
            y + 12
        );
    }
    svg + "</svg>"
}

fn parallel(study: &Study, done: &[&TrialRecord]) -> String {
    let names: Vec<&str> = study.space().parameters.iter().map(|p| p.name.as_str()).collect();
    let params: Vec<_> = done.iter().map(|trial| trial.params()).collect();
    let number = &|row: usize, name: &str| params[row].get(name).and_then(serde_json::Value::as_f64);
    let objective = study.settings().experiment.objective.name();
    let axis_x = |i: usize| 60.0 + 800.0 * i as f64 / names.len().max(1) as f64;
    let column = |name| (0..done.len()).filter_map(move |row| number(row, name));
    let parameters = study.space().parameters.iter();
    let scales: Vec<Scale> = parameters.map(|p| Scale::of(p, column(p.name.as_str()), 220.0, 30.0)).collect();
    let value = Scale::of_value(done, study.settings().maximise(), 220.0, 30.0);
    let mut svg = "<svg viewBox=\"0 0 920 260\" role=\"img\">".to_owned();
    let mut order: Vec<usize> = (0..done.len()).collect();
    let sign = if study.settings().maximise() { 1.0 } else { -1.0 };
    order.sort_by(|&a, &b| {
        (sign * done[a].value.unwrap_or(0.0)).total_cmp(&(sign * done[b].value.unwrap_or(0.0)))
    });
    for (rank, &row) in order.iter().enumerate() {
        let mut points: Vec<String> = names
            .iter()
            .enumerate()
            .filter_map(|(i, name)| Some(format!("{:.1},{:.1}", axis_x(i), scales[i].at(number(row, name)?))))
            .collect();
        points.push(format!("{:.1},{:.1}", axis_x(names.len()), value.at(done[row].value.unwrap_or(0.0))));
        let best = rank + 1 == order.len();
        let (colour, opacity, width) = if best {
            (ORANGE, 1.0, 2.5)
        } else {
            (BLUE, 0.1 + 0.6 * (rank as f64 / order.len() as f64).powi(3), 1.2)
        };
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-opacity=\"{opacity:.2}\" stroke-width=\"{width}\"><title>trial {}</title></polyline>",
            points.join(" "),
            done[row].number
        );
    }
    for (i, name) in names.iter().chain([&objective]).enumerate() {
        let x = axis_x(i);
        let scale = scales.get(i).copied().unwrap_or(value);
        let (low, high) = scale.labels(5);
        let _ = write!(
            svg,
            "<path d=\"M{x:.1} 30V220\" stroke=\"#8c959f\"/><text x=\"{x:.1}\" y=\"250\" text-anchor=\"middle\">{}</text><text x=\"{x:.1}\" y=\"24\" text-anchor=\"middle\">{}</text><text x=\"{x:.1}\" y=\"234\" text-anchor=\"middle\">{}</text>",
            escape(name),
            high,
            low
        );
    }
    svg + "</svg>"
}

fn table(study: &Study, trials: &[TrialRecord], best: Option<u64>) -> String {
    let names: Vec<&str> = study.space().parameters.iter().map(|p| p.name.as_str()).collect();
    let head = show::head(study);
    let mut html = "<div class=\"scroll\"><table><tr>".to_owned();
    for cell in &head {
        let _ = write!(html, "<th>{}</th>", escape(cell));
    }
    html.push_str("</tr>\n");
    for trial in trials {
        let class = if best == Some(trial.number) { " class=\"best\"" } else { "" };
        let _ = write!(html, "<tr{class}>");
        for cell in show::row(trial, &names, best) {
            let _ = write!(html, "<td>{}</td>", escape(&cell));
        }
        html.push_str("</tr>\n");
    }
    html + "</table></div>"
}
