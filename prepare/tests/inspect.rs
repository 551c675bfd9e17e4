//! `prepare inspect` on files, folders and splits.

mod support;

use support::{Clusters, Sandbox, stderr, stdout};

fn inspect(sandbox: &Sandbox, arguments: &[&str]) -> std::process::Output {
    sandbox.command().arg("inspect").args(arguments).output().expect("the binary runs")
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let first = Clusters::new(20, 1);
    let mut second = Clusters::new(10, 2);
    second.images[3].clone_from(&first.images[5]);
    second.images[4][0] = f32::NAN;
    sandbox.write("in/a_planeX.npz", &first.npz());
    sandbox.write("in/b_planeX.npz", &second.deflated());
    sandbox.write("in/c_planeX.npz", b"");
    sandbox
}

#[test]
fn a_folder_of_files_becomes_a_table() {
    let output = inspect(&sandbox(), &["in"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let lines: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[0], "in: 3 NPZ files, 1 not usable");
    assert!(
        lines[1].starts_with("file plane rows images packed columns main marley ES dropped repeated energy")
    );
    assert!(lines[2].starts_with("a_planeX.npz X 20 128 × 16 <f4 stored 14 3 3 0 0 1 "), "{}", lines[2]);
    assert!(lines[3].starts_with("b_planeX.npz X 10 128 × 16 <f4 deflated 14 2 2 0 1 1 "), "{}", lines[3]);
    assert!(lines[4].starts_with("all 30 "), "{}", lines[4]);
    assert_eq!(lines[5], "not usable: c_planeX.npz: it is empty (0 bytes)");
}

#[test]
fn a_split_folder_becomes_its_summary_and_a_table() {
    let sandbox = sandbox();
    sandbox.prepared("out", &["--only", "test"]);
    for path in ["out", "out/test"] {
        let output = inspect(&sandbox, &[path]);
        let text = stdout(&output);
        assert!(
            text.starts_with("out (29 clusters of plane X, 128 × 16)\n  test "),
            "{text}{}",
            stderr(&output)
        );
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last[..6], ["test", "1", "29", "5", "5", "0"], "{text}");
    }
}

#[test]
fn one_cluster_is_drawn_from_file_and_split_alike() {
    let sandbox = sandbox();
    sandbox.prepared("out", &["--only", "test"]);
    let file = stdout(&inspect(&sandbox, &["in/a_planeX.npz", "--row", "7"]));
    let split = stdout(&inspect(&sandbox, &["out", "--row", "7", "--source", "in/a_planeX.npz"]));
    assert!(file.starts_with("in/a_planeX.npz row 7, event 0: main track, "), "{file}");
    assert!(split.starts_with("test: in/a_planeX.npz row 7: main track, "), "{split}");
    let picture = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(picture(&file), picture(&split));
    let lines = picture(&file);
    assert_eq!(lines.len(), 16 + 3);
    let drawn: usize =
        lines[1..17].iter().map(|line| line.chars().filter(|c| !" │".contains(*c)).count()).sum();
    assert_eq!(drawn, 20, "one character for each occupied pixel");

    let unnamed = inspect(&sandbox, &["out", "--row", "7"]);
    let message = "error: `out` has 2 clusters in row 7 of its sources; say which source with `--source NAME`, such as `in/a_planeX.npz`\n";
    assert_eq!((unnamed.status.code(), stderr(&unnamed)), (Some(1), message.to_owned()));
    let beyond = inspect(&sandbox, &["in/a_planeX.npz", "--row", "20"]);
    assert_eq!(stderr(&beyond), "error: `in/a_planeX.npz` has no row 20 that could be drawn\n");
}

#[test]
fn a_png_has_the_pixels_in_their_places() {
    let sandbox = sandbox();
    let output = inspect(&sandbox, &["in/a_planeX.npz", "--row", "0", "--png", "picture.png"]);
    assert!(
        stdout(&output).starts_with("wrote picture.png: in/a_planeX.npz row 0, event 0: main track, "),
        "{}",
        stderr(&output)
    );
    let png = std::fs::read(sandbox.path("picture.png")).unwrap();
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    assert_eq!(png[16..24], [0, 0, 3, 0, 0, 0, 0, 96]); // 768 × 96
    let length = u32::from_be_bytes(png[33..37].try_into().unwrap()) as usize;
    let mut pixels = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(&png[41..41 + length]);
    std::io::Read::read_to_end(&mut decoder, &mut pixels).unwrap();
    assert_eq!(pixels.len(), 96 * 769);
    let bright = pixels.iter().filter(|&&pixel| pixel > 0).count();
    assert_eq!(bright, 20 * 36);
}
