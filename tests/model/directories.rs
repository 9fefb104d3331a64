//! Directories that are open, and read a few names at a time while what is in them changes.
//!
//! 1. What was there all the time is shown, once; what was never there is not; of all else POSIX says nothing (readdir(3)):
//!    [`OpenDirectory::note`].
//! 2. What the kernel is told to believe for a while is so: it would not ask again ([`Reference::is_believed_wrongly`]).
//! 3. A directory that was removed or has moved: nothing is asked of who still reads it but to come to an end.

use super::operation::{HandleId, Shown};
use super::reference::{Reference, is_below};
use pailfs::tree::node::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// What somebody who reads a directory may and must see.
#[derive(Clone)]
pub struct OpenDirectory {
    /// `None`: it is not there any more.
    path: Option<String>,
    /// There since it was opened, or read from the beginning.
    always: BTreeMap<String, Kind>,
    /// There at some time since then.
    ever: BTreeSet<String>,
    shown: BTreeSet<String>,
}

impl OpenDirectory {
    fn new(path: &str, children: BTreeMap<String, Kind>) -> Self {
        Self {
            path: Some(path.to_owned()),
            ever: children.keys().cloned().collect(),
            always: children,
            shown: BTreeSet::new(),
        }
    }

    /// Takes note of what is in it now; `None`: it is gone.
    fn follow(&mut self, children: Option<BTreeMap<String, Kind>>) {
        let Some(children) = children else {
            self.path = None;
            return;
        };
        self.always.retain(|name, kind| children.get(name) == Some(kind));
        self.ever.extend(children.into_keys());
    }

    /// These were shown next; none: it was shown to its end. Says what is wrong with that.
    fn note(&mut self, entries: &[Shown]) -> Result<(), String> {
        if self.path.is_none() {
            return Ok(());
        }
        for Shown { name, kind, .. } in entries {
            if !self.ever.contains(name) {
                return Err(format!("{name:?} was not there"));
            }
            let is_again = !self.shown.insert(name.clone());
            match self.always.get(name) {
                Some(_) if is_again => return Err(format!("{name:?} is shown again")),
                Some(right) if right != kind => {
                    return Err(format!("{name:?} is a {right:?}, not a {kind:?}"));
                }
                _ => {}
            }
        }
        let missing = self.always.keys().find(|name| !self.shown.contains(*name));
        match missing {
            Some(name) if entries.is_empty() => Err(format!("{name:?} was not shown")),
            _ => Ok(()),
        }
    }
}

impl Reference {
    pub fn open_directory(&mut self, machine: usize, handle: HandleId, path: &str) -> Result<(), i32> {
        match self.find(machine, path)? {
            Kind::Directory => {}
            _ => return Err(libc::ENOTDIR),
        }
        let open = OpenDirectory::new(path, self.children(machine, path));
        self.directories_mut(machine).insert(handle, open);
        Ok(())
    }

    /// After anything has changed.
    pub fn follow_directories(&mut self) {
        for machine in 0..self.machines() {
            for (handle, mut open) in self.directories(machine).clone() {
                let Some(path) = &open.path else { continue };
                let is_there = self.kind(machine, path) == Some(Kind::Directory);
                let children = is_there.then(|| self.children(machine, path));
                open.follow(children);
                self.directories_mut(machine).insert(handle, open);
            }
        }
    }

    /// A directory has moved, and with it those below; what took its place is another one.
    pub fn leave_directories(&mut self, from: &str, to: &str) {
        for machine in 0..self.machines() {
            for open in self.directories_mut(machine).values_mut() {
                let is_at =
                    |path: &String| path == from || path == to || is_below(path, from) || is_below(path, to);
                if open
                    .path
                    .as_ref()
                    .is_some_and(|path| !path.is_empty() && is_at(path))
                {
                    open.path = None;
                }
            }
        }
    }

    /// Says what is wrong with what was read of an open directory, from its beginning or where it was.
    pub fn note_entries(
        &mut self,
        machine: usize,
        handle: HandleId,
        from_the_beginning: bool,
        entries: Result<&[Shown], i32>,
    ) -> Result<(), String> {
        // The reference may have been replaced by one that follows the bucket.
        self.follow_directories();
        let Some(mut open) = self.directories_mut(machine).remove(&handle) else {
            return Err("it is not open".to_owned());
        };
        if from_the_beginning && let Some(path) = &open.path {
            open = OpenDirectory::new(path, self.children(machine, path));
        }
        let believed_wrongly = |path: &String| {
            let mut shown = entries.iter().flat_map(|entries| entries.iter());
            shown.find(|shown| self.is_believed_wrongly(machine, path, shown))
        };
        let noted = match entries {
            Ok(_) if let Some(shown) = open.path.as_ref().and_then(believed_wrongly) => {
                Err(format!("{shown:?} is not so, and would be believed"))
            }
            Ok(entries) => open.note(entries),
            Err(_) if open.path.is_none() => Ok(()),
            Err(errno) => Err(super::simulation::errno_name(errno)),
        };
        self.directories_mut(machine).insert(handle, open);
        noted
    }

    fn is_believed_wrongly(&self, machine: usize, directory: &str, shown: &Shown) -> bool {
        let path = if directory.is_empty() {
            shown.name.clone()
        } else {
            format!("{directory}/{}", shown.name)
        };
        let Some(believed_bytes) = shown.believed_bytes else {
            return false;
        };
        if self.is_haunted(machine, &path) || self.is_implied(machine, &path) {
            return false;
        }
        let is_right = self.kind(machine, &path) == Some(shown.kind)
            && (shown.kind != Kind::File
                || self
                    .bytes(machine, &path)
                    .is_some_and(|bytes| bytes.len() == believed_bytes));
        !is_right
    }
}
