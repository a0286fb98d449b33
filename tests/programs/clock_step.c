/*
 * A library to be preloaded: the wall clock as if somebody had set it. The environment's CLOCK_STEP names a file of eight
 * bytes, the seconds by which the clock is ahead (an integer, its lowest byte first), which may change at any time. The
 * clock that is never set, CLOCK_MONOTONIC, isn't touched.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *step;

__attribute__((constructor)) static void map_step(void) {
    const char *name = getenv("CLOCK_STEP");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) step = mapped;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && step && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += (int64_t)le64toh((uint64_t)*step);
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec time;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0) return -1;
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec present;
    if (clock_gettime(CLOCK_REALTIME, &present) != 0) return -1;
    if (now) *now = present.tv_sec;
    return present.tv_sec;
}
