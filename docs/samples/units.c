/*
 * Marks a unit of work around the writes to two files. Compiled with the header alone:
 *
 *     cc -I DIRECTORY_OF_THE_HEADER -o units units.c
 *
 * and run as usual, or captured: counterfoil exec -- ./units
 */
#include <counterfoil.h>
#include <stdio.h>

static int add(const char *path, const char *line) {
    FILE *file = fopen(path, "a");
    if (file == NULL) return -1;
    int failed = fputs(line, file) == EOF;
    /* What is in a buffer isn't in the file yet: flush or close before the end of the unit. */
    return fclose(file) != 0 || failed ? -1 : 0;
}

int main(void) {
    counterfoil_begin();
    if (add("debits.txt", "4711 -100.00\n") != 0 || add("credits.txt", "4712 +100.00\n") != 0) {
        /* Whatever is in the files is published as one unit all the same. */
        counterfoil_abort();
        perror("units");
        return 1;
    }
    counterfoil_commit();
    return 0;
}
