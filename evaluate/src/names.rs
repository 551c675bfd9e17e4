//! Short names for files and folders that stand side by side.

use std::path::PathBuf;

/// Names that every run has, so that they say nothing by themselves.
const USUAL: [&str; 3] = ["model.onnx", "best.onnx", "report"];

/// The shortest ends of the paths that tell them apart, without what they all end in: `v1` and `v4` for
/// `runs/v1/report` and `runs/v4/report`.
pub fn shortest(paths: &[PathBuf]) -> Vec<String> {
    let mut parts: Vec<Vec<String>> = paths
        .iter()
        .map(|path| path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect())
        .collect();
    let common =
        |parts: &[Vec<String>]| parts.iter().all(|path| path.len() > 1 && path.last() == parts[0].last());
    let differ = |parts: &[Vec<String>]| (1..parts.len()).all(|i| !parts[..i].contains(&parts[i]));
    while parts.len() > 1 && differ(&parts) && common(&parts) {
        for path in &mut parts {
            path.pop();
        }
    }
    let longest = parts.iter().map(Vec::len).max().unwrap_or(1);
    let at = |n: usize| -> Vec<String> {
        parts.iter().map(|path| path[path.len().saturating_sub(n)..].join("/")).collect()
    };
    let telling = |names: &Vec<String>| {
        let usual = names.iter().any(|name| USUAL.contains(&name.as_str()));
        !usual && (1..names.len()).all(|i| !names[..i].contains(&names[i]))
    };
    (1..=longest).map(at).find(telling).unwrap_or_else(|| at(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_short_as_they_can_be_and_different() {
        let names = |paths: &[&str]| shortest(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["out/v1", "out/v4"]), ["v1", "v4"]);
        assert_eq!(names(&["runs/v1/report", "runs/v4/report"]), ["v1", "v4"]);
        assert_eq!(names(&["v1/study/best.onnx", "v4/study/best.onnx"]), ["v1", "v4"]);
        let trial = names(&["study/best.onnx", "study/trials/0002/model.onnx"]);
        assert_eq!(trial, ["study/best.onnx", "0002/model.onnx"]);
        assert_eq!(names(&["model.onnx", "b.onnx"]), ["model.onnx", "b.onnx"]);
        assert_eq!(names(&["a", "a"]), ["a", "a"], "the same path twice has no other name");
    }
}
