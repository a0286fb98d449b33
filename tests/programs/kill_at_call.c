/*
 * Runs a program and kills it (SIGKILL) at a system call of its own, so that a test says where a process dies, and needn't
 * wait for luck.
 *
 *   kill_at_call before|after NUMBER NAME[,NAME...] PART COMMAND...
 *
 * Only calls with one of these names count, and only those whose first argument is a descriptor of a file with PART in its
 * path (`-`: all of them). `before` kills when the NUMBERth one is to be made, `after` when it has been made and the program
 * doesn't know yet. The calls of all threads count; processes that it starts go free. It prints how many calls there were, and ends
 * with 137 when it has killed, with 3 when there were not so many calls and the program ended with 0, and else with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct { const char *name; long number; } CALLS[] = {
    {"write", SYS_write},         {"pwrite64", SYS_pwrite64},   {"writev", SYS_writev},
    {"pwritev", SYS_pwritev},     {"ftruncate", SYS_ftruncate}, {"fallocate", SYS_fallocate},
    {"fsync", SYS_fsync},         {"fdatasync", SYS_fdatasync}, {"unlinkat", SYS_unlinkat},
    {"renameat2", SYS_renameat2}, {"openat", SYS_openat},
#ifdef SYS_unlink
    {"unlink", SYS_unlink},
#endif
#ifdef SYS_rename
    {"rename", SYS_rename},
#endif
#ifdef SYS_renameat
    {"renameat", SYS_renameat},
#endif
};

static long wanted[32];
static int wanted_count;

static int is_wanted(pid_t task, const char *part, const struct __ptrace_syscall_info *call) {
    char name[64], path[4096];
    int found = 0;
    for (int at = 0; at < wanted_count; at++) found |= wanted[at] == (long)call->entry.nr;
    if (!found || !strcmp(part, "-")) return found;
    snprintf(name, sizeof name, "/proc/%d/fd/%d", (int)task, (int)call->entry.args[0]);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

int main(int argc, char **argv) {
    if (argc < 6 || (strcmp(argv[1], "before") && strcmp(argv[1], "after"))) {
        fprintf(stderr, "usage: kill_at_call before|after NUMBER NAME[,NAME...] PART COMMAND...\n");
        return 2;
    }
    int before = !strcmp(argv[1], "before");
    long number = atol(argv[2]), count = 0;
    const char *part = argv[4];
    for (char *name = strtok(argv[3], ","); name; name = strtok(NULL, ","))
        for (size_t at = 0; at < sizeof CALLS / sizeof *CALLS; at++)
            if (!strcmp(name, CALLS[at].name) && wanted_count < 32) wanted[wanted_count++] = CALLS[at].number;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        execvp(argv[5], argv + 5);
        perror(argv[5]);
        _exit(127);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) {
        perror("starting");
        return 1;
    }
    const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC;
    if (ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)options) != 0 || ptrace(PTRACE_SYSCALL, child, NULL, NULL) != 0) {
        perror("tracing");
        return 1;
    }
    pid_t fatal = 0;
    for (;;) {
        pid_t task = waitpid(-1, &status, __WALL);
        if (task < 0) return errno == ECHILD ? 1 : (perror("waitpid"), 1);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (task != child) continue;
            printf("%ld\n", count);
            return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 3 : 1;
        }
        if (!WIFSTOPPED(status)) continue;
        long signal = WSTOPSIG(status);
        if (signal == (SIGTRAP | 0x80)) {
            struct __ptrace_syscall_info call;
            signal = 0;
            if (ptrace(PTRACE_GET_SYSCALL_INFO, task, (void *)sizeof call, &call) > 0) {
                int dies = 0;
                if (call.op == PTRACE_SYSCALL_INFO_ENTRY && fatal == 0 && is_wanted(task, part, &call) && ++count == number) {
                    fatal = task;
                    dies = before;
                } else if (call.op == PTRACE_SYSCALL_INFO_EXIT && task == fatal) {
                    dies = 1;
                }
                if (dies) {
                    kill(child, SIGKILL);
                    while ((task = waitpid(-1, &status, __WALL)) > 0 && !(task == child && WIFSIGNALED(status))) {}
                    printf("%ld\n", count);
                    return 137;
                }
            }
        } else if (status >> 16 || signal == SIGSTOP || signal == SIGTRAP) {
            // An event, a new thread that waits to be let go, or the exec.
            signal = 0;
        }
        ptrace(PTRACE_SYSCALL, task, NULL, (void *)signal);
    }
}
