/* A disk that can be watched and broken: preloaded into the real program (LD_PRELOAD), it stands between the program and the C library.
 *
 * It traces every change below one folder, with the times at which each call began and returned, so that a test can work out what a
 * disk may hold when the power goes at any moment. And it breaks calls while switch files say so: no space, failing syncs, short writes.
 * It does not keep anything back itself: what is unsynced is decided afterwards, from the trace.
 *
 * Environment
 *   SHIM_UNDER     the folder that is watched, an absolute path without links
 *   SHIM_TRACE     the file that the trace is appended to; none without it
 *   SHIM_SWITCHES  a folder of switch files, looked at before each call:
 *     full         no file may grow any more (ENOSPC)
 *     space        its content is how many bytes are free, as statvfs tells it
 *     sync-fails   its content is `COUNT SUFFIX`: that many fsyncs of files whose path ends in SUFFIX fail with EIO
 *     short-write  its content is `COUNT SUFFIX`: that many writes give back half of what they were asked for
 *
 * One entry of the trace, little endian, packed (struct head), then the path, then the bytes written.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN = 1, WRITE, SYNC, TRUNCATE, UNLINK, RENAME, MKDIR, RMDIR, SYNC_FAILED };

struct __attribute__((packed)) head {
    uint8_t kind;
    uint64_t began_ns, ended_ns; /* CLOCK_REALTIME, to be compared with the journals of others */
    uint64_t inode;
    uint64_t offset;             /* WRITE: where; TRUNCATE: the new length; OPEN: 1 if the file was emptied */
    uint32_t path_length;        /* RENAME: both paths, with a zero byte between them */
    uint32_t data_length;
};

#define FILES_MAX 65536

static struct {
    char *path; /* of a watched file that is open, else null */
    uint64_t inode;
} files[FILES_MAX];

static char under[PATH_MAX], switches[PATH_MAX];
static int trace = -1;
static pthread_mutex_t tracing = PTHREAD_MUTEX_INITIALIZER;
static int syncs_failed, writes_cut;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void begin(void) {
    const char *value = getenv("SHIM_UNDER");
    if (value) snprintf(under, sizeof under, "%s", value);
    value = getenv("SHIM_SWITCHES");
    if (value) snprintf(switches, sizeof switches, "%s", value);
    value = getenv("SHIM_TRACE");
    if (value) trace = (int)syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The absolute path below the watched folder, or null. */
static const char *watched(const char *path, char *buffer) {
    if (!under[0] || !path) return NULL;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return NULL;
        while (path[0] == '.' && path[1] == '/') path += 2;
        if (snprintf(buffer, PATH_MAX, strcmp(path, ".") ? "%s/%s" : "%s", here, path) >= PATH_MAX) return NULL;
    } else {
        snprintf(buffer, PATH_MAX, "%s", path);
    }
    size_t length = strlen(under);
    if (strncmp(buffer, under, length) || (buffer[length] && buffer[length] != '/')) return NULL;
    size_t end = strlen(buffer);
    while (end > length && (buffer[end - 1] == '/' || (buffer[end - 1] == '.' && buffer[end - 2] == '/'))) buffer[--end] = 0;
    return buffer;
}

static void note(enum kind kind, uint64_t began, uint64_t inode, uint64_t offset, const char *path, size_t path_length, const void *data,
                 size_t length) {
    if (trace < 0) return;
    struct head head = {kind, began, now_ns(), inode, offset, (uint32_t)path_length, (uint32_t)length};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)path, path_length}, {(void *)data, length}};
    int kept = errno;
    pthread_mutex_lock(&tracing);
    size_t all = sizeof head + path_length + length;
    if (syscall(SYS_writev, trace, parts, 3) != (long)all) abort(); /* a trace with a hole proves nothing */
    pthread_mutex_unlock(&tracing);
    errno = kept;
}

static void note_path(enum kind kind, uint64_t began, const char *path) { note(kind, began, 0, 0, path, strlen(path), NULL, 0); }

/* Whether a switch is on: its content, at most 127 characters. */
static int on(const char *name, char *content) {
    if (!switches[0]) return 0;
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/%s", switches, name);
    int kept = errno, file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (file >= 0) {
        long length = syscall(SYS_read, file, content, 127);
        content[length > 0 ? length : 0] = 0;
        syscall(SYS_close, file);
    }
    errno = kept;
    return file >= 0;
}

