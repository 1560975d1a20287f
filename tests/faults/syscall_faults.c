/* Faults at the border between a program and its files: loaded before it (LD_PRELOAD), told by the environment.

   EDGE_UNDER    only calls on paths that begin so count
   EDGE_FOLDERS  set: only calls on folders count
   EDGE_CALLS    which calls count: ",open,write," ... (open: to write; look: to read); unset: all
   EDGE_COUNTER  a file of eight bytes, shared by all processes, that counts them
   EDGE_AT       at which of them (from 1) and EDGE_TIMES for how many something happens
   EDGE_DO       what: "signal N" (to itself), "parent N", "group N", "errno N", "short", "sh COMMAND"
   EDGE_LOG      a file that gets a line for each of them: number, call, path, second path
   EDGE_GRAVE    a folder where files that are replaced or deleted stay, by number
   EDGE_RENUMBER a path: files under it have another inode number and time of change at each look
   EDGE_CLOCK    "jump": the clock shows times between 1970 and 2106, at random */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define SHORT (-1)

extern char **environ;
static __thread int inside;

static long next_number(void) {
    int fd = syscall(SYS_openat, AT_FDCWD, getenv("EDGE_COUNTER"), O_RDWR);
    if (fd < 0) return 0;
    int64_t *count = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (count == MAP_FAILED) return 0;
    long number = __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    munmap(count, 8);
    return number;
}

static void note(long number, const char *call, const char *path, const char *second) {
    char line[3 * PATH_MAX];
    int size = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\n", number, call, path, second ? second : "");
    int fd = syscall(SYS_openat, AT_FDCWD, getenv("EDGE_LOG"), O_WRONLY | O_APPEND);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, size);
    syscall(SYS_close, fd);
}

static void bury(long number, const char *path) {
    char grave[PATH_MAX];
    snprintf(grave, sizeof grave, "%s/%ld", getenv("EDGE_GRAVE"), number);
    syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, grave, 0);
}

static void shell(const char *command) {
    char *argv[] = {"sh", "-c", (char *)command, NULL}, *bare[] = {"PATH=/usr/bin:/bin", NULL};
    pid_t pid;
    if (posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, bare) == 0) waitpid(pid, NULL, 0);
}

static int act(const char *what) {
    int number = 0;
    if (sscanf(what, "errno %d", &number) == 1) return number;
    if (sscanf(what, "signal %d", &number) == 1) kill(getpid(), number);
    if (sscanf(what, "parent %d", &number) == 1) kill(getppid(), number);
    if (sscanf(what, "group %d", &number) == 1) kill(-getpgrp(), number);
    if (strncmp(what, "sh ", 3) == 0) shell(what + 3);
    return strcmp(what, "short") == 0 ? SHORT : 0;
}

static int is_folder(const char *path) {
    struct stat found;
    int before = errno, is_one = stat(path, &found) == 0 && S_ISDIR(found.st_mode);
    errno = before;
    return is_one;
}

/* What becomes of a call: 0 (it is done), SHORT (less of it), or the number of an error. */
static int fault(const char *call, const char *path, const char *second) {
    const char *under = getenv("EDGE_UNDER"), *calls = getenv("EDGE_CALLS");
    if (inside || !under || !path || strncmp(path, under, strlen(under)) != 0) return 0;
    char name[32];
    snprintf(name, sizeof name, ",%s,", call);
    if (calls && !strstr(calls, name)) return 0;
    if (getenv("EDGE_FOLDERS") && !is_folder(path)) return 0;
    inside = 1;
    int before = errno, outcome = 0;
    long number = next_number();
    if (getenv("EDGE_LOG")) note(number, call, path, second);
    if (getenv("EDGE_GRAVE") && (second || strcmp(call, "unlink") == 0)) bury(number, second ? second : path);
    long at = getenv("EDGE_AT") ? atol(getenv("EDGE_AT")) : 0, times = getenv("EDGE_TIMES") ? atol(getenv("EDGE_TIMES")) : 1;
    if (at > 0 && number >= at && number < at + times && getenv("EDGE_DO")) outcome = act(getenv("EDGE_DO"));
    errno = before;
    inside = 0;
    return outcome;
}

static int fault_at(const char *call, int fd) {
    char link[64], path[PATH_MAX];
    if (inside || !getenv("EDGE_UNDER")) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = before;
    if (size < 0) return 0;
    path[size] = 0;
    return fault(call, path, NULL);
}

