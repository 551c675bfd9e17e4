//! The binary on small sets: splits, leaks, balance, phases, and what it does with folders that are there.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int32Type, Int64Type, UInt32Type};
use shared::split::{Split, SplitFolder};
use support::{Clusters, Sandbox, stderr, stdout, tree};

/// A row as tests look at it.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    source: String,
    number: u32,
    event: Option<i64>,
    is_main_track: bool,
    image: Vec<f32>,
}

fn rows(sandbox: &Sandbox, output: &str, split: Split) -> Vec<Row> {
    let folder = SplitFolder::open(&sandbox.path(output)).expect("a finished folder");
    let columns = ["image", "is_main_track", "source", "row", "event"];
    let mut rows = Vec::new();
    for batch in folder.batches(split, &columns, 64).expect("a split") {
        let batch = batch.expect("a batch");
        let column = |name| batch.column_by_name(name).expect("a column");
        let images = column("image").as_fixed_size_list();
        let sources = column("source").as_dictionary::<Int32Type>();
        let names = sources.values().as_string::<i32>();
        let event = column("event").as_primitive::<Int64Type>();
        for i in 0..batch.num_rows() {
            rows.push(Row {
                source: names.value(sources.keys().value(i) as usize).to_owned(),
                number: column("row").as_primitive::<UInt32Type>().value(i),
                event: event.iter().nth(i).flatten(),
                is_main_track: column("is_main_track").as_boolean().value(i),
                image: images.value(i).as_primitive::<Float32Type>().values().to_vec(),
            });
        }
    }
    rows
}

fn all_rows(sandbox: &Sandbox, output: &str) -> BTreeMap<Split, Vec<Row>> {
    Split::ALL.into_iter().map(|split| (split, rows(sandbox, output, split))).collect()
}

/// Six files of 100 clusters; the last repeats 40 images of the first.
fn production() -> Sandbox {
    let sandbox = Sandbox::new();
    let first = Clusters::new(100, 1);
    for number in 1..=5 {
        sandbox.write(&format!("in/prod_{number}_planeX.npz"), &Clusters::new(100, number).npz());
    }
    let mut last = Clusters::new(100, 6);
    last.images[30..70].clone_from_slice(&first.images[30..70]);
    sandbox.write("in/deep/er/prod_6_planeX.npz", &last.deflated());
    sandbox.write("in/prod_1_planeU.npz", b"not for plane X");
    sandbox
}

