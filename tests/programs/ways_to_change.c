/*
 * Changes files of 100-byte records in the ways that have no write call for it, or that bring a file to its name late.
 *
 *   ways_to_change WAY
 *
 *   map      makes mapped.dat with 50 records, changes some through a mapping, and ends that
 *   msync    the same with msync in between, and is killed then
 *   link     writes outside.tmp, links it to linked.dat, writes on through the old descriptor, and removes the old name
 *   relink   links linked.dat to relinked.dat and unlinks the former, writing all the while
 *   tmpfile  makes a nameless file, writes to it, gives it the name tmpfile.dat, and writes on
 *   punch    makes punched.dat: a file of more than 4 GiB with holes, then punches, zeroes and collapses ranges
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RECORD_BYTES = 100, RECORDS = 50 };

#define CHECK(what)                                                                          \
    do {                                                                                     \
        if (!(what)) {                                                                       \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, strerror(errno));          \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

static void put(int fd, int first, int count, char letter) {
    char record[RECORD_BYTES];
    memset(record, letter, sizeof record);
    for (int i = first; i < first + count; i++)
        CHECK(pwrite(fd, record, sizeof record, (off_t)i * RECORD_BYTES) == RECORD_BYTES);
}

static void map(int is_killed) {
    size_t length = RECORD_BYTES * RECORDS;
    int fd = open("mapped.dat", O_RDWR | O_CREAT, 0644);
    CHECK(fd >= 0);
    put(fd, 0, RECORDS, 'a');
    char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED && close(fd) == 0);
    memset(at + 3 * RECORD_BYTES, 'b', 2 * RECORD_BYTES);
    if (is_killed) {
        CHECK(msync(at, length, MS_SYNC) == 0);
        memset(at + 20 * RECORD_BYTES, 'c', RECORD_BYTES);
        raise(SIGKILL);
    }
    memset(at + 20 * RECORD_BYTES, 'c', RECORD_BYTES);
    CHECK(munmap(at, length) == 0);
}

static void link_in(void) {
    int fd = open("outside.tmp", O_WRONLY | O_CREAT, 0644);
    CHECK(fd >= 0);
    put(fd, 0, 20, 'a');
    CHECK(link("outside.tmp", "linked.dat") == 0);
    put(fd, 10, 20, 'b');
    CHECK(unlink("outside.tmp") == 0);
    put(fd, 25, 10, 'c');
}

static void relink(void) {
    int fd = open("linked.dat", O_WRONLY | O_CREAT, 0644);
    CHECK(fd >= 0);
    put(fd, 0, 20, 'd');
    CHECK(link("linked.dat", "relinked.dat") == 0);
    put(fd, 5, 1, 'e');
    CHECK(unlink("linked.dat") == 0);
    put(fd, 6, 1, 'f');
}

static void nameless(void) {
    char path[64];
    int fd = open(".", O_TMPFILE | O_RDWR, 0644);
    CHECK(fd >= 0);
    put(fd, 0, 20, 'a');
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "tmpfile.dat", AT_SYMLINK_FOLLOW) == 0);
    put(fd, 10, 20, 'b');
}

static void punch(void) {
    off_t far = 5LL << 30;
    int fd = open("punched.dat", O_RDWR | O_CREAT, 0644);
    CHECK(fd >= 0);
    put(fd, 0, 5000, 'a');
    CHECK(pwrite(fd, "far", 3, far) == 3);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192) == 0 || errno == EOPNOTSUPP);
    CHECK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 20480, 4096) == 0 || errno == EOPNOTSUPP);
    CHECK(ftruncate(fd, 409600) == 0);
    CHECK(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096) == 0 || errno == EOPNOTSUPP || errno == EINVAL);
    CHECK(fallocate(fd, FALLOC_FL_INSERT_RANGE, 8192, 4096) == 0 || errno == EOPNOTSUPP || errno == EINVAL);
    CHECK(posix_fallocate(fd, 500000, 4096) == 0);
    put(fd, 4100, 3, 'b');
}

int main(int count, char **arguments) {
    const char *way = count == 2 ? arguments[1] : "";
    if (strcmp(way, "map") == 0) map(0);
    else if (strcmp(way, "msync") == 0) map(1);
    else if (strcmp(way, "link") == 0) link_in();
    else if (strcmp(way, "relink") == 0) relink();
    else if (strcmp(way, "tmpfile") == 0) nameless();
    else if (strcmp(way, "punch") == 0) punch();
    else return 2;
    return 0;
}
