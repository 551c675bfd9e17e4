//! Compiled kernels on disk, so that only the first training on a machine waits for the compiler.

use std::path::{Path, PathBuf};

use shared::files;

/// Folder of the cache, as the XDG Base Directory Specification has it; none without a home.
pub(super) fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("mt-identifier"))
}

/// What `compile` makes, from the file in `folder` where an earlier call left it.
///
/// - `name`: beginning of the file's name
/// - `made_from`: everything that decides the outcome: source, options and version of the compiler
///
/// A file that is damaged or can't be written is no error: then the compiler does it again next time.
///
/// # Errors
/// Those of `compile`.
pub(super) fn cached<E>(
    folder: Option<&Path>,
    name: &str,
    made_from: &str,
    compile: impl FnOnce() -> Result<String, E>,
) -> Result<String, E> {
    let Some(folder) = folder else { return compile() };
    let path = folder.join(format!("{name}-{}.ptx", files::digest(made_from.as_bytes())));
    if let Some(code) = read(&path) {
        tracing::debug!("kernels from `{}`", path.display());
        return Ok(code);
    }
    let code = compile()?;
    let text = format!("// {}\n{code}", files::digest(code.as_bytes()));
    if std::fs::create_dir_all(folder).is_err() || files::write_bytes(&path, text.as_bytes()).is_err() {
        tracing::debug!("can't keep the compiled kernels as `{}`", path.display());
    }
    Ok(code)
}

/// The code in a file whose first line has the digest of the rest; none if there is no such file.
fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (first, code) = text.split_once('\n')?;
    let whole = first.strip_prefix("// ")? == files::digest(code.as_bytes());
    whole.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::fs;

    use super::*;

    #[test]
    fn the_compiler_runs_once_for_each_source_and_again_for_a_damaged_file() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("not/yet/there");
        let runs = Cell::new(0);
        let compile = |source: &str| {
            let made = cached::<Infallible>(Some(&folder), "kernels-sm_90", source, || {
                runs.set(runs.get() + 1);
                Ok(format!("code of {source}\nof two lines\n"))
            });
            made.unwrap()
        };
        for times in [1, 1, 1] {
            assert_eq!(compile("a"), "code of a\nof two lines\n");
            assert_eq!(runs.get(), times);
        }
        assert_eq!(compile("b"), "code of b\nof two lines\n");
        assert_eq!(runs.get(), 2, "another source is another file");
        let file = || fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).min().unwrap();
        assert!(file().file_name().unwrap().to_str().unwrap().starts_with("kernels-sm_90-"));
        let whole = fs::read(file()).unwrap();
        for damaged in [&whole[..whole.len() - 3], &whole[..5], b"", b"\xff\xfe", b"// 0\ncode"] {
            fs::write(file(), damaged).unwrap();
            let before = runs.get();
            assert_eq!((compile("a").len(), compile("b").len()), (23, 23));
            assert_eq!(runs.get(), before + 1, "{} bytes are read for whole", damaged.len());
            assert_eq!(fs::read(file()).unwrap(), whole, "the file is whole again");
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "in the way").unwrap();
        for folder in [None, Some(file.as_path())] {
            let made = cached::<Infallible>(folder, "k", "a", || Ok("code".to_owned()));
            assert_eq!(made.unwrap(), "code");
        }
        let failed = cached(Some(home.path()), "k", "a", || Err("no compiler"));
        assert_eq!(failed.unwrap_err(), "no compiler");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing is kept of a failure");
    }
}
