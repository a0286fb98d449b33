"""Keeps a fixed-length ledger, a text report and a block file, by every usual Python way to write.

    python3 ledger.py DIR ROUNDS [SEED]

ledger.dat   fixed, 64-byte records: os.pwrite, file objects with seek, os.writev, truncate
report.txt   text lines through buffered text I/O, replaced now and then by way of a rename
image.bin    blocks of 512 bytes: unbuffered binary I/O
"""

import os
import random
import sys

RECORD = 64
BLOCK = 512


def record(number: int, value: int) -> bytes:
    return f"{number:010d}{value:020d}".encode().ljust(RECORD)


def main() -> None:
    directory, rounds = sys.argv[1], int(sys.argv[2])
    chance = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    ledger = os.path.join(directory, "ledger.dat")
    report = os.path.join(directory, "report.txt")
    image = os.path.join(directory, "image.bin")

    descriptor = os.open(ledger, os.O_RDWR | os.O_CREAT, 0o644)
    records = os.fstat(descriptor).st_size // RECORD
    with open(image, "ab", buffering=0) as blocks, open(report, "a", encoding="ascii") as lines:
        for turn in range(rounds):
            what = chance.randrange(6)
            if what == 0 or records == 0:
                os.lseek(descriptor, 0, os.SEEK_END)
                os.writev(descriptor, [record(records + 1, turn), record(records + 2, turn)])
                records += 2
            elif what == 1:
                number = chance.randrange(records)
                os.pwrite(descriptor, record(number + 1, turn), number * RECORD)
            elif what == 2:
                with open(ledger, "r+b") as other:
                    number = chance.randrange(records)
                    other.seek(number * RECORD + 10)
                    other.write(f"{turn:020d}".encode())
            elif what == 3 and records > 20:
                records -= 2
                os.truncate(ledger, records * RECORD)
            elif what == 4:
                blocks.write(bytes([1 + turn % 255]) * BLOCK)
            else:
                print(f"turn {turn}: {records} records", file=lines)
    os.close(descriptor)

    # Text written to a new file that takes the old one's place, as editors and report writers do.
    fresh = report + ".new"
    with open(fresh, "w", encoding="ascii") as lines:
        lines.write("report\n")
        with open(report, encoding="ascii") as old:
            for line in list(old)[-50:]:
                lines.write(line)
    os.replace(fresh, report)


main()