#[test]
fn the_first_lines_of_the_summary() {
    let sandbox = production();
    let output = sandbox.prepare("out", &[]);
    let text = stdout(&output);
    let total: u64 = sandbox.manifest("out")["splits"]
        .as_object()
        .unwrap()
        .values()
        .map(|s| s["rows"].as_u64().unwrap())
        .sum();
    assert!(
        text.starts_with(&format!("wrote out ({total} clusters of plane X, 128 × 16)\n  train ")),
        "{text}"
    );
    assert!(text.contains("\n  6 of 6 files used\n  80 rows have repeated images; "), "{text}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn images_labels_and_events_come_through_unchanged() {
    let sandbox = production();
    sandbox.prepared("out", &["--duplicates", "keep"]);
    let all = all_rows(&sandbox, "out");
    assert_eq!(all.values().map(Vec::len).sum::<usize>(), 600);
    for row in all.values().flatten() {
        let number: u32 = row.source.rsplit("prod_").next().unwrap()[..1].parse().unwrap();
        let mut clusters = Clusters::new(100, number);
        if number == 6 {
            clusters.images[30..70].clone_from_slice(&Clusters::new(100, 1).images[30..70]);
        }
        let at = row.number as usize;
        assert_eq!(row.image, clusters.images[at]);
        assert_eq!(row.is_main_track, at.is_multiple_of(7));
        assert_eq!(row.event, Some(i64::from(row.number / 10)));
    }
    for rows in all.values() {
        assert!(rows.is_sorted_by_key(|row| (row.source.clone(), row.number)));
    }
}

#[test]
fn an_event_is_in_one_split_and_no_held_out_image_was_trained_on() {
    let sandbox = production();
    let manifest = sandbox.prepared("out", &[]);
    let all = all_rows(&sandbox, "out");
    let mut home = BTreeMap::new();
    let mut images: BTreeMap<Vec<u32>, Split> = BTreeMap::new();
    for (split, rows) in &all {
        for row in rows {
            let event = (row.source.clone(), row.event);
            assert_eq!(*home.entry(event).or_insert(*split), *split);
            let image = row.image.iter().map(|pixel| pixel.to_bits()).collect();
            assert_eq!(*images.entry(image).or_insert(*split), *split, "{} {}", row.source, row.number);
        }
    }
    let left_out = &manifest["preparation"]["duplicates"]["left_out"];
    let total: u64 = left_out.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert!(total > 0, "the set has leaks, or it tests nothing");
    assert_eq!(all.values().map(Vec::len).sum::<usize>() as u64, 600 - total);
    assert_eq!(left_out["train"], 0);
}

#[test]
fn a_split_by_file_keeps_files_whole_and_one_by_cluster_keeps_nothing_together() {
    let sandbox = production();
    let splits_of = |output: &str, key: &dyn Fn(&Row) -> String| {
        let mut homes: BTreeMap<String, BTreeSet<Split>> = BTreeMap::new();
        for (split, rows) in all_rows(&sandbox, output) {
            for row in rows {
                homes.entry(key(&row)).or_default().insert(split);
            }
        }
        homes
    };
    sandbox.write(
        "fractions.json",
        br#"{"dataset_parameters": {"train_fraction": 0.4, "val_fraction": 0.3, "test_fraction": 0.3},
            "model_parameters": {"input_shape": [128, 16, 1]}}"#,
    );
    let split_by = |output: &str, by: &str| {
        let mut command = sandbox.command();
        command.args(["--config", "fractions.json", "--input", "in", "--output", output, "--split-by", by]);
        command.args(["--duplicates", "keep"]).assert().success();
    };
    split_by("file", "file");
    let files = splits_of("file", &|row| row.source.clone());
    assert!(files.len() == 6 && files.values().all(|splits| splits.len() == 1), "{files:?}");
    split_by("cluster", "cluster");
    let events = splits_of("cluster", &|row| format!("{} {:?}", row.source, row.event));
    assert!(events.values().filter(|splits| splits.len() > 1).count() > 40, "{events:?}");
}

#[test]
fn dropped_duplicates_leave_every_image_once() {
    let sandbox = production();
    sandbox.prepared("out", &["--duplicates", "drop"]);
    let all = all_rows(&sandbox, "out");
    let images: BTreeSet<Vec<u32>> =
        all.values().flatten().map(|row| row.image.iter().map(|pixel| pixel.to_bits()).collect()).collect();
    assert_eq!((images.len(), all.values().map(Vec::len).sum::<usize>()), (560, 560));
}

#[test]
fn duplicates_are_counted_by_class_pair_and_split() {
    let sandbox = Sandbox::new();
    let first = Clusters::new(30, 1);
    let mut second = Clusters::new(30, 2);
    second.images[0] = first.images[0].clone(); // main track and main track
    second.images[1] = first.images[7].clone(); // background and main track
    second.images[2] = first.images[2].clone(); // background twice
    second.images[3] = first.images[2].clone();
    sandbox.write("in/a_planeX.npz", &first.npz());
    sandbox.write("in/b_planeX.npz", &second.npz());
    let manifest = sandbox.prepared("out", &["--only", "test"]);
    let report = &manifest["preparation"]["duplicates"];
    assert_eq!((report["images"].as_u64(), report["repeated_rows"].as_u64()), (Some(56), Some(7)));
    assert_eq!(report["conflicting_images"], 1);
    let pairs: Vec<_> = report["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            let text = |key: &str| p[key].as_str().unwrap().to_owned();
            format!(
                "{} {} {} {} {}",
                text("split"),
                text("class"),
                text("also_in"),
                text("as_class"),
                p["rows"]
            )
        })
        .collect();
    assert_eq!(
        pairs,
        [
            "test background test background 3",
            "test background test main_track 1",
            "test main_track test background 1",
            "test main_track test main_track 2",
        ]
    );
}

#[test]
fn the_planes_of_an_event_land_in_the_same_split_when_prepared_alone() {
    let sandbox = Sandbox::new();
    for (plane, code) in [("U", 0.0), ("X", 2.0)] {
        for number in 0..4 {
            let mut clusters = Clusters::new(60, number + if plane == "U" { 10 } else { 0 });
            clusters.metadata.iter_mut().for_each(|row| row[12] = code);
            sandbox.write(&format!("in/{number}_plane{plane}.npz"), &clusters.npz());
        }
    }
    let home = |plane: &str| {
        sandbox.prepared(plane, &["--plane", plane]);
        let mut home = BTreeMap::new();
        for (split, rows) in all_rows(&sandbox, plane) {
            for row in rows {
                home.insert((row.source.replace(&format!("plane{plane}"), ""), row.event), split);
            }
        }
        home
    };
    assert_eq!(home("U"), home("X"));
}

