/*
 * Runs a script of file operations, one system call (or stdio call) a line, and checks that each
 * returns what the script says. What it does to a file is exactly what the script says, so a model
 * of the file can be kept elsewhere.
 *
 *   file_exerciser SCRIPT [FIRST_LINE [PAUSE_US [DONE]]]
 *
 * Descriptors are named by the script, from 100 on, and really have that number, so they outlive
 * the `exec` operation. Bytes are in hexadecimal; `-` is none. A line ends with `= RESULT` where the
 * result is to be checked: what the call returns, or minus errno.
 *
 * DONE is a file whose first 8 bytes are the number of the line that was done last, lowest byte first: who finds the
 * program killed knows what it did, but for the line that followed.
 *
 *   open FD PATH FLAGS      letters: r w b(oth) c(reat) t(runc) a(ppend) x(excl)
 *   creat FD PATH           openat FD PATH FLAGS (relative to the working directory)
 *   close FD                dup FD NEW              dup2 FD NEW            dupfd FD NEW (fcntl)
 *   write FD HEX            pwrite FD OFFSET HEX    lseek FD OFFSET set|cur|end
 *   writev FD HEX HEX       pwritev FD OFFSET HEX HEX
 *   ftruncate FD LENGTH     truncate PATH LENGTH
 *   rename FROM TO          unlink PATH
 *   fsync FD                fdatasync FD
 *   lock FD OFFSET LENGTH   unlock FD OFFSET LENGTH
 *   fork FD HEX             a child writes; the parent waits
 *   vfork-exec FD HEX       a child runs this program to write to the inherited descriptor
 *   thread FD OFFSET HEX    a thread does a pwrite and is joined
 *   stdio PATH MODE HEX HEX fopen, two fwrites with a fflush between, fclose
 *   exec                    this program is executed again and goes on with the next line
 *
 * Exit 0: the whole script ran as it says. Exit 1: an operation returned something else; the line
 * is printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS_MAX = 8, LINE_MAX_BYTES = 1 << 20 };

extern char **environ;

/* Decodes in place; the text is never needed again. */
static size_t unhex(char *text) {
    size_t length = 0;
    if (strcmp(text, "-") == 0) return 0;
    for (size_t i = 0; text[i] && text[i + 1]; i += 2) {
        char pair[3] = {text[i], text[i + 1], 0};
        text[length++] = (char)strtol(pair, NULL, 16);
    }
    return length;
}

static int flags_of(const char *letters) {
    int flags = O_RDONLY;
    for (; *letters; letters++) {
        switch (*letters) {
        case 'w': flags |= O_WRONLY; break;
        case 'b': flags |= O_RDWR; break;
        case 'c': flags |= O_CREAT; break;
        case 't': flags |= O_TRUNC; break;
        case 'a': flags |= O_APPEND; break;
        case 'x': flags |= O_EXCL; break;
        default: break;
        }
    }
    return flags;
}

/* Gives a new descriptor the number that the script wants. */
static long renumber(int fd, int wanted) {
    if (fd < 0) return -errno;
    if (fd != wanted) {
        if (dup2(fd, wanted) < 0) return -errno;
        close(fd);
    }
    return wanted;
}

struct thread_write {
    int fd;
    off_t offset;
    const char *bytes;
    size_t length;
    long result;
};

static void *write_in_thread(void *argument) {
    struct thread_write *work = argument;
    work->result = pwrite(work->fd, work->bytes, work->length, work->offset);
    if (work->result < 0) work->result = -errno;
    return NULL;
}

static long child_result(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
}

static long lock(int fd, short type, const char *offset, const char *length) {
    struct flock region = {.l_type = type, .l_whence = SEEK_SET, .l_start = atoll(offset), .l_len = atoll(length)};
    return fcntl(fd, F_SETLKW, &region) < 0 ? -errno : 0;
}

