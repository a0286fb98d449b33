/*
 * An ordinary program's mix of file work on a scratch file, timed from within: it is opened, 64 KiB
 * are written, parts overwritten, all is read back, and it is closed; then a report of 500 lines is
 * appended through stdio and read again; then it is removed.
 *
 *   scratch_user FILE ROUNDS
 *
 * Prints one number: nanoseconds per round.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void round_of_work(const char *path) {
    char block[1024];
    struct stat status;
    memset(block, 'x', sizeof block);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) fail(path);
    for (int i = 0; i < 64; i++)
        if (write(fd, block, sizeof block) != sizeof block) fail("write");
    for (int i = 0; i < 32; i++)
        if (pwrite(fd, block, 100, i * 700) != 100) fail("pwrite");
    if (lseek(fd, 0, SEEK_SET) != 0) fail("lseek");
    while (read(fd, block, sizeof block) > 0) {}
    if (fstat(fd, &status) != 0) fail("fstat");
    close(fd);
    FILE *text = fopen(path, "a+");
    if (!text) fail(path);
    for (int i = 0; i < 500; i++) fprintf(text, "line %d of a report that nobody mirrors\n", i);
    rewind(text);
    while (fgets(block, sizeof block, text)) {}
    fclose(text);
    unlink(path);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: scratch_user FILE ROUNDS\n");
        return 2;
    }
    long rounds = atol(argv[2]);
    struct timespec begin, end;
    for (long i = 0; i < rounds / 10 + 1; i++) round_of_work(argv[1]);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0; i < rounds; i++) round_of_work(argv[1]);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.1f\n", ((double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec)) / (double)rounds);
    return 0;
}