/* Whether a counted switch strikes this path now. */
static int strikes(const char *name, const char *path, int *done) {
    char content[128], suffix[128] = "";
    int count = 0;
    if (!path || !on(name, content) || sscanf(content, "%d %127s", &count, suffix) < 1) return 0;
    size_t length = strlen(path), end = strlen(suffix);
    if (length < end || strcmp(path + length - end, suffix)) return 0;
    return __atomic_fetch_add(done, 1, __ATOMIC_SEQ_CST) < count;
}

static const char *path_of(int file) { return file >= 0 && file < FILES_MAX ? files[file].path : NULL; }

/* How much of a write fits on a full disk: what the file has already, or -1 for nothing. */
static ssize_t fitting(int file, size_t length, uint64_t offset) {
    char content[128];
    struct stat stat;
    if (!on("full", content) || fstat(file, &stat) || offset + length <= (uint64_t)stat.st_size) return (ssize_t)length;
    if (offset >= (uint64_t)stat.st_size) {
        errno = ENOSPC;
        return -1;
    }
    return (ssize_t)((uint64_t)stat.st_size - offset);
}

static int opened(int file, int flags, uint64_t began, const char *path) {
    if (file < 0 || file >= FILES_MAX || !path) return file;
    struct stat stat;
    if (fstat(file, &stat)) return file;
    files[file].inode = stat.st_ino;
    free(files[file].path);
    files[file].path = strdup(path);
    if (S_ISREG(stat.st_mode)) note(OPEN, began, stat.st_ino, (flags & O_TRUNC) != 0, path, strlen(path), NULL, 0);
    return file;
}

#define OPENING(call)                                       \
    mode_t mode = 0;                                        \
    if (flags & (O_CREAT | __O_TMPFILE)) {                  \
        va_list rest;                                       \
        va_start(rest, flags);                              \
        mode = va_arg(rest, mode_t);                        \
        va_end(rest);                                       \
    }                                                       \
    char buffer[PATH_MAX], content[128];                    \
    const char *below = watched(path, buffer);              \
    if (below && (flags & O_CREAT) && access(path, F_OK) && on("full", content)) { \
        errno = ENOSPC;                                     \
        return -1;                                          \
    }                                                       \
    uint64_t began = now_ns();                              \
    return opened(call, flags, began, below);

int open(const char *path, int flags, ...) { OPENING(REAL(open)(path, flags, mode)) }
int open64(const char *path, int flags, ...) { OPENING(REAL(open64)(path, flags, mode)) }

int openat(int folder, const char *path, int flags, ...) {
    if (folder != AT_FDCWD && path[0] != '/') {
        mode_t mode = 0;
        va_list rest;
        va_start(rest, flags);
        if (flags & (O_CREAT | __O_TMPFILE)) mode = va_arg(rest, mode_t);
        va_end(rest);
        return REAL(openat)(folder, path, flags, mode);
    }
    OPENING(REAL(openat)(folder, path, flags, mode))
}

int close(int file) {
    if (file >= 0 && file < FILES_MAX && files[file].path) {
        free(files[file].path);
        files[file].path = NULL;
    }
    return REAL(close)(file);
}

static ssize_t written(ssize_t done, int file, uint64_t began, uint64_t offset, const void *data) {
    if (done > 0) note(WRITE, began, files[file].inode, offset, NULL, 0, data, (size_t)done);
    return done;
}

static ssize_t write_at(int file, const void *data, size_t length, off64_t offset) {
    ssize_t fits = fitting(file, length, (uint64_t)offset);
    if (fits < 0) return -1;
    if (fits > 1 && strikes("short-write", files[file].path, &writes_cut)) fits /= 2;
    uint64_t began = now_ns();
    return written(REAL(pwrite64)(file, data, (size_t)fits, offset), file, began, (uint64_t)offset, data);
}

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) {
    return path_of(file) ? write_at(file, data, length, offset) : REAL(pwrite)(file, data, length, offset);
}

ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset) {
    return path_of(file) ? write_at(file, data, length, offset) : REAL(pwrite64)(file, data, length, offset);
}