static long run(int count, char **word, const char *program, const char *script, long next_line, const char *pause, const char *done) {
    const char *verb = word[0];
    int fd = count > 1 ? atoi(word[1]) : -1;
    long result = -ENOSYS;
    struct iovec parts[2];
#define IS(name, words) (strcmp(verb, name) == 0 && count == (words) + 1)
#define RESULT(call)                       \
    do {                                   \
        long returned = (long)(call);      \
        result = returned < 0 ? -errno : returned; \
    } while (0)
    if (IS("open", 3)) return renumber(open(word[2], flags_of(word[3]), 0644), fd);
    if (IS("openat", 3)) return renumber(openat(AT_FDCWD, word[2], flags_of(word[3]), 0644), fd);
    if (IS("creat", 2)) return renumber(creat(word[2], 0644), fd);
    if (IS("close", 1)) RESULT(close(fd));
    else if (IS("dup", 2)) return renumber(dup(fd), atoi(word[2]));
    else if (IS("dup2", 2)) RESULT(dup2(fd, atoi(word[2])));
    else if (IS("dupfd", 2)) RESULT(fcntl(fd, F_DUPFD, atoi(word[2])));
    else if (IS("lseek", 3))
        RESULT(lseek(fd, atoll(word[2]), strcmp(word[3], "set") == 0 ? SEEK_SET : strcmp(word[3], "cur") == 0 ? SEEK_CUR : SEEK_END));
    else if (IS("write", 2)) {
        size_t length = unhex(word[2]);
        RESULT(write(fd, word[2], length));
    } else if (IS("pwrite", 3)) {
        size_t length = unhex(word[3]);
        RESULT(pwrite(fd, word[3], length, atoll(word[2])));
    } else if (IS("writev", 3)) {
        for (int i = 0; i < 2; i++) parts[i] = (struct iovec){word[2 + i], unhex(word[2 + i])};
        RESULT(writev(fd, parts, 2));
    } else if (IS("pwritev", 4)) {
        for (int i = 0; i < 2; i++) parts[i] = (struct iovec){word[3 + i], unhex(word[3 + i])};
        RESULT(pwritev(fd, parts, 2, atoll(word[2])));
    } else if (IS("ftruncate", 2)) RESULT(ftruncate(fd, atoll(word[2])));
    else if (IS("truncate", 2)) RESULT(truncate(word[1], atoll(word[2])));
    else if (IS("rename", 2)) RESULT(rename(word[1], word[2]));
    else if (IS("unlink", 1)) RESULT(unlink(word[1]));
    else if (IS("fsync", 1)) RESULT(fsync(fd));
    else if (IS("fdatasync", 1)) RESULT(fdatasync(fd));
    else if (IS("lock", 3)) return lock(fd, F_WRLCK, word[2], word[3]);
    else if (IS("unlock", 3)) return lock(fd, F_UNLCK, word[2], word[3]);
    else if (IS("fork", 2)) {
        size_t length = unhex(word[2]);
        pid_t child = fork();
        if (child == 0) _exit(write(fd, word[2], length) == (ssize_t)length ? 0 : 1);
        return child < 0 ? -errno : child_result(child);
    } else if (IS("vfork-exec", 2)) {
        char *arguments[] = {(char *)program, "--write", word[1], word[2], NULL};
        pid_t child;
        int failed = posix_spawn(&child, program, NULL, NULL, arguments, environ);
        return failed ? -failed : child_result(child);
    } else if (IS("thread", 3)) {
        struct thread_write work = {fd, atoll(word[2]), word[3], unhex(word[3]), 0};
        pthread_t thread;
        int failed = pthread_create(&thread, NULL, write_in_thread, &work);
        if (failed) return -failed;
        pthread_join(thread, NULL);
        return work.result;
    } else if (IS("stdio", 4)) {
        FILE *file = fopen(word[1], word[2]);
        if (!file) return -errno;
        for (int i = 3; i < 5; i++) {
            size_t length = unhex(word[i]);
            if (fwrite(word[i], 1, length, file) != length) return -EIO;
            if (i == 3) fflush(file);
        }
        RESULT(fclose(file));
    } else if (IS("exec", 0)) {
        char line[32];
        snprintf(line, sizeof line, "%ld", next_line);
        execl(program, program, script, line, pause, done, (char *)NULL);
        result = -errno;
    }
    return result;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "--write") == 0) {
        size_t length = unhex(argv[3]);
        return write(atoi(argv[2]), argv[3], length) == (ssize_t)length ? 0 : 1;
    }
    if (argc < 2) {
        fprintf(stderr, "usage: file_exerciser SCRIPT [FIRST_LINE [PAUSE_US [DONE]]]\n");
        return 2;
    }
    long first_line = argc > 2 ? atol(argv[2]) : 1, number = 0;
    const char *pause = argc > 3 ? argv[3] : "0", *done = argc > 4 ? argv[4] : NULL;
    int done_fd = done ? open(done, O_WRONLY | O_CREAT | O_CLOEXEC, 0644) : -1;
    /* It was executed to go on with this line, so the one before, which did that, is done. */
    number = first_line - 1;
    if (done && (done_fd < 0 || pwrite(done_fd, &number, sizeof number, 0) != sizeof number)) {
        perror(done);
        return 2;
    }
    number = 0;
    FILE *script = fopen(argv[1], "re");
    static char line[LINE_MAX_BYTES], copy[256];
    if (!script) {
        perror(argv[1]);
        return 2;
    }
    while (fgets(line, sizeof line, script)) {
        if (++number < first_line) continue;
        char *word[WORDS_MAX], *rest = line;
        int count = 0, checked = 0;
        long expected = 0;
        snprintf(copy, sizeof copy, "%.250s", line);
        for (char *token; count < WORDS_MAX && (token = strtok_r(rest, " \n", &rest));) {
            if (strcmp(token, "=") == 0) {
                token = strtok_r(rest, " \n", &rest);
                checked = token != NULL;
                expected = checked ? atol(token) : 0;
                break;
            }
            word[count++] = token;
        }
        if (count == 0) continue;
        long result = run(count, word, argv[0], argv[1], number + 1, pause, done);
        if (checked && result != expected) {
            fprintf(stderr, "line %ld: returned %ld, not %ld: %s\n", number, result, expected, copy);
            return 1;
        }
        if (done && pwrite(done_fd, &number, sizeof number, 0) != sizeof number) {
            perror(done);
            return 2;
        }
        if (atol(pause) > 0) usleep((useconds_t)atol(pause));
    }
    return 0;
}
