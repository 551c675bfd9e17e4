//! What a difference shows, in words that say no more than the interval does.

use crate::interval::Interval;

/// A verdict that a referee would accept.
///
/// ```
/// let interval = evaluate::Interval { low: -0.001, high: 0.009 };
/// let words = evaluate::sentence("v4 − v1", "F1", 0.004, interval);
/// assert_eq!(words, "v4 − v1: +0.40 % F1, 95 % interval −0.10 … +0.90: not shown to be better");
/// ```
pub fn sentence(what: &str, number: &str, difference: f64, interval: Interval) -> String {
    let percent = |value: f64| format!("{:+.2}", 100.0 * value).replace('-', "−");
    let verdict = match interval {
        Interval { low, .. } if low > 0.0 => "better",
        Interval { high, .. } if high < 0.0 => "worse",
        _ if difference == 0.0 => "no difference",
        _ if difference > 0.0 => "not shown to be better",
        _ => "not shown to be worse",
    };
    let (low, high) = (percent(interval.low), percent(interval.high));
    format!("{what}: {} % {number}, 95 % interval {low} … {high}: {verdict}", percent(difference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_say_what_the_interval_shows() {
        let verdict = |low, high, d| {
            let sentence = sentence("b − a", "F1", d, Interval { low, high });
            sentence.rsplit(": ").next().unwrap().to_owned()
        };
        assert_eq!(verdict(0.001, 0.01, 0.005), "better");
        assert_eq!(verdict(-0.01, -0.001, -0.005), "worse");
        assert_eq!(verdict(-0.01, 0.001, -0.005), "not shown to be worse");
        assert_eq!(verdict(0.0, 0.0, 0.0), "no difference");
    }
}
