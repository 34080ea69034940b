//! The machine's Postgres binaries.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Where Debian and its relatives keep each major version.
const VERSIONED: &str = "/usr/lib/postgresql";
const HOW_TO_INSTALL: &str = "Postgres is not installed: neither on PATH nor under /usr/lib/postgresql are there \
    `initdb` and `postgres`; install the package `postgresql` (Debian, Ubuntu: apt-get install postgresql)";

/// A folder with `initdb` and `postgres`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    major: u32,
}

impl Binaries {
    /// The binaries on PATH, else the newest installed; those of version `major` where a cluster needs them.
    pub fn find(major: Option<u32>) -> Result<Self> {
        Self::choose(installed()?, major)
    }

    fn choose(mut installed: Vec<Self>, major: Option<u32>) -> Result<Self> {
        if installed.is_empty() {
            bail!(HOW_TO_INSTALL);
        }
        let Some(major) = major else {
            return Ok(installed.swap_remove(0));
        };
        let found = installed.iter().find(|b| b.major == major).cloned();
        found.with_context(|| {
            format!(
                "the cluster was made by Postgres {major}, which is not installed; install it, or remove the folder"
            )
        })
    }

    /// The path of one of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// All there are: those of PATH first, then the newest first.
fn installed() -> Result<Vec<Binaries>> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = env::split_paths(&path).collect();
    let mut versioned: Vec<_> =
        Path::new(VERSIONED).read_dir().into_iter().flatten().flatten().map(|e| e.path()).collect();
    versioned.sort_by_key(|folder| std::cmp::Reverse(folder.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok())));
    folders.extend(versioned.into_iter().map(|folder| folder.join("bin")));
    folders.retain(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file()));
    folders.into_iter().map(|folder| Ok(Binaries { major: major_of(&folder)?, folder })).collect()
}

/// Asks `postgres --version`: `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major_of(folder: &Path) -> Result<u32> {
    let program = folder.join("postgres");
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{} tells no version: `{}`", program.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binaries(major: u32) -> Binaries {
        Binaries { folder: format!("/pg/{major}").into(), major }
    }

    #[test]
    fn a_machine_without_postgres_is_told_the_package() {
        let error = Binaries::choose(Vec::new(), None).unwrap_err();
        assert!(error.to_string().contains("apt-get install postgresql"), "{error}");
    }

    #[test]
    fn a_cluster_keeps_its_major_version() {
        let installed = vec![binaries(17), binaries(15)];
        assert_eq!(Binaries::choose(installed.clone(), None).unwrap(), binaries(17));
        assert_eq!(Binaries::choose(installed.clone(), Some(15)).unwrap(), binaries(15));
        let error = Binaries::choose(installed, Some(13)).unwrap_err();
        assert!(error.to_string().contains("made by Postgres 13"), "{error}");
    }

    #[test]
    fn the_installed_binaries_tell_their_version() {
        assert!(Binaries::find(None).unwrap().major >= 13);
    }
}
