"""Changes files in the ways that Python programs have, one way a run.

    ways.py WAY     in the working directory, with `old.dat` of 10,000 bytes there

Exit 0: done. Exit 1: something failed, with a traceback. Exit 2: there is no such way.
"""

import mmap
import os
import pathlib
import shutil
import sys
import tempfile
import threading

TEXT = b"The quick brown fox jumps over the lazy dog\n"


def open_text():
    with open("f.dat", "w") as out:
        for i in range(2000):
            print("line", i, file=out)
    with open("f.dat", "a") as out:
        out.writelines(f"more {i}\n" for i in range(100))


def open_unbuffered():
    with open("f.dat", "wb", buffering=0) as out:
        for _ in range(100):
            out.write(TEXT)


def open_update():
    with open("old.dat", "r+b") as file:
        file.seek(5000)
        file.write(TEXT)
        file.seek(100)
        file.read(10)
        file.write(TEXT)
        file.truncate(7000)


def os_write():
    fd = os.open("f.dat", os.O_RDWR | os.O_CREAT)
    os.write(fd, TEXT)
    os.pwrite(fd, TEXT, 1000)
    os.writev(fd, [b"one,", b"two,"])
    os.pwritev(fd, [b"three,", b"four"], 500)
    os.ftruncate(fd, 3000)
    os.posix_fallocate(fd, 0, 5000)
    os.fsync(fd)
    os.close(fd)


def os_sendfile():
    source, target = os.open("old.dat", os.O_RDONLY), os.open("f.dat", os.O_WRONLY | os.O_CREAT)
    assert os.sendfile(target, source, 0, 4000) == 4000
    assert os.copy_file_range(source, target, 4000, 0, 5000) == 4000
    os.close(target)


def os_truncate():
    os.truncate("old.dat", 1234)


def mapped():
    with open("old.dat", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[4000 : 4000 + len(TEXT)] = TEXT
        memory.flush()
        memory[100:104] = b"more"


def mapped_resize():
    with open("old.dat", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory.resize(20000)
        memory[19000 : 19000 + len(TEXT)] = TEXT


def copyfile():
    shutil.copyfile("old.dat", "f.dat")


def copy2():
    shutil.copy2("old.dat", "f.dat")


def copyfileobj():
    with open("old.dat", "rb") as source, open("f.dat", "wb") as target:
        shutil.copyfileobj(source, target)


def move():
    shutil.move("old.dat", "f.dat")


def replace():
    with tempfile.NamedTemporaryFile("wb", dir=".", delete=False) as out:
        out.write(TEXT)
        out.flush()
        os.fsync(out.fileno())
    os.replace(out.name, "old.dat")


def path_write():
    pathlib.Path("f.dat").write_text("all of it\n" * 100)
    pathlib.Path("g.dat").write_bytes(TEXT)
    pathlib.Path("g.dat").rename("h.dat")
    pathlib.Path("old.dat").unlink()


def threads():
    out = open("sorted.dat", "ab", buffering=0)

    def work(who):
        for i in range(50):
            out.write(b"thread %5d, record %9d;\n" % (who, i))

    workers = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def at_exit():
    global kept
    kept = open("f.dat", "w")
    kept.write("not closed, nor flushed\n")


def child():
    with open("f.dat", "wb", buffering=0) as out:
        out.write(TEXT)
        assert os.spawnlp(os.P_WAIT, "true", "true") == 0
        import subprocess

        subprocess.run(["echo", "from a child"], stdout=out, check=True)
        out.write(TEXT)


way = globals().get(sys.argv[1])
if not callable(way):
    sys.exit(2)
way()
