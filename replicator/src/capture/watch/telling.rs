//! File systems on which the kernel isn't told of every change: other machines, or programs behind the kernel's back,
//! change their files too.

use std::path::Path;

/// By the number that `statfs` says.
const SILENT: [(u32, &str); 16] = [
    (0x6969, "nfs"),
    (0x517B, "smb"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "ceph"),
    (0x5346_414F, "afs"),
    (0x6B41_4653, "kafs"),
    (0x7375_7245, "coda"),
    (0x564C, "ncp"),
    (0x0116_1970, "gfs2"),
    (0x7461_636F, "ocfs2"),
    (0x786F_4256, "vboxsf"),
    (0xBACB_ACBC, "vmhgfs"),
    (0x0BD0_0BD0, "lustre"),
];

/// Whether the file system of a directory tells of every change. When it can't be found out, it is taken not to.
pub(super) fn tells_all(directory: &Path) -> bool {
    let Ok(there) = rustix::fs::statfs(directory) else {
        return false;
    };
    // The numbers are of 32 bits, in a field that some architectures sign.
    let number = there.f_type as u32;
    match SILENT.iter().find(|(silent, _)| *silent == number) {
        Some((_, name)) => {
            tracing::info!(
                "{} is on {name}, which doesn't tell of changes that others make: it is looked through again and again",
                directory.display()
            );
            false
        }
        None => true,
    }
}
