/*
 * Preloaded, it shifts the clock on the wall: what asks for the time since 1970 is told so many nanoseconds more or less as the
 * first 8 bytes of the file say that COUNTERFOIL_TEST_CLOCK names (as this machine has numbers). The file is mapped, so writing
 * another number to it is a step of the clock for every process that has it, at once. The monotonic clock is what it is.
 *
 *   cc -shared -fPIC -o shifted_clock.so shifted_clock.c
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SECOND = 1000000000 };

static const volatile long long *shift;

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("COUNTERFOIL_TEST_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) shift = mapped;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result != 0 || !shift || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return result;
    long long ns = time->tv_sec * (long long)SECOND + time->tv_nsec + *shift;
    time->tv_sec = ns / SECOND;
    time->tv_nsec = ns % SECOND;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    *time = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *where) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
