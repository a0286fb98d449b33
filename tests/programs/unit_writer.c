/*
 * Writes each value to several files, as one unit of work, and says where it begins and ends in one of
 * several ways.
 *
 *   unit_writer WAY SLOT ROUNDS THREADS PAUSE_US FILE...
 *
 * WAY is none, api, nested, abort (counterfoil.h), lock, ofd (fcntl on the record in the first file),
 * whole (fcntl on the whole first file), flock (on the first file), second (as whole, and a second
 * descriptor of the first file is opened and closed in between), other (as flock, likewise), lockfile
 * (flock on `units.lock`), fsync or close. ROUNDS is how many values there are; with 0 it goes on until
 * there is a file `../enough`.
 * Each record has 32 bytes, the value in text twice; SLOT is its number, from 1. The halves are written
 * one after the other, and there is a pause before each write but the first. With THREADS above 1 the
 * files are written by that many threads.
 */
#define _GNU_SOURCE
#include <counterfoil.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { RECORD = 32, FILES_MAX = 16 };

static int files, threads, fds[FILES_MAX];
static long slot, value, pause_us;
static char **names;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *write_files(void *argument) {
    char half[RECORD / 2 + 1];
    snprintf(half, sizeof half, "%015ld\n", value);
    for (long file = (long)argument; file < files; file += threads)
        for (int part = 0; part < 2; part++) {
            if (file > 0 || part > 0) usleep(pause_us);
            off_t at = (slot - 1) * RECORD + part * RECORD / 2;
            if (pwrite(fds[file], half, RECORD / 2, at) != RECORD / 2) die(names[file]);
        }
    return NULL;
}

static void lock(int command, short type, off_t start, off_t length) {
    struct flock region = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    if (fcntl(fds[0], command, &region) != 0) die("fcntl");
}

static void begin(const char *way, int lockfile) {
    off_t start = (slot - 1) * RECORD;
    if (!strcmp(way, "api") || !strcmp(way, "abort")) counterfoil_begin();
    else if (!strcmp(way, "nested")) counterfoil_begin(), counterfoil_begin(), counterfoil_commit();
    else if (!strcmp(way, "lock")) lock(F_SETLKW, F_WRLCK, start, RECORD);
    else if (!strcmp(way, "ofd")) lock(F_OFD_SETLKW, F_WRLCK, start, RECORD);
    else if (!strcmp(way, "whole") || !strcmp(way, "second")) lock(F_SETLKW, F_WRLCK, 0, 0);
    else if (!strcmp(way, "flock") || !strcmp(way, "other")) flock(fds[0], LOCK_EX);
    else if (!strcmp(way, "lockfile")) flock(lockfile, LOCK_EX);
    if (!strcmp(way, "other")) {
        // Does not give up what flock gave to the first.
        int second = open(names[0], O_RDWR);
        if (pwrite(second, "x", 1, 1000 * RECORD) != 1) die("second");
        close(second);
    }
}

static void end(const char *way, int lockfile) {
    off_t start = (slot - 1) * RECORD;
    if (!strcmp(way, "api")) counterfoil_commit();
    else if (!strcmp(way, "abort")) counterfoil_abort();
    else if (!strcmp(way, "nested")) counterfoil_begin(), counterfoil_abort(), counterfoil_commit();
    else if (!strcmp(way, "lock")) lock(F_SETLK, F_UNLCK, start, RECORD);
    else if (!strcmp(way, "ofd")) lock(F_OFD_SETLK, F_UNLCK, start, RECORD);
    else if (!strcmp(way, "whole")) lock(F_SETLK, F_UNLCK, 0, 0);
    else if (!strcmp(way, "second")) close(open(names[0], O_RDONLY)); // gives up all locks
    else if (!strcmp(way, "flock") || !strcmp(way, "other")) flock(fds[0], LOCK_UN);
    else if (!strcmp(way, "lockfile")) flock(lockfile, LOCK_UN);
    else if (!strcmp(way, "fsync")) fdatasync(fds[files - 1]);
}

static void open_files(void) {
    for (int file = 0; file < files; file++)
        if ((fds[file] = open(names[file], O_RDWR | O_CREAT, 0644)) < 0) die(names[file]);
}

int main(int count, char **word) {
    if (count < 7) return 2;
    const char *way = word[1];
    slot = atol(word[2]);
    long rounds = atol(word[3]);
    threads = atoi(word[4]);
    pause_us = atol(word[5]);
    names = word + 6;
    files = count - 6;
    if (files > FILES_MAX || threads < 1 || threads > FILES_MAX) return 2;
    int closes = !strcmp(way, "close");
    int lockfile = strcmp(way, "lockfile") ? -1 : open("units.lock", O_RDWR | O_CREAT, 0644);
    if (!closes) open_files();
    for (value = 1; rounds > 0 ? value <= rounds : access("../enough", F_OK) != 0; value++) {
        if (closes) open_files();
        begin(way, lockfile);
        pthread_t others[FILES_MAX];
        for (long i = 1; i < threads; i++) pthread_create(&others[i], NULL, write_files, (void *)i);
        write_files(NULL);
        for (int i = 1; i < threads; i++) pthread_join(others[i], NULL);
        end(way, lockfile);
        if (closes)
            for (int file = 0; file < files; file++) close(fds[file]);
        usleep(pause_us);
    }
    return 0;
}
