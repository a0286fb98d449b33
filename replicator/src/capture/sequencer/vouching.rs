//! Who may say what: programs of other users than the replicator's own tell of their files, and of no others.
//!
//! A lane belongs to the user who made its file, as the kernel says. Whoever may make lanes may write anything into them by
//! hand, so what a lane of another user says of a file that this user may not write isn't taken at its word: the file is
//! compared. That happens to honest programs too, when they were given a descriptor by somebody who may write the file; it
//! costs a comparison, and nothing is wrong for it. The same goes for a lane that says it is of a process which is another
//! user's; that is told, too.

use super::*;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

impl Sequencer {
    /// Looks at lanes that were found just now: whether their processes are their users'.
    pub(super) fn look_at_new_lanes(&mut self, known: usize) {
        let own = self.own_user;
        for lane in self.lanes.lanes.iter_mut().skip(known) {
            let writer = &lane.writer;
            if writer.owner == 0 || writer.owner == own {
                continue;
            }
            let Some((users, _)) = processes::credentials(writer) else {
                continue;
            };
            if !users.contains(&writer.owner) {
                lane.is_forged = true;
                let name = String::from_utf8_lossy(&writer.program);
                self.complaints.push(format!(
                    "user {} writes a lane in the name of process {} ({:?}), which is user {}'s: what it tells of is compared with \
                     the files; find out who does that, or leave programs of that user out of site.lanes_access",
                    writer.owner,
                    writer.pid,
                    name.trim_end_matches('\0'),
                    users.first().copied().unwrap_or_default()
                ));
            }
        }
        if self.lanes.lanes.len() > known && !self.complaints.is_empty() {
            self.progress.set_problems("lanes", &self.complaints);
        }
    }

    /// Whether a frame is to be taken at its word.
    pub(super) fn is_vouched(&mut self, at: usize, frame: &Queued) -> bool {
        let own = self.own_user;
        let lane = &self.lanes.lanes[at];
        let writer = lane.writer;
        if lane.is_forged {
            return false;
        }
        if writer.owner == 0 || writer.owner == own {
            return true;
        }
        let Some(name) = lane.names.get(&frame.name) else {
            return true;
        };
        let moves = matches!(frame.kind, Kind::Rename | Kind::Link);
        if let Some(is_vouched) = name.is_vouched
            && !moves
        {
            return is_vouched;
        }
        let identity = (name.device, name.inode);
        let is_it = |path: &[u8]| {
            let there = std::fs::metadata(OsStr::from_bytes(path)).ok()?;
            ((there.dev(), there.ino()) == identity).then_some(there)
        };
        // Whoever may not write to a directory can't have put a file there.
        let moved = match frame.kind {
            Kind::Rename => split_rename(lane.data(frame)).map(|(_, to)| to.to_vec()),
            Kind::Link => Some(lane.data(frame).to_vec()),
            _ => None,
        };
        let there = if moves {
            moved.as_deref().and_then(is_it)
        } else {
            let known = self.files.at_inode(identity.0, identity.1);
            let known = known.and_then(|file| self.files.files[file].path.as_deref());
            is_it(&name.path).or_else(|| known.and_then(is_it))
        };
        let is_vouched = there.is_some_and(|there| may_write(&writer, &there));
        if !moves && let Some(name) = self.lanes.lanes[at].names.get_mut(&frame.name) {
            name.is_vouched = Some(is_vouched);
        }
        is_vouched
    }

    /// Has everything compared that a frame speaks of.
    pub(super) fn compare_instead(&mut self, lane: usize, frame: &Queued) {
        self.progress.rereads.count(Reason::Unvouched);
        let lane = &self.lanes.lanes[lane];
        let data = lane.data(frame);
        let mut paths: Vec<&[u8]> = Vec::new();
        paths.extend(lane.names.get(&frame.name).map(|name| &*name.path));
        match frame.kind {
            Kind::Rename => {
                let (from, to) = split_rename(data).unwrap_or_default();
                paths.extend([from, to]);
            }
            Kind::Link | Kind::Unlink => paths.push(data),
            _ => {}
        }
        let mut captured: Vec<Arc<[u8]>> = Vec::new();
        for path in paths {
            let path = self.files.configured(path);
            if self.files.group_of(&path).is_some() {
                captured.push(path.as_ref().into());
            }
            captured.extend(self.files.below(&path).map(|(path, _)| Arc::clone(path)));
        }
        captured.sort_unstable();
        captured.dedup();
        for path in captured {
            self.tasks.ask(Task::Check { path });
        }
    }
}

/// Whether a lane's user may write to a file.
fn may_write(writer: &Writer, file: &Metadata) -> bool {
    // Its owner may change the permissions, so what they are now says nothing.
    if file.uid() == writer.owner || file.mode() & 0o002 != 0 {
        return true;
    }
    file.mode() & 0o020 != 0
        && processes::credentials(writer).is_some_and(|(users, groups)| {
            users.contains(&writer.owner) && groups.contains(&file.gid())
        })
}
