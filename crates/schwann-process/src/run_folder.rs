//! A folder of the host that a program wrote to: how much it holds, and how it
//! is removed, whatever the program did to be in the way of that.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::{CStr, CString},
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, chmodat, fstat,
        major, minor, openat, openat2, renameat_with, statat, unlinkat,
    },
    io::Errno,
};
use tracing::warn;

use crate::watchdog::Who;

/// Most entries of a folder that are looked at; one that has more is too large.
pub(crate) const MOST_ENTRIES: usize = 20_000;

/// Most steps in which a folder is removed, so that whoever still writes to it
/// cannot make this go on for ever.
const MOST_STEPS: usize = 10_000_000;

/// A folder of one run, which is removed when this is dropped. That blocks.
#[derive(Debug)]
pub(crate) struct RunFolder(PathBuf);

impl RunFolder {
    pub(crate) fn make() -> io::Result<Self> {
        let made = tempfile::Builder::new().prefix("schwann-run-").tempdir()?;
        Ok(Self(made.keep()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if let Err(error) = remove_run_folder(&self.0) {
            warn!(path = %self.0.display(), %error, "a run's folder is left behind");
        }
    }
}

/// Whether a folder holds more than so many bytes on disk, files that were
/// removed and are still in use among them. Links are not followed. What
/// cannot be looked into could hold anything, and counts as too much.
pub(crate) fn is_larger(folder: &Path, most: u64, who: Option<Who>) -> bool {
    let Ok(root) = open_folder(CWD, folder) else { return false };
    let Ok(device) = fstat(&root).map(|stat| stat.st_dev) else { return false };
    let mut bytes = 0;
    let mut entries = 0;
    let mut folders = vec![PathBuf::from(".")];
    while let Some(folder) = folders.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let opened = match openat2(&root, &folder, flags, Mode::empty(), resolve) {
            Ok(opened) => opened,
            // Gone, or something else, in the meantime.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::AGAIN) => {
                continue;
            }
            // Too deep for a path, or closed to us.
            Err(_) => return true,
        };
        let Ok(listed) = Dir::read_from(&opened) else { return true };
        for entry in listed.flatten().filter(|entry| !is_dots(entry.file_name())) {
            entries += 1;
            if let Ok(stat) = statat(&opened, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                bytes += stat.st_blocks.unsigned_abs() * 512;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    folders.push(folder.join(as_path(entry.file_name())));
                }
            }
            if bytes > most || entries > MOST_ENTRIES {
                return true;
            }
        }
    }
    who.is_some_and(|who| bytes + removed(who, device) > most)
}

/// Bytes on this device of files that have no name any more, and are open or
/// mapped. What is on its way in a socket is not found.
fn removed(who: Who, device: u64) -> u64 {
    let mut files: HashMap<u64, u64> = HashMap::new();
    for pid in who.all() {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        // The link leads to the file itself, which need not have a name.
        for file in open.filter_map(|entry| fs::metadata(entry.path()).ok()) {
            if file.is_file() && file.nlink() == 0 && file.dev() == device {
                files.insert(file.ino(), file.blocks() * 512);
            }
        }
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let name = format!("{:02x}:{:02x}", major(device), minor(device));
        for line in maps.lines().filter(|line| line.ends_with(" (deleted)")) {
            // proc_pid_maps(5): addresses, permissions, offset, device, inode, path.
            let mut fields = line.split_ascii_whitespace();
            let (Some(range), Some(on), Some(Ok(inode))) =
                (fields.next(), fields.nth(2), fields.next().map(str::parse))
            else {
                continue;
            };
            let ends = range.split_once('-').map(|(from, to)| {
                [from, to].map(|end| u64::from_str_radix(end, 16).unwrap_or_default())
            });
            if let (Some([from, to]), true) = (ends, on == name)
                && let Entry::Vacant(file) = files.entry(inode)
            {
                file.insert(to.saturating_sub(from));
            }
        }
    }
    files.values().sum()
}