#define REFUSED(outcome) if ((outcome) > 0) { errno = (outcome); return -1; }
#define LESS(outcome, size) ((outcome) == SHORT && (size) > 1 ? (size) / 2 : (size))

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                         \
        int outcome = fault(flags & (O_WRONLY | O_RDWR) ? "open" : "look", path, NULL); \
        REFUSED(outcome)                                                      \
        return NEXT(name)(path, flags, mode);                                 \
    }
OPEN(open)
OPEN(open64)

#define MOVE(name, call, type, bytes)                                    \
    ssize_t name(int fd, type bytes, size_t size) {                           \
        int outcome = fault_at(call, fd);                                     \
        REFUSED(outcome)                                                      \
        return NEXT(name)(fd, bytes, LESS(outcome, size));                    \
    }
MOVE(read, "read", void *, to)
MOVE(write, "write", const void *, from)

#define MOVE_AT(name, call, type)                                             \
    ssize_t name(int fd, type bytes, size_t size, off_t offset) {             \
        int outcome = fault_at(call, fd);                                     \
        REFUSED(outcome)                                                      \
        return NEXT(name)(fd, bytes, LESS(outcome, size), offset);            \
    }
MOVE_AT(pread, "read", void *)
MOVE_AT(pread64, "read", void *)
MOVE_AT(pwrite, "write", const void *)
MOVE_AT(pwrite64, "write", const void *)

#define SYNC(name)                                                            \
    int name(int fd) {                                                        \
        int outcome = fault_at("fsync", fd);                                  \
        REFUSED(outcome)                                                      \
        return NEXT(name)(fd);                                                \
    }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
    int outcome = fault("rename", from, to);
    REFUSED(outcome)
    return NEXT(rename)(from, to);
}

int unlink(const char *path) {
    int outcome = fault("unlink", path, NULL);
    REFUSED(outcome)
    return NEXT(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
    int outcome = fault("mkdir", path, NULL);
    REFUSED(outcome)
    return NEXT(mkdir)(path, mode);
}

static void renumber(const char *path, ino_t *number, struct timespec *changed) {
    static long looks;
    const char *under = getenv("EDGE_RENUMBER");
    if (!under || !path || strncmp(path, under, strlen(under)) != 0) return;
    long by = __atomic_add_fetch(&looks, 1, __ATOMIC_SEQ_CST) + 1000L * getpid();
    *number += by;
    changed->tv_sec += by;
}

static void renumber_open(int fd, ino_t *number, struct timespec *changed) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = getenv("EDGE_RENUMBER") ? readlink(link, path, sizeof path - 1) : -1;
    if (size < 0) return;
    path[size] = 0;
    renumber(path, number, changed);
}

#define LOOKS(kind, stat_name, fstat_name, fstatat_name)                      \
    int stat_name(const char *restrict path, struct kind *restrict found) {   \
        int outcome = NEXT(stat_name)(path, found);                           \
        if (outcome == 0 && S_ISREG(found->st_mode)) renumber(path, &found->st_ino, &found->st_ctim); \
        return outcome;                                                       \
    }                                                                         \
    int fstat_name(int fd, struct kind *found) {                              \
        int outcome = NEXT(fstat_name)(fd, found);                            \
        if (outcome == 0 && S_ISREG(found->st_mode)) renumber_open(fd, &found->st_ino, &found->st_ctim); \
        return outcome;                                                       \
    }                                                                         \
    int fstatat_name(int fd, const char *restrict path, struct kind *restrict found, int flags) { \
        int outcome = NEXT(fstatat_name)(fd, path, found, flags);             \
        if (outcome == 0 && S_ISREG(found->st_mode)) renumber(path, &found->st_ino, &found->st_ctim); \
        return outcome;                                                       \
    }
LOOKS(stat, stat, fstat, fstatat)
LOOKS(stat64, stat64, fstat64, fstatat64)

static void jumped(struct timespec *at) {
    static __thread unsigned seed = 1;
    if (getenv("EDGE_CLOCK")) at->tv_sec = (time_t)(4294967295.0 * (rand_r(&seed) / (RAND_MAX + 1.0)));
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int outcome = syscall(SYS_clock_gettime, clock, at);
    if (outcome == 0 && clock == CLOCK_REALTIME) jumped(at);
    return outcome;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
