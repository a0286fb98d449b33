"""Prints tables.rs: python3 tables.py | rustfmt --edition 2024 > tables.rs

The source is glibc's iconv; python's own codecs are not used (cp273 differs from IBM's and glibc's in byte BC).
"""

import subprocess

print("//! EBCDIC code pages, byte to Unicode, made from glibc's iconv by `tables.py` beside this file. Don't edit.")
for page in "037", "273", "500", "1047", "1140":
    text = subprocess.run(
        ["iconv", "-f", "IBM" + page, "-t", "UTF-16BE"], input=bytes(range(256)), capture_output=True, check=True
    ).stdout
    units = ["0x%04X," % int.from_bytes(text[at : at + 2], "big") for at in range(0, 512, 2)]
    print("\n/// `iconv -f IBM%s`.\n#[rustfmt::skip]\npub(super) const CP%s: [u16; 256] = [" % (page, page))
    for row in range(0, 256, 16):
        print("    " + " ".join(units[row : row + 16]))
    print("];")
