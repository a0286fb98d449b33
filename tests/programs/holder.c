/*
 * Keeps a file open for writing until it is killed.
 *
 *   holder FILE open     opens it and writes nothing until SIGUSR1 comes; then one line for each signal
 *   holder FILE map      maps it shared and writable, and closes the descriptor
 *   holder FILE churn    writes a mebibyte to its beginning again and again
 *
 * Says "ready" when it has it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, PAGE = 4096 };

static char block[BLOCK];

int main(int argc, char **argv) {
    sigset_t wanted;
    int number;
    if (argc < 3) {
        fprintf(stderr, "usage: holder FILE open|map|churn\n");
        return 2;
    }
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    int fd = open(argv[1], O_RDWR | O_CREAT, 0666);
    if (fd < 0) {
        perror(argv[1]);
        return 1;
    }
    if (strcmp(argv[2], "map") == 0) {
        char *mapped;
        if (ftruncate(fd, PAGE) != 0) return 1;
        mapped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED || close(fd) != 0) return 1;
    }
    if (write(STDOUT_FILENO, "ready\n", 6) != 6) return 1;
    for (char turn = 'a'; strcmp(argv[2], "churn") == 0; turn = turn == 'z' ? 'a' : (char)(turn + 1)) {
        memset(block, turn, BLOCK);
        if (pwrite(fd, block, BLOCK, 0) != BLOCK) return 1;
    }
    while (sigwait(&wanted, &number) == 0) {
        lseek(fd, 0, SEEK_END);
        if (write(fd, "one line more\n", 14) != 14) return 1;
    }
    return 0;
}
