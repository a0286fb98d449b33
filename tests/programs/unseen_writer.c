/*
 * Changes a file in ways that a preloaded library doesn't see, or (as `tick`) in one that it does.
 *
 *   unseen_writer write FILE OFFSET BYTE COUNT          pwrite(2), as a raw system call
 *   unseen_writer stay  FILE OFFSET BYTE COUNT          the same, and keeps the file open until it is killed
 *   unseen_writer uring FILE OFFSET BYTE COUNT          by io_uring
 *   unseen_writer map   FILE OFFSET BYTE COUNT          stores into a shared mapping, msync
 *   unseen_writer keep  FILE OFFSET BYTE COUNT          stores into a shared mapping, kept until it is killed
 *   unseen_writer tick  FILE OFFSET BYTE MILLISECONDS   writes 100 bytes by pwrite again and again, until it is killed
 *   unseen_writer many  DIRECTORY COUNT BYTE BYTES      makes COUNT files N.dat of BYTES bytes
 *   unseen_writer noise DIRECTORY COUNT BYTE BYTES      makes and removes COUNT files N.tmp
 *
 * "ready" is printed when the first change is made.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

static int ready(void) {
    puts("ready");
    return fflush(stdout);
}

/* One write, with the rings mapped by hand: no library is needed. */
static int uring(int fd, const void *bytes, unsigned count, uint64_t offset) {
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    int ring = (int)syscall(SYS_io_uring_setup, 1, &params);
    if (ring < 0) return failed("io_uring_setup");
    size_t sq_bytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
    size_t cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(NULL, sq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *entry = mmap(NULL, params.sq_entries * sizeof *entry, PROT_READ | PROT_WRITE, MAP_SHARED,
                                      ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || entry == MAP_FAILED) return failed("mmap");
    memset(entry, 0, sizeof *entry);
    entry->opcode = IORING_OP_WRITE;
    entry->fd = fd;
    entry->addr = (uint64_t)(uintptr_t)bytes;
    entry->len = count;
    entry->off = offset;
    ((uint32_t *)(void *)(sq + params.sq_off.array))[0] = 0;
    uint32_t *tail = (uint32_t *)(void *)(sq + params.sq_off.tail);
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
        return failed("io_uring_enter");
    uint32_t head = *(uint32_t *)(void *)(cq + params.cq_off.head);
    uint32_t mask = *(uint32_t *)(void *)(cq + params.cq_off.ring_mask);
    struct io_uring_cqe *done = (struct io_uring_cqe *)(void *)(cq + params.cq_off.cqes) + (head & mask);
    if (done->res != (int)count) {
        errno = done->res < 0 ? -done->res : EIO;
        return failed("io_uring write");
    }
    return 0;
}

static int files(const char *directory, long count, const char *bytes, size_t len, int stay) {
    for (long i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%ld.%s", directory, i, stay ? "dat" : "tmp");
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (fd < 0 || syscall(SYS_write, fd, bytes, len) != (long)len) return failed(path);
        close(fd);
        if (!stay && unlink(path)) return failed(path);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: unseen_writer HOW FILE OFFSET BYTE COUNT\n");
        return 2;
    }
    const char *how = argv[1], *path = argv[2];
    off_t offset = atol(argv[3]);
    size_t count = (size_t)atol(argv[5]);
    char *bytes = malloc(count + 100);
    if (!bytes) return failed("malloc");
    memset(bytes, argv[4][0], count + 100);
    if (!strcmp(how, "many") || !strcmp(how, "noise"))
        return files(path, offset, bytes, count, !strcmp(how, "many"));
    int fd = open(path, O_RDWR);
    if (fd < 0) return failed(path);
    if (!strcmp(how, "tick")) {
        for (long i = 0;; i++) {
            memset(bytes, 'a' + (int)(i % 26), 100);
            if (pwrite(fd, bytes, 100, offset) != 100) return failed("pwrite");
            if (i == 0) ready();
            nanosleep(&(struct timespec){(time_t)count / 1000, (long)(count % 1000) * 1000000}, NULL);
        }
    }
    if (!strcmp(how, "uring")) return uring(fd, bytes, (unsigned)count, (uint64_t)offset);
    if (!strcmp(how, "map") || !strcmp(how, "keep")) {
        char *there = mmap(NULL, (size_t)offset + count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (there == MAP_FAILED) return failed("mmap");
        memcpy(there + offset, bytes, count);
        if (!strcmp(how, "keep")) {
            ready();
            pause();
        }
        return msync(there, (size_t)offset + count, MS_SYNC) ? failed("msync") : 0;
    }
    if (syscall(SYS_pwrite64, fd, bytes, count, offset) != (long)count) return failed("pwrite");
    if (!strcmp(how, "stay")) {
        ready();
        pause();
    }
    return close(fd) ? failed("close") : 0;
}