/// Removes a folder and all that a program left in it: deeper than any path
/// can name, closed to everybody, or in great number. Nothing outside of it is
/// touched, whatever links there are. Blocks.
///
/// # Errors
///
/// Fails if it cannot be removed, or if somebody goes on filling it.
pub fn remove_run_folder(folder: &Path) -> io::Result<()> {
    let root = match open_folder(CWD, folder) {
        // A link in its place, or a file.
        Err(Errno::LOOP | Errno::NOTDIR) => return fs::remove_file(folder),
        // Without the right to read what is one's own.
        Err(Errno::ACCESS) => {
            chmodat(CWD, folder, Mode::RWXU, AtFlags::empty())?;
            open_folder(CWD, folder)?
        }
        opened => opened?,
    };
    let mut steps = 0;
    let mut moved = 0_u64;
    // Folders come up to the root one level at a time, so that nothing is ever
    // deep: neither a path, nor a stack, nor a pile of open descriptors.
    loop {
        let names = names(&root)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            let is_folder = match unlinkat(&root, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => false,
                Err(Errno::ISDIR | Errno::PERM) => true,
                Err(error) => return Err(error.into()),
            };
            if is_folder {
                steps += raise(&root, &name, &mut moved)?;
            }
            steps += 1;
            if steps > MOST_STEPS {
                return Err(io::Error::other("somebody goes on filling it"));
            }
        }
    }
    drop(root);
    fs::remove_dir(folder)
}

/// Empties a folder, moving the folders in it up to the root, and removes it.
fn raise(root: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<usize> {
    let folder = match open_folder(root, name) {
        Err(Errno::ACCESS) => {
            chmodat(root, name, Mode::RWXU, AtFlags::empty())?;
            open_folder(root, name)?
        }
        opened => opened?,
    };
    let names = names(&folder)?;
    for below in &names {
        match unlinkat(&folder, below, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            // Without the right to write to what is one's own.
            Err(Errno::ACCESS) => {
                chmodat(root, name, Mode::RWXU, AtFlags::empty())?;
                if unlinkat(&folder, below, AtFlags::empty()).is_ok() {
                    continue;
                }
            }
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            *moved += 1;
            let free = CString::new(format!("removed-{moved}")).expect("no null in it");
            match renameat_with(&folder, below, root, &free, RenameFlags::NOREPLACE) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                // A folder must be writable for its `..` to change.
                Err(Errno::ACCESS) => {
                    chmodat(&folder, below, Mode::RWXU, AtFlags::empty())?;
                    renameat_with(&folder, below, root, &free, RenameFlags::NOREPLACE)?;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    match unlinkat(root, name, AtFlags::REMOVEDIR) {
        // Somebody was faster than we are; it is met again in the next round.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(names.len()),
        Err(error) => Err(error.into()),
    }
}

fn open_folder(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    // Of its own place in the folder, which it is read from the beginning.
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !is_dots(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn as_path(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::mkdirat;

    use super::*;

    /// A folder within a folder, so many times.
    fn dig(folder: &Path, levels: usize) -> OwnedFd {
        let mut at = open_folder(CWD, folder).unwrap();
        for _ in 0..levels {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_folder(&at, "d").unwrap();
        }
        at
    }

    #[test]
    fn what_is_too_deep_to_be_named_is_too_large_and_can_be_removed() {
        let folder = tempfile::tempdir().unwrap().keep();
        assert!(!is_larger(&folder, 1 << 30, None));
        dig(&folder, 2100);
        assert!(is_larger(&folder, 1 << 30, None));
        remove_run_folder(&folder).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn what_is_closed_is_removed_and_what_links_lead_to_is_not() {
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("kept"), "kept").unwrap();
        let folder = tempfile::tempdir().unwrap().keep();
        symlink(other.path(), folder.join("link")).unwrap();
        fs::create_dir_all(folder.join("a/removed-1/b")).unwrap();
        fs::create_dir(folder.join("removed-1")).unwrap();
        fs::write(folder.join("a/removed-1/b/file"), "x").unwrap();
        symlink("/", folder.join("a/removed-1/root")).unwrap();
        for closed in ["a/removed-1/b", "a/removed-1", "a"] {
            fs::set_permissions(folder.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_run_folder(&folder).unwrap();
        assert!(!folder.exists());
        symlink(other.path(), &folder).unwrap();
        remove_run_folder(&folder).unwrap();
        assert!(folder.symlink_metadata().is_err(), "the link is there");
        assert_eq!(fs::read_to_string(other.path().join("kept")).unwrap(), "kept");
    }

    #[test]
    fn files_without_a_name_count_while_they_are_open_or_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let who = Some(Who::Descendants(rustix::process::getpid()));
        assert!(is_larger(folder.path(), 1 << 19, who));
        let open = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(is_larger(folder.path(), 1 << 19, who), "it is open");
        assert!(!is_larger(folder.path(), 1 << 21, who));
        drop(open);
        assert!(!is_larger(folder.path(), 1 << 19, who), "it is gone");
    }
}