ssize_t write(int file, const void *data, size_t length) {
    if (!path_of(file)) return REAL(write)(file, data, length);
    int appends = fcntl(file, F_GETFL) & O_APPEND;
    off_t offset = lseek(file, 0, appends ? SEEK_END : SEEK_CUR);
    ssize_t fits = fitting(file, length, (uint64_t)offset);
    if (fits < 0) return -1;
    if (fits > 1 && strikes("short-write", files[file].path, &writes_cut)) fits /= 2;
    uint64_t began = now_ns();
    return written(REAL(write)(file, data, (size_t)fits), file, began, (uint64_t)offset, data);
}

/* Rust writes several slices this way; one at a time is allowed, and enough. */
ssize_t writev(int file, const struct iovec *parts, int count) {
    if (!path_of(file)) return REAL(writev)(file, parts, count);
    for (int at = 0; at < count; at++)
        if (parts[at].iov_len) return write(file, parts[at].iov_base, parts[at].iov_len);
    return 0;
}

static int synced(int (*sync)(int), int file) {
    uint64_t began = now_ns();
    if (strikes("sync-fails", path_of(file), &syncs_failed)) {
        note(SYNC_FAILED, began, files[file].inode, 0, files[file].path, strlen(files[file].path), NULL, 0);
        errno = EIO;
        return -1;
    }
    int done = sync(file);
    const char *path = path_of(file);
    if (path && !done) note(SYNC, began, files[file].inode, 0, path, strlen(path), NULL, 0);
    return done;
}

int fsync(int file) { return synced(REAL(fsync), file); }
int fdatasync(int file) { return synced(REAL(fdatasync), file); }

int ftruncate64(int file, off64_t length) {
    const char *path = path_of(file);
    struct stat stat;
    char content[128];
    if (path && on("full", content) && !fstat(file, &stat) && length > stat.st_size) {
        errno = ENOSPC;
        return -1;
    }
    uint64_t began = now_ns();
    int done = REAL(ftruncate64)(file, length);
    if (path && !done) note(TRUNCATE, began, files[file].inode, (uint64_t)length, NULL, 0, NULL, 0);
    return done;
}
int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

static int removed(int done, enum kind kind, uint64_t began, const char *path) {
    char buffer[PATH_MAX];
    const char *below = watched(path, buffer);
    if (below && !done) note_path(kind, began, below);
    return done;
}

int unlink(const char *path) {
    uint64_t began = now_ns();
    return removed(REAL(unlink)(path), UNLINK, began, path);
}
int rmdir(const char *path) {
    uint64_t began = now_ns();
    return removed(REAL(rmdir)(path), RMDIR, began, path);
}
int mkdir(const char *path, mode_t mode) {
    uint64_t began = now_ns();
    return removed(REAL(mkdir)(path, mode), MKDIR, began, path);
}

int rename(const char *from, const char *to) {
    char first[PATH_MAX], both[2 * PATH_MAX + 1];
    const char *below = watched(from, first);
    uint64_t began = now_ns();
    int done = REAL(rename)(from, to);
    if (below && !done) {
        char second[PATH_MAX];
        const char *target = watched(to, second);
        int length = snprintf(both, sizeof both, "%s%c%s", below, 0, target ? target : to);
        note(RENAME, began, 0, 0, both, (size_t)length, NULL, 0);
    }
    return done;
}

int openat64(int folder, const char *path, int flags, ...) __attribute__((alias("openat")));

/* How much is free, as far as the switch says. */
int statvfs64(const char *path, struct statvfs64 *found) {
    char content[128], buffer[PATH_MAX];
    int done = REAL(statvfs64)(path, found);
    if (!done && watched(path, buffer) && on("space", content)) found->f_bavail = strtoull(content, NULL, 10) / found->f_frsize;
    return done;
}
int statvfs(const char *path, struct statvfs *found) {
    char content[128], buffer[PATH_MAX];
    int done = REAL(statvfs)(path, found);
    if (!done && watched(path, buffer) && on("space", content)) found->f_bavail = strtoull(content, NULL, 10) / found->f_frsize;
    return done;
}
