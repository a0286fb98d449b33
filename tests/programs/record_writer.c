/*
 * Writes numbered fixed-length records to the end of a file as fast as it can.
 *
 *   record_writer FILE COUNT [SIZE]
 *
 * SIZE is 100 where not given. Every record starts with its number in ten digits.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: record_writer FILE COUNT [SIZE]\n");
        return 2;
    }
    long count = atol(argv[2]), size = argc > 3 ? atol(argv[3]) : 100;
    char *record = malloc((size_t)size + 16);
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0 || !record || size < 16) {
        perror(argv[1]);
        return 1;
    }
    memset(record, '.', (size_t)size);
    for (long i = 1; i <= count; i++) {
        long rest = i;
        for (int digit = 9; digit >= 0; digit--, rest /= 10) record[digit] = (char)('0' + rest % 10);
        if (write(fd, record, (size_t)size) != size) {
            perror("write");
            return 1;
        }
    }
    return close(fd);
}
