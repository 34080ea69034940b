//! The account that Postgres runs under.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, User, chown};
use tempfile::TempDir;

/// Where root keeps clusters whose own folder the other account cannot reach.
const FALLBACK: &str = "/var/lib/private-postgres";

/// The account that Postgres runs under: the caller's own, or another one where the caller is root.
#[derive(Debug)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
    foreign: bool,
}

impl Account {
    /// The caller's account; for root `postgres`, else `nobody`.
    pub fn choose() -> Result<Self> {
        let own = Uid::effective();
        if !own.is_root() {
            let name = User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |user| user.name);
            return Ok(Self { name, uid: own, gid: Gid::effective(), foreign: false });
        }
        let found = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user =
            found.context("Postgres does not run as root, and there is neither an account `postgres` nor `nobody`")?;
        Ok(Self { name: user.name, uid: user.uid, gid: user.gid, foreign: true })
    }

    /// Makes a command run under this account, away from folders that it may not enter.
    pub fn run(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt;
        command.current_dir("/").env("LC_ALL", "C");
        if self.foreign {
            command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
        }
    }

    /// Gives a folder to this account and shuts everybody else out.
    pub fn own(&self, folder: &Path) -> Result<()> {
        let context = || format!("cannot give {} to `{}`", folder.display(), self.name);
        if self.foreign {
            chown(folder, Some(self.uid), Some(self.gid)).with_context(context)?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).with_context(context)
    }

    /// `folder`, or where this account cannot get there, a folder of the same name below [`FALLBACK`].
    pub fn reachable(&self, folder: &Path) -> Result<PathBuf> {
        let Some(closed) = self.closed_ancestor(folder) else {
            return Ok(folder.to_owned());
        };
        if !self.foreign {
            bail!("`{}` may not enter {}; choose another folder", self.name, closed.display());
        }
        let parent = Path::new(FALLBACK);
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.with_context(|| {
            format!(
                "`{}`, which has to run Postgres, may not enter {}, and {FALLBACK} cannot be made",
                self.name,
                closed.display()
            )
        })?;
        let name = folder.to_string_lossy().trim_start_matches('/').replace('/', "-");
        let elsewhere = parent.join(name);
        follow(folder, &elsewhere)?;
        Ok(elsewhere)
    }

    /// The first existing folder above `folder` that this account may not pass through.
    fn closed_ancestor<'a>(&self, folder: &'a Path) -> Option<&'a Path> {
        let mut above: Vec<_> = folder.ancestors().skip(1).collect();
        above.reverse();
        above.into_iter().find(|ancestor| fs::metadata(ancestor).is_ok_and(|m| !self.may_enter(&m)))
    }

    fn may_enter(&self, folder: &fs::Metadata) -> bool {
        let bit = if folder.uid() == self.uid.as_raw() {
            0o100
        } else if folder.gid() == self.gid.as_raw() {
            0o010
        } else {
            0o001
        };
        self.uid.is_root() || folder.mode() & bit != 0
    }

    /// A temporary folder of this account, in the system's place for them.
    pub fn temporary_folder(&self, prefix: &str) -> Result<TempDir> {
        let system = env::temp_dir();
        let place = if self.closed_ancestor(&system.join("x")).is_none() { system } else { "/tmp".into() };
        self.temporary_folder_in(&place, prefix)
    }

    /// A temporary folder of this account in `place`.
    pub fn temporary_folder_in(&self, place: &Path, prefix: &str) -> Result<TempDir> {
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(place);
        let folder = made.with_context(|| format!("cannot make a folder in {}", place.display()))?;
        self.own(folder.path())?;
        Ok(folder)
    }
}

/// Ties a cluster that lies elsewhere to the folder that was asked for: where someone has removed that folder, the cluster
/// goes as well, as it would have gone with it.
fn follow(folder: &Path, elsewhere: &Path) -> Result<()> {
    if !folder.exists() && elsewhere.exists() {
        drop(crate::lock(elsewhere)?);
        fs::remove_dir_all(elsewhere).with_context(|| format!("cannot remove {}", elsewhere.display()))?;
    }
    let note = folder.join("README");
    let text = format!("The database lies in {}.\n", elsewhere.display());
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&note, text));
    written.with_context(|| format!("cannot make {}", note.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger() -> Account {
        let id = 64_999;
        Account { name: "stranger".into(), uid: Uid::from_raw(id), gid: Gid::from_raw(id), foreign: false }
    }

    #[test]
    fn a_folder_behind_a_closed_one_is_refused_by_the_closed_ones_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let error = stranger().reachable(&folder.path().join("a/b")).unwrap_err();
        assert!(error.to_string().contains(&format!("may not enter {};", folder.path().display())), "{error}");
    }

    #[test]
    fn a_cluster_that_lies_elsewhere_goes_with_the_folder_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (asked, elsewhere) = (folder.path().join("asked"), folder.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("old"), "").unwrap();
        follow(&asked, &elsewhere).unwrap();
        assert!(!elsewhere.exists(), "nothing was asked for yet, so this is another folder's leftover");
        fs::create_dir(&elsewhere).unwrap();
        follow(&asked, &elsewhere).unwrap();
        assert!(elsewhere.exists() && asked.join("README").exists());
    }

    #[test]
    fn a_folder_behind_open_ones_is_taken_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let asked = folder.path().join("not-there-yet");
        assert_eq!(stranger().reachable(&asked).unwrap(), asked);
    }
}
