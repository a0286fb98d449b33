//! Whether a captured process is still there. When in doubt it is: taking a live one for dead would lose what it writes.

use counterfoil_lane::reader::Writer;
use std::collections::HashSet;
use std::fs;

/// Inode of the host's first process id namespace (`PROC_PID_INIT_INO` of the kernel): from there all others are seen.
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The processes of other namespaces that this one can see, as of a moment.
pub(super) struct Processes {
    own: u64,
    others: Option<HashSet<(u64, u32, u64)>>,
}

impl Processes {
    /// As of now; others are looked for only if they are asked about.
    pub(super) fn now() -> Processes {
        Processes {
            own: namespace("self"),
            others: None,
        }
    }

    /// Whether the process that writes a lane may be alive.
    pub(super) fn may_live(&mut self, writer: &Writer) -> bool {
        // An interposer that could not find out its namespace is taken to share ours.
        if writer.pid_namespace == 0 || writer.pid_namespace == self.own || self.own == 0 {
            return is_alive(writer.pid, writer.pid_started);
        }
        let others = self.others.get_or_insert_with(visible);
        // From a namespace within another, not being seen means nothing.
        others.contains(&(writer.pid_namespace, writer.pid, writer.pid_started))
            || self.own != FIRST_NAMESPACE
    }
}

/// Whether the process that started then is still there, with any of its threads.
fn is_alive(pid: u32, started: u64) -> bool {
    let Some((state, start)) = stat(&format!("/proc/{pid}/stat")) else {
        return false;
    };
    // A process that can't see /proc doesn't know when it started.
    if start != started && started != 0 {
        return false;
    }
    if !matches!(state, 'Z' | 'X') {
        return true;
    }
    // The first thread may have ended before the others.
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| stat(thread.path().join("stat").to_str()?))
        .any(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// The process that a lane says it is of, if it can be looked at: user ids and groups that it has.
pub(super) fn credentials(writer: &Writer) -> Option<(Vec<u32>, Vec<u32>)> {
    let is_here = writer.pid_namespace == 0 || writer.pid_namespace == namespace("self");
    if !is_here || !is_alive(writer.pid, writer.pid_started) {
        return None;
    }
    let status = fs::read(format!("/proc/{}/status", writer.pid)).ok()?;
    // It may have ended since, and its number be another's.
    if !is_alive(writer.pid, writer.pid_started) {
        return None;
    }
    let status = String::from_utf8_lossy(&status);
    let ids = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let ids = line.unwrap_or_default().split_ascii_whitespace();
        ids.filter_map(|id| id.parse().ok()).collect()
    };
    Some((ids("Uid:"), [ids("Gid:"), ids("Groups:")].concat()))
}

/// What /proc says of a process.
pub(super) struct Process {
    /// Field 22 of its `stat`.
    pub(super) started: u64,
    /// Inode of its id namespace, 0 when not known.
    pub(super) namespace: u64,
    /// Its id in that namespace.
    pub(super) inner: u32,
    /// Its parent.
    pub(super) parent: u32,
    /// Name of the program.
    pub(super) program: String,
}

/// Looks at the process with this id. `None` when there is none.
pub(super) fn look_at(pid: u32) -> Option<Process> {
    let (_, started) = stat(&format!("/proc/{pid}/stat"))?;
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("", str::trim)
    };
    let inner = line("NSpid:").split_ascii_whitespace().next_back();
    Some(Process {
        started,
        namespace: namespace(&pid.to_string()),
        inner: inner.and_then(|inner| inner.parse().ok()).unwrap_or(pid),
        parent: line("PPid:").parse().unwrap_or(0),
        program: line("Name:").to_owned(),
    })
}

/// State and start time in a `stat` file of /proc.
fn stat(path: &str) -> Option<(char, u64)> {
    // A program's name may be any bytes.
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    // Behind the name in parentheses, which may hold anything, come state (field 3) and so on.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// When a process started, in clock ticks since boot.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    stat(&format!("/proc/{pid}/stat")).map(|(_, started)| started)
}

/// Whether a process is a thread of the kernel's.
pub(crate) fn is_kernel_thread(pid: u32) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(')')
        .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(6)?.parse::<u64>().ok())
        .is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// How a process is known in its own namespace, as its lanes speak of it: namespace, id within it, start time.
pub fn identity(pid: u32) -> Option<(u64, u32, u64)> {
    let started = start_of(pid)?;
    // A program's name need not be text.
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    // The last of these is its id in its own namespace.
    let innermost = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .and_then(|ids| ids.split_ascii_whitespace().next_back()?.parse().ok());
    Some((namespace(&pid.to_string()), innermost?, started))
}

/// Inode of a process's id namespace, 0 when it can't be found out.
pub(super) fn namespace(process: &str) -> u64 {
    let link = fs::read_link(format!("/proc/{process}/ns/pid")).unwrap_or_default();
    let text = link.to_string_lossy();
    text.strip_prefix("pid:[")
        .and_then(|rest| rest.strip_suffix(']'))
        .and_then(|inode| inode.parse().ok())
        .unwrap_or(0)
}

/// All visible processes: namespace, id within it, start time.
fn visible() -> HashSet<(u64, u32, u64)> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| identity(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_a_later_one_of_its_number_is_another() {
        let pid = std::process::id();
        let (_, started) = stat("/proc/self/stat").unwrap();
        assert!(is_alive(pid, started));
        assert!(!is_alive(pid, started + 1));
        let own = look_at(pid).unwrap();
        assert_eq!((own.started, own.inner), (started, pid));
        assert_eq!(own.namespace, namespace("self"));
        assert!(visible().contains(&(namespace("self"), pid, started)));
    }
}
