//! Files whose own format is known and isn't records: they are mirrored as blocks.

/// What a file with this beginning is, if it says so.
pub(super) fn kind(head: &[u8]) -> Option<&'static str> {
    const MAGICS: [(usize, &[u8], &str); 12] = [
        (0, b"\x7fELF", "a program or library (ELF)"),
        (0, b"SQLite format 3\0", "an SQLite database"),
        (0, b"\x1f\x8b", "compressed (gzip)"),
        (0, b"\x28\xb5\x2f\xfd", "compressed (zstd)"),
        (0, b"\xfd7zXZ\0", "compressed (xz)"),
        (0, b"PK\x03\x04", "an archive (zip)"),
        (0, b"\x89PNG\r\n", "a picture (PNG)"),
        (0, b"\xff\xd8\xff", "a picture (JPEG)"),
        (0, b"%PDF-", "a document (PDF)"),
        (257, b"ustar", "an archive (tar)"),
        // GnuCOBOL INDEXED files: the magic of a B-tree page in both byte orders.
        (
            12,
            b"\x62\x31\x05\x00",
            "a Berkeley DB file, such as a GnuCOBOL INDEXED one",
        ),
        (
            12,
            b"\x00\x05\x31\x62",
            "a Berkeley DB file, such as a GnuCOBOL INDEXED one",
        ),
    ];
    MAGICS
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|from| from.starts_with(magic)))
        .map(|(_, _, what)| *what)
}