#[test]
fn balancing_is_exact_and_independent_of_file_names_order() {
    for (method, scope) in
        [("undersample", "train"), ("oversample", "train"), ("undersample", "all"), ("oversample", "all")]
    {
        let sandbox = production();
        let manifest = sandbox.prepared("out", &["--balance", method, "--balance-scope", scope]);
        for (split, rows) in all_rows(&sandbox, "out") {
            let main = rows.iter().filter(|row| row.is_main_track).count();
            let mix = &manifest["preparation"]["class_mix"][split.name()];
            assert_eq!(manifest["splits"][split.name()]["main_tracks"], main);
            let before = (
                mix["without_repeats"]["rows"].as_u64().unwrap(),
                mix["without_repeats"]["main_tracks"].as_u64().unwrap(),
            );
            if split == Split::Train || scope == "all" {
                assert_eq!(main * 2, rows.len(), "{method} {split}");
                let wanted = if method == "undersample" { before.1 } else { before.0 - before.1 };
                assert_eq!(main as u64, wanted);
            } else {
                assert_eq!((rows.len() as u64, main as u64), before);
            }
            if method == "oversample" {
                let copies: Vec<_> = rows
                    .chunk_by(|a, b| (&a.source, a.number) == (&b.source, b.number))
                    .filter(|c| c[0].is_main_track)
                    .map(<[_]>::len)
                    .collect();
                let (least, most) = (copies.iter().min(), copies.iter().max());
                assert!(copies.is_empty() || most.unwrap() - least.unwrap() <= 1, "{copies:?}");
            }
        }
    }
}

#[test]
fn the_bytes_depend_neither_on_threads_nor_on_the_order_of_folders() {
    let sandbox = production();
    sandbox.prepared("one", &["--threads", "1", "--balance", "undersample"]);
    sandbox.prepared("four", &["--threads", "4", "--balance", "undersample"]);
    assert_eq!(tree(&sandbox.path("one")), tree(&sandbox.path("four")));

    fs::create_dir(sandbox.path("a")).unwrap();
    sandbox.write("b/prod_9_planeX.npz", &Clusters::new(50, 9).npz());
    sandbox.write("a/prod_8_planeX.npz", &Clusters::new(50, 8).npz());
    for (output, inputs) in [("ab", ["a", "b"]), ("ba", ["b", "a"])] {
        let mut command = sandbox.command();
        command.args(["--config", "config.json", "--output", output, "--only", "test"]);
        command.args(["--input", inputs[0], "--input", inputs[1]]).assert().success();
    }
    assert_eq!(tree(&sandbox.path("ab")), tree(&sandbox.path("ba")));
}

#[test]
fn folders_of_one_name_are_told_apart_by_their_parents() {
    let sandbox = Sandbox::new();
    sandbox.write("es/X/1.npz", &Clusters::new(20, 1).npz());
    sandbox.write("cc/X/1.npz", &Clusters::new(20, 2).npz());
    let mut command = sandbox.command();
    command.args([
        "--config",
        "config.json",
        "--output",
        "out",
        "--only",
        "test",
        "--input",
        "es/X",
        "--input",
        "cc/X",
    ]);
    command.assert().success();
    let sources: BTreeSet<_> = rows(&sandbox, "out", Split::Test).into_iter().map(|row| row.source).collect();
    assert_eq!(Vec::from_iter(sources), ["cc/X/1.npz", "es/X/1.npz"]);
}

