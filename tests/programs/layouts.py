"""Writes files with blocks, with a file header, and with quotes; a second run lets them grow and rewrites them in place."""
import os
import struct
import sys

directory, count = sys.argv[1], int(sys.argv[2])


def open_file(name):
    return os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT, 0o644)


def at_end(fd, data):
    os.lseek(fd, 0, os.SEEK_END)
    # In two writes, so that what is there in between is half of a record.
    cut = len(data) // 2
    os.write(fd, data[:cut])
    os.write(fd, data[cut:])


def rdw(data):
    return struct.pack(">HH", len(data) + 4, 0) + data


def block(records):
    content = b"".join(map(rdw, records))
    return struct.pack(">HH", len(content) + 4, 0) + content


def blocked(name):
    fd = open_file(name)
    is_new = os.fstat(fd).st_size == 0
    for n in range(count):
        records = [b"record %06d.%d %s" % (n, part, b"x" * (n % 50)) for part in range(1 + n % 5)]
        at_end(fd, block(records))
    if not is_new:
        # A record's content; then the records of a block become one.
        os.pwrite(fd, b"REWRITE", 8)
        block_at = 0
        for _ in range(4):
            block_at += struct.unpack(">H", os.pread(fd, 2, block_at))[0]
        size = struct.unpack(">H", os.pread(fd, 2, block_at))[0]
        os.pwrite(fd, block([b"m" * (size - 8)]), block_at)
        os.ftruncate(fd, os.fstat(fd).st_size - 7)
    os.close(fd)


def micro_focus(name):
    fd = open_file(name)
    is_new = os.fstat(fd).st_size == 0
    if is_new:
        header = bytearray(128)
        header[0:4] = b"\x30\x7e\x00\x00"
        header[36:38] = b"\x00\x3e"
        header[39] = 1
        header[48] = 1
        header[54:58] = struct.pack(">I", 100)
        os.write(fd, bytes(header))
    for n in range(count):
        data = b"record %06d %s" % (n, b"y" * (n % 80))
        record = struct.pack(">H", 0x4000 | len(data)) + data
        at_end(fd, record + b" " * (-len(record) % 4))
    if not is_new:
        os.pwrite(fd, b"REWRITE", 130)
        # The second record is deleted, and the header's time is another.
        first = struct.unpack(">H", os.pread(fd, 2, 128))[0] & 0x0FFF
        second = 128 + (2 + first + 3) // 4 * 4
        os.pwrite(fd, bytes([0x20 | os.pread(fd, 1, second)[0] & 0x0F]), second)
        os.pwrite(fd, b"26112300000000", 8)
    os.close(fd)


def quoted(name):
    fd = open_file(name)
    is_new = os.fstat(fd).st_size == 0
    if is_new:
        os.write(fd, b"number,text\r\n")
    for n in range(count):
        at_end(fd, b'%06d,"line one\nline ""two"" of %d",end\n' % (n, n))
    if not is_new:
        # A quote that was ended isn't any more, and is again; a newline in quotes becomes a space.
        place = os.pread(fd, 200, 0).index(b'"')
        os.pwrite(fd, b"?", place)
        os.pwrite(fd, b'"', place)
        os.pwrite(fd, b" ", os.pread(fd, 200, 0).index(b"one\n") + 3)
    os.close(fd)


blocked("blocked.dat")
micro_focus("micro.dat")
quoted("quoted.csv")