#[test]
fn the_configs_folders_and_keys_count() {
    let sandbox = production();
    let config = br#"{"plane": "X", "data_directories": ["in"], "dataset_parameters": {"balance_data": true,
        "train_fraction": 0.5, "val_fraction": 0.5, "test_fraction": 0.0, "random_seed": 7, "max_samples": 350}}"#;
    sandbox.write("sub.json", config);
    let output = sandbox
        .command()
        .args(["--config", "sub.json", "--output", "out", "--duplicates", "keep"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let manifest = sandbox.manifest("out");
    assert_eq!(manifest["seed"], 7);
    assert!(manifest["splits"].get("test").is_none());
    assert!(!sandbox.path("out/test").exists());
    let mix = &manifest["preparation"]["class_mix"];
    let rows = |split: &str| mix[split]["chosen"]["rows"].as_u64().unwrap();
    assert_eq!(rows("train") + rows("validation"), 350);
    assert_eq!(
        manifest["splits"]["train"]["rows"].as_u64(),
        manifest["splits"]["train"]["main_tracks"].as_u64().map(|n| 2 * n)
    );
}

#[test]
fn max_samples_takes_whole_files_and_cuts_the_last() {
    let sandbox = production();
    let manifest =
        sandbox.prepared("out", &["--max-samples", "250", "--duplicates", "keep", "--only", "train"]);
    let files = &manifest["preparation"]["files"];
    assert_eq!((files["used"].as_u64(), files["cut"].as_u64()), (Some(3), Some(50)));
    let mut counts = BTreeMap::new();
    for row in rows(&sandbox, "out", Split::Train) {
        *counts.entry(row.source).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [50, 100, 100]);
}

#[test]
fn max_samples_reads_the_rows_of_no_more_files_than_it_needs() {
    let sandbox = Sandbox::new();
    for number in 0..80 {
        sandbox.write(&format!("in/prod_{number}_planeX.npz"), &Clusters::new(10, number).npz());
    }
    let output = sandbox.prepare("out", &["--max-samples", "25", "--phase", "scan"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let scan = fs::read(sandbox.path("out.partial/scan-0000-of-0001.json")).unwrap();
    let scan: serde_json::Value = serde_json::from_slice(&scan).unwrap();
    let files = scan["files"].as_array().unwrap();
    let count = |key: &str| files.iter().filter(|file| !file[key].is_null()).count();
    assert_eq!((files.len(), count("probe"), count("records_at")), (80, 3, 3));
    let records = fs::metadata(sandbox.path("out.partial/scan-0000-of-0001.rows")).unwrap();
    assert_eq!(records.len(), 30 * 37);
}

#[test]
fn max_samples_makes_up_for_files_that_turn_out_bad() {
    let sandbox = production();
    // All files but one fail their CRC check, which shows only when the images are read.
    for number in 1..=4 {
        let mut bytes = Clusters::new(100, number).npz();
        bytes[7000] ^= 1;
        sandbox.write(&format!("in/prod_{number}_planeX.npz"), &bytes);
    }
    for duplicates in ["keep", "held-out"] {
        let manifest = sandbox
            .prepared(duplicates, &["--max-samples", "150", "--duplicates", duplicates, "--only", "train"]);
        assert_eq!(manifest["splits"]["train"]["rows"], 150);
    }
}

#[test]
fn a_finished_folder_is_up_to_date_and_another_commands_is_not_touched() {
    let sandbox = production();
    sandbox.prepared("out", &[]);
    let before = tree(&sandbox.path("out"));
    let again = sandbox.prepare("out", &[]);
    assert!(stdout(&again).starts_with("up to date: out ("), "{}", stdout(&again));
    let other = sandbox.prepare("out", &["--balance", "undersample"]);
    assert_eq!(other.status.code(), Some(1));
    let message = "error: `OUT` holds the result of another command: `balance` is \"none\", asked for is \"undersample\"; \
                   replace it with `--overwrite`\n";
    let output = std::path::absolute(sandbox.path("out")).unwrap();
    assert_eq!(stderr(&other), message.replace("OUT", &output.display().to_string()));
    assert_eq!(tree(&sandbox.path("out")), before);

    sandbox.prepared("out", &["--balance", "undersample", "--overwrite"]);
    assert_ne!(tree(&sandbox.path("out")), before);
    assert!(!sandbox.path("out.partial").exists());

    sandbox.write("in/prod_2_planeX.npz", &Clusters::new(100, 22).npz());
    let changed = sandbox.prepare("out", &["--balance", "undersample"]);
    assert!(stderr(&changed).contains("the input files differ"), "{}", stderr(&changed));
}

#[test]
fn what_is_no_split_folder_is_never_replaced() {
    let sandbox = production();
    sandbox.write("out/thesis.tex", b"three years of work");
    let output = sandbox.prepare("out", &["--overwrite"]);
    assert_eq!(output.status.code(), Some(1));
    let path = std::path::absolute(sandbox.path("out")).unwrap();
    assert_eq!(
        stderr(&output),
        format!("error: `{}` is there and no split folder; give another `--output`\n", path.display())
    );
    assert!(sandbox.path("out/thesis.tex").exists());
}

#[test]
fn shards_give_the_same_rows_as_one_job() {
    for more in
        [vec![], vec!["--balance", "oversample"], vec!["--max-samples", "330", "--duplicates", "drop"]]
    {
        let sandbox = production();
        let whole = sandbox.prepared("whole", &more);
        let expected = all_rows(&sandbox, "whole");
        for (scans, writes) in [(1, 1), (3, 3), (7, 7), (2, 5)] {
            let output = format!("out{scans}-{writes}");
            let phase = |phase: &str, shard: String| {
                let mut flags = more.clone();
                flags.extend(["--phase", phase, "--shard", &shard]);
                let result = sandbox.prepare(&output, &flags);
                assert!(result.status.success(), "{}", stderr(&result));
            };
            (0..scans).rev().for_each(|i| phase("scan", format!("{i}/{scans}")));
            phase("plan", "0/1".to_owned());
            (0..writes).rev().for_each(|i| phase("write", format!("{i}/{writes}")));
            assert_eq!(all_rows(&sandbox, &output), expected, "{scans} {writes}");
            let manifest = sandbox.manifest(&output);
            assert_eq!(manifest["digest"], whole["digest"]);
            assert_eq!(manifest["preparation"], whole["preparation"]);
        }
    }
}

#[test]
fn phases_out_of_order_name_what_is_missing() {
    let sandbox = production();
    let missing = |output: &std::process::Output, path: &str| {
        let path = std::path::absolute(sandbox.path(path)).unwrap();
        (output.status.code(), stderr(output).replace(&path.display().to_string(), "PATH"))
    };
    let plan = sandbox.prepare("out", &["--phase", "plan"]);
    let message = "error: phase scan has not run: `PATH` is missing\n".to_owned();
    assert_eq!(missing(&plan, "out.partial/scan-0000-of-0001.json"), (Some(1), message));
    sandbox.prepare("out", &["--phase", "scan", "--shard", "1/3"]);
    let plan = sandbox.prepare("out", &["--phase", "plan"]);
    let message = "error: shard 0/3 of phase scan has not run: `PATH` is missing\n".to_owned();
    assert_eq!(missing(&plan, "out.partial/scan-0000-of-0003.json"), (Some(1), message));
    let write = sandbox.prepare("out", &["--phase", "write"]);
    let message = "error: phase plan has not run: `PATH` is missing\n".to_owned();
    assert_eq!(missing(&write, "out.partial/plan.json"), (Some(1), message));
    let other = sandbox.prepare("out", &["--phase", "scan", "--shard", "0/3", "--split-by", "file"]);
    let message =
        "error: `PATH` was begun by another command: `split_by` is \"event\", asked for is \"file\"; \
                   finish that, or start again with `--overwrite`\n"
            .to_owned();
    assert_eq!(missing(&other, "out.partial"), (Some(1), message));
}

#[test]
fn a_test_set_alone_leaves_out_what_an_earlier_training_saw() {
    let sandbox = production();
    sandbox.prepared("old", &[]);
    let mut new = Clusters::new(60, 77);
    new.images[..30].clone_from_slice(&Clusters::new(100, 2).images[..30]);
    sandbox.write("new/prod_planeX.npz", &new.npz());
    let seen: BTreeSet<_> = [Split::Train, Split::Validation]
        .into_iter()
        .flat_map(|split| rows(&sandbox, "old", split))
        .filter(|row| row.source == "in/prod_2_planeX.npz" && row.number < 30)
        .map(|row| row.number)
        .collect();
    assert!(!seen.is_empty() && seen.len() < 30);
    let run = |output: &str, more: &[&str]| {
        let mut command = sandbox.command();
        command.args(["--config", "config.json", "--input", "new", "--only", "test", "--against", "old"]);
        command.args(["--output", output]).args(more).assert().success();
        (rows(&sandbox, output, Split::Test), sandbox.manifest(output))
    };
    let (left, manifest) = run("new-test", &[]);
    assert!(left.iter().all(|row| !seen.contains(&row.number)));
    assert_eq!(left.len(), 60 - seen.len());
    assert_eq!(manifest["preparation"]["duplicates"]["left_out"]["test"], seen.len());
    assert_eq!(manifest["splits"].as_object().map(serde_json::Map::len), Some(1));
    let (kept, manifest) = run("new-all", &["--duplicates", "keep"]);
    assert_eq!(kept.len(), 60);
    let pairs = manifest["preparation"]["duplicates"]["pairs"].as_array().unwrap().clone();
    let reported: u64 = pairs
        .iter()
        .filter(|p| p["also_in"] == "earlier_training")
        .map(|p| p["rows"].as_u64().unwrap())
        .sum();
    assert_eq!(reported as usize, seen.len());
}

#[test]
fn an_event_simulated_twice_is_reported() {
    let sandbox = Sandbox::new();
    let first = Clusters::new(50, 1);
    let mut second = Clusters::new(50, 2);
    for row in [7, 14] {
        second.metadata[row] = first.metadata[row].clone(); // the same event and position, another image
    }
    sandbox.write("in/a_planeX.npz", &first.npz());
    sandbox.write("in/b_planeX.npz", &second.npz());
    let manifest = sandbox.prepared("out", &["--only", "test"]);
    let collisions = &manifest["preparation"]["event_collisions"];
    assert_eq!((collisions["positions"].as_u64(), collisions["rows"].as_u64()), (Some(2), Some(4)));
}

#[test]
fn layouts_without_events_are_split_as_whole_files_and_it_says_so() {
    let sandbox = Sandbox::new();
    for number in 0..30 {
        let mut clusters = Clusters::new(10, number);
        for row in &mut clusters.metadata {
            *row = row[1..13].to_vec();
        }
        sandbox.write(&format!("in/{number}_planeX.npz"), &clusters.npz());
    }
    let output = sandbox.prepare("out", &[]);
    assert_eq!(
        stderr(&output),
        " WARN 30 files have no event numbers; each goes into one split as a whole\n"
    );
    assert!(stdout(&output).contains("30 of 30 files used, 30 without event numbers, split as whole files"));
    let mut home = BTreeMap::new();
    for (split, rows) in all_rows(&sandbox, "out") {
        for row in rows {
            assert_eq!(row.event, None);
            assert_eq!(*home.entry(row.source).or_insert(split), split);
        }
    }
}

#[test]
fn large_event_numbers_are_warned_about() {
    let sandbox = Sandbox::new();
    let mut clusters = Clusters::new(10, 1);
    clusters.metadata.iter_mut().for_each(|row| row[0] = 33_554_432.0);
    sandbox.write("in/a_planeX.npz", &clusters.npz());
    let output = sandbox.prepare("out", &["--only", "test"]);
    let message =
        " WARN `in/a_planeX.npz` has event numbers above 2^24, where f32 can't tell neighbours apart\n";
    assert_eq!(stderr(&output), message);
}

#[test]
fn an_empty_split_names_the_remedy() {
    let sandbox = Sandbox::new();
    sandbox.write("in/a_planeX.npz", &Clusters::new(10, 1).npz());
    let output = sandbox.prepare("out", &[]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    let end = " split is empty: 10 clusters are too few to split by event; give more data, other fractions in the \
               config, or `--split-by cluster`\n";
    assert!(message.starts_with("error: the ") && message.ends_with(end), "{message}");
    assert!(!sandbox.path("out").exists());
}

#[test]
fn wrong_usage_exits_with_2_and_a_wrong_config_with_1() {
    let sandbox = production();
    for arguments in [&["--config", "config.json"][..], &["--output", "x"], &["inspect"]] {
        assert_eq!(sandbox.command().args(arguments).output().unwrap().status.code(), Some(2));
    }
    for flags in [["--shard", "0/2"], ["--plane", "W"], ["--only", "exam"], ["--threads", "0"]] {
        assert_eq!(sandbox.prepare("out", &flags).status.code(), Some(2), "{flags:?}");
    }
    let output = sandbox.prepare("out", &["--phase", "scan", "--shard", "3/3"]);
    assert!(stderr(&output).contains("give I/N with I from 0 to N − 1"), "{}", stderr(&output));
    let output = sandbox.prepare("out", &["--plane", "V"]);
    let input = std::path::absolute(sandbox.path("in")).unwrap();
    let message = format!(
        "error: no files of plane V in `{}`; they are named `*_planeV.npz` or lie in a folder `V`\n",
        input.display()
    );
    assert_eq!((output.status.code(), stderr(&output)), (Some(1), message));
}
